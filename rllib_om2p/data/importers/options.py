"""Options of an import: typed, validated once, and refused by sources that have no use for them.

Knows argparse for the command line and nothing of the formats.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rllib_om2p.data.schema import DataError
from rllib_om2p.team_return import TEAM_RETURNS, TeamReturn

AtLimit = Literal["truncated", "terminated"]
ActionUnits = Literal["normalised", "environment"]

# Every source understands these.
COMMON = ("env", "quality", "dataset_id", "agents", "time_limit", "team_return", "clip_actions")


def _option(text: str, **settings: Any) -> Any:
    return field(default=None, metadata={"help": text, **settings})


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the files do not say themselves; None leaves it to the files and what is known.

    Raises:
        DataError: A value is out of range; the text names the option.
    """

    env: str | None = _option(
        "our environment, such as mpe/simple_tag; by default recognised from the path; 'none'"
    )
    quality: str | None = _option("such as medium; by default recognised from the path")
    dataset_id: str | None = _option("the dataset's name; by default ENV/QUALITY or the path's")
    agents: tuple[str, ...] | None = _option(
        "agents to keep, in this order, by name or number;\nby default all, or without the prey",
        nargs="+",
    )
    time_limit: int | None = _option(
        "steps after which the environment stopped an episode;\nby default known from the env",
        type=int,
        metavar="STEPS",
    )
    team_return: TeamReturn | None = _option(
        "how rewards form the team's return; by default that of the env", choices=TEAM_RETURNS
    )
    clip_actions: bool = field(
        default=False, metadata={"help": "clip actions to their box in place of an error"}
    )
    at_limit: AtLimit | None = _option(
        "what an end at the time limit is: truncated (default) or, as\n"
        "some original loaders have it, terminated (not bootstrapped)",
        choices=get_args(AtLimit),
    )
    obs_dims: tuple[int, ...] | None = _option(
        "observation lengths of the recorded agents, without padding", type=int, nargs="+"
    )
    action_low: float | None = _option("lower end of the action box (-1)", type=float)
    action_high: float | None = _option("upper end of the action box (1)", type=float)
    action_units: ActionUnits | None = _option(
        "whether RLlib stored actions normalised to [-1, 1] (normalize_actions=True) or as the\n"
        "environment takes them; by default told from their range",
        choices=get_args(ActionUnits),
    )
    num_actions: int | None = _option("number of discrete actions", type=int, metavar="N")
    actuators: tuple[int, ...] | None = _option(
        "place in our team's joint action of each recorded action feature\n"
        "(OMIGA's Ant by default 6 7 0 1 2 3 4 5)",
        type=int,
        nargs="+",
    )

    def __post_init__(self) -> None:
        for name in ("agents", "obs_dims", "actuators"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        if self.time_limit is not None and self.time_limit < 1:
            raise DataError(f"--time-limit must be at least 1 step, got {self.time_limit}.")
        if self.num_actions is not None and self.num_actions < 2:
            raise DataError(f"--num-actions must be at least 2, got {self.num_actions}.")
        if self.obs_dims is not None and min(self.obs_dims) < 1:
            raise DataError(f"--obs-dims must be positive lengths, got {list(self.obs_dims)}.")
        if not self.low < self.high:
            raise DataError(
                f"--action-low must lie below --action-high, got {self.low, self.high}."
            )
        if self.agents is not None and len(set(self.agents)) < len(self.agents):
            raise DataError(f"--agents must name each agent once, got {list(self.agents)}.")
        if self.actuators is not None and sorted(self.actuators) != [*range(len(self.actuators))]:
            raise DataError(
                "--actuators must be an order of 0 .. number of action features - 1, got "
                f"{list(self.actuators)}."
            )
        for name, known in (
            ("team_return", TEAM_RETURNS),
            ("at_limit", get_args(AtLimit)),
            ("action_units", get_args(ActionUnits)),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise DataError(
                    f"--{name.replace('_', '-')} must be one of {known}, got {value!r}."
                )

    @property
    def low(self) -> float:
        """Lower end of the action box where the files say none."""
        return -1.0 if self.action_low is None else self.action_low

    @property
    def high(self) -> float:
        """Upper end of the action box where the files say none."""
        return 1.0 if self.action_high is None else self.action_high

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != item.default
        }

    def check_used(self, source: str, known: Collection[str]) -> None:
        """Refuse options that a source would ignore.

        Raises:
            DataError: An option is set that `source` has no use for.
        """
        unused = [name for name in self.given() if name not in COMMON and name not in known]
        if unused:
            flags = [f"--{name.replace('_', '-')}" for name in unused]
            raise DataError(f"{source} has no use for {' and '.join(flags)}; leave it out.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command every option."""
    for item in dataclasses.fields(ImportOptions):
        settings = dict(item.metadata)
        if item.default is False:
            settings["action"] = "store_true"
        elif "choices" not in settings:
            settings.setdefault("metavar", item.name.rpartition("_")[2].upper())
        parser.add_argument(f"--{item.name.replace('_', '-')}", **settings)


def from_arguments(parsed: argparse.Namespace) -> ImportOptions:
    """Return the options that a command was given."""
    names = [item.name for item in dataclasses.fields(ImportOptions)]
    return ImportOptions(**{name: getattr(parsed, name) for name in names})
