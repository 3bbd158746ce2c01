"""Imports a set of many gigabytes and measures time and memory: a tenth of it is on disk.

    python -m tests.benchmarks.large_import --gigabytes 10

One seed's folder in OMAR's layout holds a tenth of the size, Cooperative Navigation with random
actions; ten seeds are links to it, so that all of it is read, checked and written. The import runs
in a process of its own, whose largest resident memory is what counts. Results go to
`tests/benchmarks/results/large-import-DATE.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rllib_om2p.behaviour import make_dataset
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.evaluation.provenance import describe_machine, provenance

RESULTS = Path(__file__).parent / "results"
SEEDS = 10
TIME_LIMIT = 25
# Steps that are simulated; the set repeats them with small numbers added, so that no row is equal.
PATTERN_STEPS = 25_000
# Of the tasks' arrays in float32: three agents' obs, next_obs, acs, rews and dones.
ROW_BYTES = 4 * 3 * (18 + 18 + 2 + 1 + 1)

CHILD = """
import json, resource, sys, time
from rllib_om2p.benchmark.memory import peak_mib
from rllib_om2p.data.importers.stream import import_dataset
start = time.perf_counter()
say = lambda line: print(line, file=sys.stderr, flush=True)
found = import_dataset("omar", sys.argv[1], out=sys.argv[2], progress=say)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "seconds": round(time.perf_counter() - start, 1),
    "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    "peak_mib": int(peak_mib()),
    "episodes": found.statistics.num_episodes,
    "transitions": found.statistics.num_transitions,
    "unique_obs": found.coverage.unique_obs,
}))
"""


def write_source(folder: Path, num_bytes: int) -> None:
    """Write a set of ten seeds in OMAR's layout; nine of them are links to the first."""
    first = folder / "seed_0_data"
    first.mkdir(parents=True)
    num_rows = num_bytes // SEEDS // ROW_BYTES // TIME_LIMIT * TIME_LIMIT
    with tempfile.TemporaryDirectory() as place:
        pattern = make_dataset(
            "mpe/simple_spread", "random", steps=PATTERN_STEPS, out=Path(place) / "set"
        )
        episodes = list(OfflineDataset.open(str(pattern)).episodes())
    for index, name in enumerate(("agent_0", "agent_1", "agent_2")):
        obs = np.array([episode.obs[name] for episode in episodes])
        parts = {
            "obs": obs[:, :-1].reshape(PATTERN_STEPS, -1),
            "next_obs": obs[:, 1:].reshape(PATTERN_STEPS, -1),
            "acs": np.concatenate([episode.actions[name] for episode in episodes]),
            "rews": np.concatenate([episode.rewards[name] for episode in episodes]),
            "dones": np.zeros(PATTERN_STEPS, np.float32),
        }
        for part, values in parts.items():
            _write_tiled(first / f"{part}_{index}.npy", values, num_rows, vary="obs" in part)
    for seed in range(1, SEEDS):
        (folder / f"seed_{seed}_data").symlink_to(first.name)


def _write_tiled(file: Path, pattern: np.ndarray, num_rows: int, *, vary: bool) -> None:
    shape = (num_rows, *pattern.shape[1:])
    tiled = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    for number, start in enumerate(range(0, num_rows, PATTERN_STEPS)):
        rows = min(PATTERN_STEPS, num_rows - start)
        tiled[start : start + rows] = pattern[:rows] + (1e-3 * number if vary else 0.0)
    tiled.flush()


def measure(folder: Path, num_bytes: int) -> dict[str, Any]:
    """Write a set, import it in a process of its own and return what that took."""
    source, out = folder / "simple_spread" / "random", folder / "out"
    write_source(source, num_bytes)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(source), str(out)], stdout=subprocess.PIPE, check=True
    )
    read = sum(file.stat().st_size for file in source.glob("*/*.npy"))
    written = sum(file.stat().st_size for file in out.glob("*.parquet"))
    return {
        **json.loads(done.stdout),
        "gigabytes": round(read / 1e9, 2),
        "gigabytes_written": round(written / 1e9, 2),
    }


def main() -> None:
    """Measure once and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--work", type=Path, help="folder for the files (a temporary one)")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(dir=options.work) as place:
        found = measure(Path(place), int(options.gigabytes * 1e9))
    facts = provenance()
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"large-import-{str(facts['date'])[:10]}.json"
    file.write_text(json.dumps({**found, "provenance": facts}, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    machine = facts["machine"]
    assert isinstance(machine, dict)
    print(f"{describe_machine(machine)}; written: {file}")


if __name__ == "__main__":
    main()
