"""Made-up results of a benchmark, as files, with numbers that are easy to reckon with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PROVENANCE = {
    "command": "rllib-om2p benchmark mine",
    "commit": "0123456789abcdef",
    "dirty": False,
    "date": "2026-01-02 03:04 UTC",
    "machine": {"cpu": "A CPU", "cores": 2, "memory_gib": 8.0, "gpus": []},
    "python": "3.11",
    "packages": {"torch": "2.0"},
}


def write_run(
    folder: Path,
    method: str,
    seed: int,
    mean: float,
    *,
    env: str = "mpe/simple_spread",
    quality: str = "medium",
    overrides: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """Write a run whose episodes return mean - 1 and mean + 1; random is 100 and expert 200."""
    record = {
        "suite": "mine",
        "method": method,
        "algorithm": method.split("=")[0],
        "env": env,
        "quality": quality,
        "dataset": f"{env}/{quality}",
        "dataset_return": 150.0,
        "references": {"random": 100.0, "expert": 200.0, "source": "made up"},
        "seed": seed,
        "updates": 10,
        "overrides": dict(overrides or {}),
        "cell": {"fingerprint": "f", "first_seed": 5},
        "returns": [mean - 1.0, mean + 1.0],
        "curve": [[5, mean - 10.0], [10, mean]],
        "updates_per_second": 100.0,
        "update_ms": {"wall": 12.0, "processor": 10.0},
        "seconds": {"build": 6.0, "train": 30.0, "evaluate": 24.0},
        "memory_mib": {
            "fresh_process": True, "before": 400.0, "built": 430.0, "peak": 500.0, "gpu_peak": 0.0,
        },
        "provenance": PROVENANCE,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{env.replace('/', '-')}-{quality}-{method}-{seed}.json"
    file.write_text(json.dumps(record | fields))
    return file


def write_samples(file: Path, num_features: int = 2, *, discrete: bool = False) -> None:
    """Write samples of two agents' actions beside a run's file."""
    rng = np.random.default_rng(0)
    arrays = {}
    for agent in ("left", "right"):
        for view in ("", "_at_0", "_at_1"):
            for who in ("data", "policy"):
                drawn = rng.uniform(-1.0, 1.0, (20, num_features)).astype(np.float16)
                numbers = rng.integers(0, 3, (20, 1)).astype(np.int16)
                arrays[f"{agent}/{who}{view}"] = numbers if discrete else drawn
    np.savez(file.with_suffix(".npz"), **arrays)


def write_plan(
    folder: Path, methods: Sequence[str], datasets: Sequence[str], runs: int, **fields: Any
) -> None:
    """Write suite.json; without `seeds` it plans any."""
    plan = {"name": "mine", "title": "a test", "methods": methods, "datasets": datasets, **fields}
    (folder / "suite.json").write_text(json.dumps(plan | {"num_runs": runs}))
