"""The training runs of a suite: what each needs, where its result lies, which are still to do.

A cell is one method on one dataset with one seed. Its result is one JSON file, written whole or not
at all, so that a killed benchmark goes on with what is missing. Nothing is trained here.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rllib_om2p.benchmark.suite import Method, Suite, Task
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.settings import apply_settings, setting_methods
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.disk import local_path, write_text_whole
from rllib_om2p.envs import registry
from rllib_om2p.evaluation.records import SUITE_FILE, read_record

ConfigClasses = Mapping[str, tuple[type, type[OfflineConfig]]]
"""Algorithm and config by name, as `rllib_om2p.algorithms.ALGORITHMS`."""


@dataclass(frozen=True)
class Cell:
    """One training run; plain values, so that it travels to a worker and into a record.

    Attributes:
        suite: Name of the suite.
        method: Name of the method.
        algorithm: Of ALGORITHMS.
        dataset: "ENV/QUALITY".
        env: The environment that scores it.
        quality: The rest of the dataset's name.
        input_: Where the dataset lies.
        fingerprint: Of the dataset's content.
        seed: Of the training run.
        settings: All that differs from the algorithm's defaults.
        num_updates: As in the suite.
        num_points: As in the suite.
        episodes: As in the task.
        curve_episodes: As in the task.
        first_seed: As in the suite.
        curve_seed: As in the suite.
        gpus: As the suite's `gpus_per_cell`.
        fresh_process: As in the suite.
        torch_compile: As in the suite.
        keep_actions: Whether samples of the policy's actions are kept beside the result.
    """

    suite: str
    method: str
    algorithm: str
    dataset: str
    env: str
    quality: str
    input_: str
    fingerprint: str
    seed: int
    settings: dict[str, Any]
    num_updates: int
    num_points: int
    episodes: int
    curve_episodes: int
    first_seed: int
    curve_seed: int
    gpus: float
    fresh_process: bool
    torch_compile: bool
    keep_actions: bool

    @property
    def name(self) -> str:
        """File name of the result, without its ending."""
        return f"{self.dataset.replace('/', '-')}-{self.method}-{self.seed}"

    def identity(self) -> dict[str, Any]:
        """Return what another result must agree with to be this cell's, as JSON reads it back."""
        left_out = ("input_", "gpus", "fresh_process", "torch_compile", "keep_actions")
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain


class Choice:
    """Which part of a suite to run; everything if nothing is chosen.

    Args:
        only: Names of methods or of algorithms.
        datasets: Names of datasets, or patterns such as "mpe/*/medium".
        seeds: Seeds of the suite.
    """

    def __init__(
        self,
        only: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        self._only, self._datasets, self._seeds = only, datasets, seeds

    def methods(self, suite: Suite) -> list[Method]:
        """Return the chosen methods.

        Raises:
            ValueError: A name is neither a method's nor an algorithm's.
        """
        known = [name for method in suite.methods for name in (method.name, method.algorithm)]
        _refuse("--only", [name for name in self._only or () if name not in known], known, suite)
        wanted = self._only
        return [
            m for m in suite.methods if wanted is None or m.name in wanted or m.algorithm in wanted
        ]

    def datasets(self, suite: Suite) -> list[tuple[Task, str]]:
        """Return the chosen datasets as pairs of task and quality.

        Raises:
            ValueError: A pattern fits none.
        """
        patterns = self._datasets
        unknown = [p for p in patterns or () if not fnmatch.filter(suite.datasets, p)]
        _refuse("--datasets", unknown, suite.datasets, suite)
        return [
            (task, quality)
            for task in suite.tasks
            for quality in task.qualities
            if patterns is None
            or any(fnmatch.fnmatchcase(f"{task.env}/{quality}", pattern) for pattern in patterns)
        ]

    def seeds(self, suite: Suite) -> list[int]:
        """Return the chosen seeds.

        Raises:
            ValueError: The suite has not all of them; more would not be a comparison of equals.
        """
        unknown = [seed for seed in self._seeds or () if seed not in suite.seeds]
        _refuse("--seeds", unknown, suite.seeds, suite)
        return [seed for seed in suite.seeds if self._seeds is None or seed in self._seeds]


def make_cells(
    suite: Suite, data: str | Path, algorithms: ConfigClasses, choice: Choice | None = None
) -> list[Cell]:
    """Return the cells of a suite, seed by seed, then dataset by dataset.

    Args:
        suite: What to compare.
        data: Folder with the datasets at ENV/QUALITY.
        algorithms: Algorithms and their configs by name.
        choice: A part of the suite.

    Raises:
        ValueError: An algorithm, setting or dataset is unknown, or a method's settings have no
            meaning together; the text says which.
    """
    choice, data = choice or Choice(), local_path(data)
    methods, datasets = choice.methods(suite), choice.datasets(suite)
    absent = sorted({m.algorithm for m in methods} - set(algorithms))
    if absent:
        chosen = [m.name for m in methods if m.algorithm in algorithms]
        raise ValueError(
            f"suite {suite.name!r} names algorithms that are not there: {absent}; there are "
            f"{sorted(algorithms)}. Run the others with --only {' '.join(chosen)}."
        )
    configs = {method.name: algorithms[method.algorithm][1]() for method in methods}
    _require_shared_settings_known(suite, algorithms)
    opened = {f"{task.env}/{quality}": _open(data, task.env, quality) for task, quality in datasets}
    settings = {
        (task.env, quality, method.name): settings_of(
            suite, task, method, quality, configs[method.name]
        )
        for task, quality in datasets
        for method in methods
    }
    _validate(settings, configs, data)
    return [
        Cell(
            suite=suite.name,
            method=method.name,
            algorithm=method.algorithm,
            dataset=f"{task.env}/{quality}",
            env=task.env,
            quality=quality,
            input_=str((data / task.env / quality).resolve()),
            fingerprint=opened[f"{task.env}/{quality}"].fingerprint,
            seed=seed,
            settings=settings[task.env, quality, method.name],
            num_updates=suite.num_updates,
            num_points=suite.num_points,
            episodes=task.episodes,
            curve_episodes=task.curve_episodes,
            first_seed=suite.first_seed,
            curve_seed=suite.curve_seed,
            gpus=suite.gpus_per_cell,
            fresh_process=suite.fresh_process,
            torch_compile=suite.torch_compile,
            keep_actions=seed == suite.seeds[0],
        )
        for seed in choice.seeds(suite)
        for task, quality in datasets
        for method in methods
    ]


def missing(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Return the cells that have no result in a folder.

    Raises:
        ValueError: A result there is damaged, or was made with other settings or data.
    """
    todo = []
    for cell in cells:
        file = result_file(folder, cell)
        if not file.exists():
            todo.append(cell)
            continue
        found, wanted = read_record(file).get("cell", {}), cell.identity()
        require_same(file, found, wanted)
    return todo


def require_same(file: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a result was made with the values of today; older ones may have had more names.

    Raises:
        ValueError: It was not; the text says which differ, and what to do.
    """
    changed = [name for name in now if then.get(name) != now[name]]
    if changed:
        values = ", ".join(f"{n} {then.get(n)} (now {now[n]})" for n in changed)
        raise ValueError(
            f"{file} was made otherwise: {values}. Move it away to make it again, or write to "
            "another --out."
        )


def result_file(folder: Path, cell: Cell) -> Path:
    """Return where a cell's result lies."""
    return folder / f"{cell.name}.json"


def failure_file(folder: Path, cell: Cell) -> Path:
    """Return where the error of a cell that failed lies."""
    return folder / f"{cell.name}.failed"


def write_json(file: Path, record: Mapping[str, Any]) -> None:
    """Write a record so that a reader, or a killed run, never leaves half of one.

    One line per key: long lists of numbers stay on one line.
    """
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    write_text_whole(file, "{\n" + lines + "\n}\n")


def write_plan(folder: Path, suite: Suite) -> None:
    """Write what the whole suite is, for the report beside its results."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {
        "name": suite.name,
        "title": suite.title,
        "methods": [method.name for method in suite.methods],
        "datasets": suite.datasets,
        "seeds": list(suite.seeds),
        "num_runs": len(suite.methods) * len(suite.datasets) * len(suite.seeds),
    }
    write_json(folder / SUITE_FILE, plan)


def _refuse(option: str, unknown: Sequence[Any], known: Sequence[Any], suite: Suite) -> None:
    if unknown:
        known = list(dict.fromkeys(known))
        raise ValueError(f"{option}: suite {suite.name!r} has no {unknown}; it has {known}.")


def _open(data: Path, env: str, quality: str) -> OfflineDataset:
    folder = data / env / quality
    if not folder.is_dir():
        raise ValueError(
            f"there is no dataset at {folder}; make it (rllib-om2p make-dataset {env} {quality} "
            f"--out {folder}), or leave it out with --datasets."
        )
    dataset = OfflineDataset.open(str(folder))
    if dataset.spec.env != env:
        raise ValueError(f"the dataset at {folder} is of {dataset.spec.env!r}, not of {env!r}.")
    ours = dataset.spec.team_return
    theirs = registry.info(env, **dataset.spec.env_kwargs).team_return
    if ours != theirs:
        raise ValueError(
            f"the dataset at {folder} forms the team's return as {ours!r}, and {env}, in which "
            f"policies are scored, as {theirs!r}; import or record it with the environment's."
        )
    return dataset


def _require_shared_settings_known(suite: Suite, algorithms: ConfigClasses) -> None:
    # Of all methods: a part of the suite may have none that has critics.
    shared = {*suite.settings, *(name for task in suite.tasks for name in task.settings)}
    names = {method.algorithm for method in suite.methods} & set(algorithms)
    known = {name for each in names for name in setting_methods(algorithms[each][1]())}
    unknown = sorted(shared - known)
    if unknown:
        raise ValueError(f"suite {suite.name!r}: no method of it has the settings {unknown}.")


def _validate(
    settings: Mapping[tuple[str, str, str], dict[str, Any]],
    configs: Mapping[str, OfflineConfig],
    data: Path,
) -> None:
    """Refuse settings now that would end a run when its turn comes."""
    seen = set()
    for (env, quality, method), own in settings.items():
        key = (method, env, repr(own))
        if key in seen:
            continue
        seen.add(key)
        config = configs[method].copy(copy_frozen=False)
        apply_settings(config, own)
        try:
            config.offline_data(input_=str(data / env / quality)).validate()
        except ValueError as error:
            raise ValueError(f"{method} on {env}/{quality}: {error}") from error


def settings_of(
    suite: Suite, task: Task, method: Method, quality: str, config: OfflineConfig
) -> dict[str, Any]:
    """Return a cell's settings: shared ones where the algorithm has them, then its own.

    Raises:
        ValueError: The algorithm does not know one of the method's.
    """
    known = setting_methods(config)
    shared = {**suite.settings, **task.settings}
    own = {**method.settings, **method.by_quality.get(quality, {})}
    apply_settings(config.copy(copy_frozen=False), own)  # complains of a name it does not know
    return {name: value for name, value in shared.items() if name in known} | own
