"""One cell from its settings to its record: train, score, measure; knows no Tune.

The score is that of the last update: nothing is chosen by looking at the curve. A long cell saves
itself now and then, and goes on from there.
"""

from __future__ import annotations

import datetime
import functools
import gc
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rllib_om2p import disk
from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.benchmark import memory
from rllib_om2p.benchmark.action_samples import Pool, distance_to_data, make_pool, sample_actions
from rllib_om2p.benchmark.cells import Cell, result_file, write_json
from rllib_om2p.core.acting import JointPolicy
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.checkpoint import read_marker, tidy, write_whole
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.run import Iteration
from rllib_om2p.core.settings import apply_settings, setting_methods
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.envs.worlds import evaluate_team

SAVE_EVERY_SECONDS = 600.0
_TIMES = ("build", "train", "evaluate")
_LOG = "log.json"
SIGNIFICANT_DIGITS = 7


class CellRun:
    """The training run of one cell.

    Args:
        cell: What to train.
        folder: Of the results.
        facts: Who makes the numbers, as `evaluation.provenance.provenance` returns it.

    Raises:
        ValueError: It was saved before, and cannot go on from there; the text says what to delete.
    """

    def __init__(self, cell: Cell, folder: Path, facts: Mapping[str, Any]) -> None:
        torch.set_num_threads(1)
        self.cell = cell
        self._folder, self._facts = folder, dict(facts)
        self._saved = folder / ".unfinished" / cell.name
        self._log: dict[str, Any] = {
            "num_updates": 0,
            "curve": [],
            "metrics": [],
            "points": [],
            "first_points": [],
            "made_by": [],
            "peak": 0.0,
            "gpu_peak": 0.0,
            **dict.fromkeys(_TIMES, 0.0),
        }
        start = time.perf_counter()
        if cell.fresh_process:
            _warm_up(cell)
        self._before = memory.resident_mib()
        config = make_config(cell)
        algorithm = config.build_algo()
        assert isinstance(algorithm, Algorithm)
        self._algorithm = algorithm
        self._built = memory.resident_mib()
        tidy(self._saved)
        if (self._saved / _LOG).exists():
            self._restore()
        self._log["made_by"].append([self._facts.get("commit"), self._facts.get("dirty")])
        # It warms up: losses are compiled, memory is first touched, optimisers make their state.
        self._log["first_points"].append(len(self._log["points"]))
        self._log["build"] += time.perf_counter() - start
        self._last_save = time.monotonic()

    @property
    def num_updates(self) -> int:
        """Updates done so far."""
        return int(self._log["num_updates"])

    @property
    def is_trained(self) -> bool:
        """Whether all updates are done."""
        return self.num_updates >= self.cell.num_updates

    def advance(self) -> float | None:
        """Train to the next point of the curve and return its score, None without evaluation."""
        memory.reset_peaks()
        start, processor = time.perf_counter(), time.process_time()
        result = self._algorithm.train()
        trained = time.perf_counter()
        log = self._log
        log["points"].append([trained - start, time.process_time() - processor])
        log["peak"] = max(log["peak"], memory.peak_mib())
        log["gpu_peak"] = max(log["gpu_peak"], memory.gpu_peak_mib())
        iteration = Iteration.of(result, trained - start)
        returns = self._score(self.cell.curve_episodes, self.cell.curve_seed)
        score = float(returns.mean()) if len(returns) else None
        log["num_updates"] = iteration.num_updates
        if score is not None:
            log["curve"].append([iteration.num_updates, _rounded(score)])
        log["metrics"].append({name: _rounded(x) for name, x in iteration.metrics.items()})
        log["train"] += trained - start
        log["evaluate"] += time.perf_counter() - trained
        if not self.is_trained and time.monotonic() - self._last_save > SAVE_EVERY_SECONDS:
            self.save()
        return score

    def finish(self) -> dict[str, Any]:
        """Score the last update, write the result and return it."""
        cell = self.cell
        start = time.perf_counter()
        returns = self._score(cell.episodes, cell.first_seed)
        self._log["evaluate"] += time.perf_counter() - start
        record = {
            **self._description(OfflineDataset.open(cell.input_)),
            **(self._compare_actions() if cell.episodes else {}),
            "returns": [_rounded(value) for value in returns],
            "curve": self._log["curve"],
            "metrics": self._log["metrics"],
            **self._costs(),
            "provenance": self._provenance(),
        }
        write_json(result_file(self._folder, cell), record)
        (self._saved / _LOG).unlink(missing_ok=True)  # first: half of a state is none
        shutil.rmtree(self._saved, ignore_errors=True)
        return record

    def _provenance(self) -> dict[str, Any]:
        """Return the facts, with the commits before this one that a resumed run was trained at."""
        made_by = [tuple(maker) for maker in self._log["made_by"]]
        earlier = [commit for commit, _ in dict.fromkeys(made_by[:-1]) if commit != made_by[-1][0]]
        facts = self._facts | {"date": _now()}
        if len(made_by) > 1 and "dirty" in facts:
            facts["dirty"] = any(dirty for _, dirty in made_by)
        return facts | ({"earlier_commits": earlier} if earlier else {})

    def _compare_actions(self) -> dict[str, Any]:
        """Return how far the policies' actions are from the data's; keep samples of both."""
        pool = _pool(self.cell.input_, self.cell.fingerprint)
        distance = distance_to_data(pool, self._policy(seed=0))
        if self.cell.keep_actions:
            samples: dict[str, Any] = sample_actions(pool, self._policy(seed=0))
            file = self._folder / f"{self.cell.name}.npz"
            disk.write_whole(file, lambda opened: np.savez_compressed(opened, **samples))
        return {"action_rmse": _rounded(distance)}

    def save(self) -> None:
        """Save what a later run goes on from; the older state stays until this one is whole."""

        def write(folder: Path) -> None:
            self._algorithm.save_to_path(folder / "checkpoint")
            saved = {"identity": self.cell.identity(), "log": self._log}
            (folder / _LOG).write_text(json.dumps(saved), encoding="utf-8")

        write_whole(self._saved, write, {"cell": self.cell.name})
        self._last_save = time.monotonic()

    def stop(self) -> None:
        """Free the learner."""
        self._algorithm.stop()

    def _restore(self) -> None:
        try:
            saved = json.loads((self._saved / _LOG).read_text(encoding="utf-8"))
            if saved["identity"] != self.cell.identity():
                return  # of another version of the suite; it is replaced by the next save
            read_marker(self._saved)  # RLlib passes over parts that are missing
            self._algorithm.restore_from_path(self._saved / "checkpoint")
            self._log = saved["log"]
        except Exception as error:  # RLlib's, torch's and pickle's, each of its own kind
            raise ValueError(
                f"{self.cell.name} cannot go on from the state at {self._saved} "
                f"({type(error).__name__}: {error}); delete that folder to train it anew."
            ) from error

    def _policy(self, seed: int) -> JointPolicy:
        agents = self._algorithm.config.dataset_spec.agent_ids
        modules = {agent: self._algorithm.get_module(agent) for agent in agents}
        return JointPolicy(modules, seed=seed)

    def _score(self, num_episodes: int, first_seed: int) -> Any:
        if num_episodes == 0:
            return np.empty(0)
        seeds = range(first_seed, first_seed + num_episodes)
        settings = self._algorithm.config.dataset_spec.env_kwargs
        return evaluate_team(self.cell.env, self._policy(first_seed), seeds, **settings)

    def _description(self, dataset: OfflineDataset) -> dict[str, Any]:
        cell, spec = self.cell, dataset.spec
        return {
            "suite": cell.suite,
            "method": cell.method,
            "algorithm": cell.algorithm,
            "env": cell.env,
            "quality": cell.quality,
            "dataset": cell.dataset,
            "dataset_id": spec.dataset_id,
            "dataset_return": dataset.statistics().team_return.mean,
            "num_transitions": dataset.num_transitions,
            "references": dict(spec.references),
            "seed": cell.seed,
            "updates": self.num_updates,
            "overrides": cell.identity()["settings"],
            "hyperparameters": hyperparameters(self._algorithm.config),
            "cell": cell.identity(),
        }

    def _costs(self) -> dict[str, Any]:
        log = self._log
        return {
            **_update_times(log["points"], log["first_points"], self.cell),
            "seconds": {name: round(log[name], 3) for name in _TIMES},
            "memory_mib": {
                "fresh_process": self.cell.fresh_process,
                "before": round(self._before, 1),
                "built": round(self._built, 1),
                "peak": round(log["peak"], 1),
                "gpu_peak": round(log["gpu_peak"], 1),
            },
        }


def _update_times(
    points: Sequence[Sequence[float]], left_out: Sequence[int], cell: Cell
) -> dict[str, Any]:
    """Return what an update takes, None where no point is left.

    Args:
        points: Seconds by the clock and of the processor of each.
        left_out: Positions of those that do not count.
        cell: Whose points.
    """
    counted = [point for index, point in enumerate(points) if index not in left_out]
    if not counted:
        return {"updates_per_second": None, "update_ms": None}
    wall, processor = np.mean(counted, axis=0) * cell.num_points / cell.num_updates
    return {
        "updates_per_second": _rounded(1.0 / wall),
        "update_ms": {"wall": _rounded(1e3 * wall), "processor": _rounded(1e3 * processor)},
    }


def make_config(cell: Cell) -> OfflineConfig:
    """Return the config of a cell."""
    config = ALGORITHMS[cell.algorithm][1]()
    config.training(torch_compile=cell.torch_compile)
    apply_settings(config, cell.settings)
    config.training(num_updates_per_iteration=cell.num_updates // cell.num_points)
    config.offline_data(input_=cell.input_)
    config.learners(num_learners=0, num_gpus_per_learner=1 if cell.gpus else 0)
    config.debugging(seed=cell.seed, log_level="ERROR")
    config.evaluation(evaluation_interval=None)
    return config


def hyperparameters(config: OfflineConfig) -> dict[str, Any]:
    """Return every hyperparameter of a config by name, as JSON has it."""
    names = [name for name in setting_methods(config) if hasattr(config, name)]
    found: dict[str, Any] = json.loads(
        json.dumps({name: getattr(config, name) for name in names}, default=str)
    )
    return found


def _warm_up(cell: Cell) -> None:
    """Train tiny networks first, so that libraries which that loads are not counted as training's.

    They are more than most updates need. The table of transitions goes with the tiny networks, and
    is counted when it comes again.
    """
    tiny = {name: (8,) for name in cell.settings if name.endswith("_hidden")}
    algorithm = make_config(replace(cell, settings=cell.settings | tiny)).build_algo()
    algorithm.train()
    algorithm.stop()
    del algorithm
    gc.collect()


@functools.lru_cache(maxsize=2)
def _pool(input_: str, fingerprint: str) -> Pool:
    """Return the pool of a dataset; a worker trains on one dataset many times in a row."""
    return make_pool(OfflineDataset.open(input_))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS}g}")
