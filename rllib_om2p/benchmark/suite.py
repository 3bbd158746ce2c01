"""A comparison as data: which methods, datasets, seeds and updates; nothing is run here.

A suite is a function without arguments, `suite`, in a Python file, or a name that the repository's
`tuned_configs.suites.SUITES` holds. Settings are those of `rllib-om2p train --set`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Settings = Mapping[str, Any]

SUITES_MODULE = "tuned_configs.suites"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        name: Shown, and part of file names: letters, digits and `._+=-`.
        algorithm: Of `rllib_om2p.algorithms.ALGORITHMS`.
        settings: On top of those of the suite and the task; the algorithm must know each.
        by_quality: The same for the datasets of a quality, on top of `settings`.
    """

    name: str
    algorithm: str
    settings: Settings = field(default_factory=dict)
    by_quality: Mapping[str, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One environment: its datasets, how teams are scored in it, and what it asks for.

    Attributes:
        env: A name of `rllib_om2p.envs`.
        qualities: Its datasets are those at DATA/env/quality.
        episodes: Of the score after the last update; 0 for none, and no samples of actions.
        curve_episodes: Of each point of the learning curve; 0 leaves the curve out.
        settings: For every method that has them, on top of the suite's.
    """

    env: str
    qualities: Sequence[str]
    episodes: int
    curve_episodes: int
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A comparison on equal footing: same data, settings, updates and start states for all methods.

    Attributes:
        name: Folder of the results.
        title: One line for the report.
        methods: In the order of the tables.
        tasks: Environments and their datasets.
        seeds: Of the training runs.
        num_updates: Gradient updates of every run.
        num_points: Points of the learning curve; divides `num_updates`.
        settings: For every method that has them, such as the networks' sizes.
        first_seed: Start states of the score are those of first_seed, first_seed + 1, ...
        curve_seed: The same for the learning curve.
        gpus_per_cell: What one training run takes of a GPU; 0 trains on one CPU core.
        fresh_process: Every run in a process of its own, so that its memory is its own; costs
            some seconds each.
        torch_compile: Compile the losses. That changes rounding and time but not what is learnt, so
            it is no part of what a run is: results made with and without it stand side by side.
    """

    name: str
    title: str
    methods: Sequence[Method]
    tasks: Sequence[Task]
    seeds: Sequence[int]
    num_updates: int
    num_points: int
    settings: Settings = field(default_factory=dict)
    first_seed: int = 1_000_000
    curve_seed: int = 2_000_000
    gpus_per_cell: float = 0.0
    fresh_process: bool = False
    torch_compile: bool = False

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        for name in [self.name, *names]:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(
                    f"suite {self.name!r}: {name!r} becomes a file name; use letters, digits and "
                    "._+=- only."
                )
        for kind, values in (
            ("method", names),
            ("environment", [task.env for task in self.tasks]),
            ("seed", list(self.seeds)),
        ):
            if not values or len(set(values)) != len(values):
                raise ValueError(
                    f"suite {self.name!r} needs at least one {kind}, each once, got {values}."
                )
        if self.num_points < 1 or self.num_updates % self.num_points:
            raise ValueError(
                f"suite {self.name!r}: num_updates={self.num_updates} does not divide into "
                f"num_points={self.num_points} equal parts."
            )

    @property
    def datasets(self) -> list[str]:
        """Names of all datasets, "ENV/QUALITY", in order."""
        return [f"{task.env}/{quality}" for task in self.tasks for quality in task.qualities]


def load_suite(name: str) -> Suite:
    """Return the suite of a name or of a Python file.

    Raises:
        ValueError: No such suite or file, or the file does not define one.
    """
    if name.endswith(".py"):
        return _checked(_suite_function(Path(name).expanduser())(), name)
    suites = _named_suites()
    if name not in suites:
        known = (
            f"known are {sorted(suites)}"
            if suites
            else (
                "named suites stand in the repository (tuned_configs/suites); run this in its root"
            )
        )
        raise ValueError(f"there is no suite {name!r}: {known}; or give a Python FILE.py.")
    return _checked(suites[name](), name)


def _named_suites() -> Mapping[str, Callable[[], Suite]]:
    # A console script, unlike `python -m`, does not look into the working directory.
    if importlib.util.find_spec(SUITES_MODULE.split(".")[0]) is None:
        if not Path(*SUITES_MODULE.split(".")).is_dir():
            return {}
        sys.path.append(str(Path.cwd()))
    suites: Mapping[str, Callable[[], Suite]] = importlib.import_module(SUITES_MODULE).SUITES
    return suites


def _suite_function(file: Path) -> Callable[[], Suite]:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"there is no file {str(file)!r}; give a suite's name or its Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, "suite", None)
    if not callable(function):
        raise ValueError(f"{str(file)!r} must define a function suite() that returns a Suite.")
    found: Callable[[], Suite] = function
    return found


def _checked(suite: Any, name: str) -> Suite:
    if not isinstance(suite, Suite):
        raise ValueError(f"suite() of {name!r} must return a Suite, got {type(suite).__name__}.")
    return suite
