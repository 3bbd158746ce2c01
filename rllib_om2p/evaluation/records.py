"""The results of a benchmark as they lie in a folder: one JSON file per training run.

Knows the fields of a record and what makes records comparable; draws and judges nothing. A file
beside them, suite.json, names methods, datasets and seeds, in their order; results of others are
left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.disk import local_path
from rllib_om2p.evaluation.scores import References, normalised_score

SUITE_FILE = "suite.json"
# Hyperparameters that say how, not what is learnt: settled when an algorithm is built, or rounding.
WITHOUT_EFFECT = ("share_table", "torch_compile")
Samples = Mapping[str, NDArray[Any]]
"""Arrays "AGENT/data", "AGENT/policy", "AGENT/data_at_K", "AGENT/policy_at_K"; (N, A)."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        method: Row of the tables.
        dataset: "ENV/QUALITY".
        env: The environment.
        quality: Of the data.
        seed: Of the run.
        returns: Team returns of the scored episodes, empty if it was not scored.
        record: All fields of the file.
        samples_file: With the samples of its actions, if it has them.
    """

    method: str
    dataset: str
    env: str
    quality: str
    seed: int
    returns: tuple[float, ...]
    record: Mapping[str, Any]
    samples_file: Path | None = None

    @property
    def mean(self) -> float:
        """Mean return of its episodes."""
        return float(np.mean(self.returns))

    def samples(self) -> Samples:
        """Return the samples of its actions, none if it has no file of them."""
        if self.samples_file is None:
            return {}
        with np.load(self.samples_file) as arrays:
            return {name: arrays[name] for name in arrays.files}


@dataclass(frozen=True)
class Comparison:
    """All runs of a folder, in order.

    Attributes:
        name: Of the suite.
        title: One line.
        runs: By method, dataset and seed.
        methods: In the order of the tables.
        datasets: In the order of the tables.
        failures: Names of planned runs that failed and were not made since, and the last line of
            their errors.
        num_planned: Runs of the whole suite.
        left_out: Names of results that the suite does not plan, and what of them it lacks.
        num_failed: How many of the failures each pair of method and dataset has.
    """

    name: str
    title: str
    runs: Sequence[Run]
    methods: Sequence[str]
    datasets: Sequence[str]
    failures: Mapping[str, str] = field(default_factory=dict)
    num_planned: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    num_failed: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def envs(self) -> list[str]:
        """Environments in the order of the datasets."""
        env_of = {run.dataset: run.env for run in self.runs}
        return list(dict.fromkeys(env_of[dataset] for dataset in self.datasets))

    @property
    def lost_methods(self) -> list[str]:
        """Methods of which every run failed, and that `methods` does not name therefore."""
        lost = dict.fromkeys(method for method, _ in self.num_failed)
        return [method for method in lost if method not in ("", *self.methods)]

    @property
    def lost_datasets(self) -> list[str]:
        """Datasets on which every run failed, and that `datasets` does not name therefore."""
        lost = dict.fromkeys(dataset for _, dataset in self.num_failed)
        return [dataset for dataset in lost if dataset not in ("", *self.datasets)]

    def datasets_of(self, env: str) -> list[str]:
        """Return the datasets of an environment."""
        wanted = {run.dataset for run in self.runs if run.env == env}
        return [dataset for dataset in self.datasets if dataset in wanted]

    def of(self, method: str, dataset: str | None = None) -> list[Run]:
        """Return a method's runs by seed, on one dataset or on all."""
        return [r for r in self.runs if r.method == method and dataset in (None, r.dataset)]

    def algorithm(self, method: str) -> str:
        """Return the name of a method's algorithm."""
        return str(self.of(method)[0].record.get("algorithm", method))

    def references(self, dataset: str) -> References | None:
        """Return the scale of a dataset's normalised scores."""
        found = next(run for run in self.runs if run.dataset == dataset)
        return References.from_mapping(found.record.get("references", {}))

    def data_return(self, dataset: str) -> float:
        """Return the mean return of a dataset's own episodes."""
        found = next(run for run in self.runs if run.dataset == dataset)
        return float(found.record["dataset_return"])

    def scores(self, method: str, datasets: Sequence[str]) -> dict[str, list[float]]:
        """Return a method's normalised scores, one per seed, on datasets that have a scale."""
        found: dict[str, list[float]] = {}
        for dataset in datasets:
            scale = self.references(dataset)
            means = [run.mean for run in self.of(method, dataset) if run.returns]
            if scale is not None and means:
                found[dataset] = [float(x) for x in normalised_score(means, scale)]
        return found

    def differences(self) -> list[str]:
        """Return what keeps runs on one dataset from being compared on equal footing."""
        found = []
        for dataset in self.datasets:
            runs = [run for run in self.runs if run.dataset == dataset]
            of_dataset = {
                "contents of the data": {_cell(r, "fingerprint") for r in runs},
                "numbers of updates": {r.record.get("updates") for r in runs},
                "numbers of episodes": {len(r.returns) for r in runs},
                "start states": {_cell(r, "first_seed") for r in runs},
                "scales": {_as_text(r.record.get("references")) for r in runs},
            }
            of_methods: dict[str, set[str | None]] = {}
            for method in self.methods:
                own = [run for run in runs if run.method == method]
                of_methods[f"settings of {method}"] = {_as_text(_cell(r, "settings")) for r in own}
                for name in _defaults(own):
                    held = {json.dumps(r.record["hyperparameters"][name]) for r in own}
                    of_methods[f"{name} of {method}"] = {*held}
            for name, values in (of_dataset | of_methods).items():
                values = values - {None}  # unknown in older records
                if len(values) > 1:
                    texts = sorted(str(value)[:12] for value in values)
                    shown = "" if texts[0].startswith("{") else f" ({', '.join(texts)})"
                    found.append(f"{dataset}: runs with different {name}{shown}")
        return found


def load_comparison(folder: str | Path) -> Comparison:
    """Read a folder of results; those that its suite does not plan are only named.

    Raises:
        ValueError: It holds no results of its suite, or a file that is no record.
    """
    folder = local_path(folder)
    plan = read_record(folder / SUITE_FILE) if (folder / SUITE_FILE).exists() else {}
    files = [file for file in sorted(folder.glob("*.json")) if file.name != SUITE_FILE]
    found = {file.stem: run for file in files if (run := _read(file)) is not None}
    left_out = {
        name: text
        for name, run in found.items()
        if (text := _unplanned(plan, method=run.method, dataset=run.dataset, seed=run.seed))
    }
    planned = {name: run for name, run in found.items() if name not in left_out}
    lost = _lost(folder, plan, planned)
    runs = [run for name, run in planned.items() if name not in lost]
    if not runs:
        reason = f"; {SUITE_FILE} plans none of the {len(found)} that are there" if found else ""
        raise ValueError(
            f"there are no results in {str(folder)!r}{reason}; give the folder of one suite, such "
            "as results/cpu (`rllib-om2p benchmark SUITE` writes it)."
        )
    methods = _ordered({run.method for run in runs}, plan.get("methods", ()))
    datasets = _ordered({run.dataset for run in runs}, plan.get("datasets", ()))
    runs.sort(key=lambda r: (methods.index(r.method), datasets.index(r.dataset), r.seed))
    return Comparison(
        plan.get("name", folder.name),
        plan.get("title", ""),
        runs,
        methods,
        datasets,
        {name: text for name, (_, text) in lost.items()},
        plan.get("num_runs", len(runs)),
        left_out,
        Counter(pair for pair, _ in lost.values()),
    )


def _lost(
    folder: Path, plan: Mapping[str, Any], planned: Mapping[str, Run]
) -> dict[str, tuple[tuple[str, str], str]]:
    """Return planned runs that have no score: by name, of which method and dataset, and why."""
    lost = {
        name: ((run.method, run.dataset), "an episode's return is not finite")
        for name, run in planned.items()
        if not np.isfinite(run.returns).all()
    }
    for file in sorted(folder.glob("*.failed")):
        record = read_record(file)
        cell = record.get("cell", {})
        if file.stem not in planned and not _unplanned(plan, **cell):
            text = (record.get("error") or "").strip().splitlines()
            pair = (cell.get("method", ""), cell.get("dataset", ""))
            lost[file.stem] = (pair, text[-1] if text else "no reason was written")
    return lost


def read_record(file: Path) -> dict[str, Any]:
    """Return the fields of a JSON file, none where it holds something else.

    Raises:
        ValueError: It is damaged; the text names it.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{str(file)!r} is no JSON ({error}); remove or renew it.") from error
    return record if isinstance(record, dict) else {}


def _read(file: Path) -> Run | None:
    """Return the run of a file, None for a file of something else."""
    record = read_record(file)
    if not {"method", "env", "quality", "returns"} <= set(record):
        return None
    samples = file.with_suffix(".npz")
    return Run(
        method=record["method"],
        dataset=record.get("dataset", f"{record['env']}/{record['quality']}"),
        env=record["env"],
        quality=record["quality"],
        seed=record["seed"],
        returns=tuple(record["returns"]),
        record=record,
        samples_file=samples if samples.exists() else None,
    )


def _unplanned(plan: Mapping[str, Any], **run: Any) -> str:
    """Return what of a run is not of the plan, nothing for one that was planned."""
    for kind in ("method", "dataset", "seed"):
        if kind in run and f"{kind}s" in plan and run[kind] not in plan[f"{kind}s"]:
            return f"{kind} {run[kind]}"
    return ""


def _as_text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True)


def _cell(run: Run, key: str) -> Any:
    return run.record.get("cell", {}).get(key)


def _defaults(runs: Sequence[Run]) -> list[str]:
    """Return the hyperparameters that all records hold and none of their cells names."""
    held = [set(run.record.get("hyperparameters", {})) for run in runs]
    named = {name for run in runs for name in _cell(run, "settings") or {}}
    return sorted(set.intersection(*held) - named - {*WITHOUT_EFFECT}) if held else []


def _ordered(found: set[str], planned: Sequence[str]) -> list[str]:
    return [name for name in planned if name in found] + sorted(found - set(planned))
