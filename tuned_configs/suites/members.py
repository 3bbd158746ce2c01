"""The methods that are compared, and the candidates of the search for each.

Every method with something to choose has equally many candidates (`tuned_configs.search_spaces`).
The search (suite "search") tries them on Cooperative Navigation only, one seed per quality of data;
`choices.json` holds what it chose, and a method that was not searched yet keeps its first one,
which is its paper's value or ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rllib_om2p.benchmark.suite import Method
from tuned_configs.search_spaces import SEARCH_SPACES
from tuned_configs.suites.choices import read_choices


class Member(NamedTuple):
    """A method before its hyperparameters are chosen.

    Attributes:
        name: In the tables.
        algorithm: Of ALGORITHMS.
        settings: Fixed.
    """

    name: str
    algorithm: str
    settings: Mapping[str, Any]

    @property
    def candidates(self) -> Sequence[Mapping[str, Any]]:
        """Settings that the search tries, the default first."""
        return SEARCH_SPACES[self.name]

    @property
    def first(self) -> dict[str, Any]:
        """All settings with those of the first candidate."""
        return {**self.settings, **self.candidates[0]}


# Of each of three proposals; 12 in all, where OMAR's code for these tasks draws 10. With 10 of each
# a run would take several times as long.
_FEW_SAMPLES = {"num_sampled_actions": 4}
# Half of the default, and half of its time.
_FEW_CANDIDATES = {"num_candidates": 8}

MEMBERS = (
    Member("BC", "BC", {"policy": "deterministic"}),
    Member("BC-gaussian", "BC", {"policy": "gaussian"}),
    Member("BC-flow", "BC", {"policy": "flow"}),
    Member("BC-mean-flow", "BC", {"policy": "mean_flow"}),
    Member("MA-TD3+BC", "MATD3BC", {}),
    Member("MA-TD3+BC-VDN", "MATD3BC", {"critic": "vdn"}),
    Member("MA-CQL", "MACQL", _FEW_SAMPLES),
    Member("OMAR", "OMAR", _FEW_SAMPLES),
    Member("MA-FQL", "MAFQL", {}),
    Member("MA-FQL-VDN", "MAFQL", {"critic": "vdn"}),
    Member("MA-FQL-conservative-VDN", "MAFQL", {"critic": "vdn", **_FEW_SAMPLES}),
    Member("MA-SfBC", "MASfBC", _FEW_CANDIDATES),
    Member("MAC-Flow", "MACFlow", {}),
    Member("VGM2P", "VGM2P", {}),
    Member("VGM2P-good-only", "VGM2P", {"guide_others": False}),
    Member("OM2P", "OM2P", {"critic": "own"}),
    Member("OM2P-VDN", "OM2P", {"critic": "vdn"}),
    Member("OM2P-path", "OM2P", {"critic": "own", "value_from": "path"}),
    Member("OM2P-path-VDN", "OM2P", {"critic": "vdn", "value_from": "path"}),
    Member("OM2P-weighted", "OM2P", {"critic": "own", "value_from": "path"}),
    Member("OM2P-weighted-VDN", "OM2P", {"critic": "vdn", "value_from": "path"}),
    Member(
        "OM2P-conservative-VDN", "OM2P", {"critic": "vdn", "value_from": "path", **_FEW_SAMPLES}
    ),
)


def chosen_methods(names: Sequence[str] | None = None) -> list[Method]:
    """Return the methods with the settings that the search chose, by quality of the data.

    Args:
        names: Only these; all if None.
    """
    choices = read_choices()
    return [
        Method(
            member.name,
            member.algorithm,
            member.first,
            choices.get(member.name, {}),
        )
        for member in MEMBERS
        if names is None or member.name in names
    ]


def candidate_methods() -> list[Method]:
    """Return one method for each candidate of those that have several, "NAME=1", "NAME=2", ..."""
    return [
        Method(f"{member.name}={number}", member.algorithm, {**member.settings, **candidate})
        for member in MEMBERS
        if len(member.candidates) > 1
        for number, candidate in enumerate(member.candidates, start=1)
    ]
