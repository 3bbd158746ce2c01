"""Updates per second and peak memory on a GPU: plain loop, stacked, compiled, captured.

`python -m tests.benchmarks.gpu` prints one JSON record and writes it to
`tests/benchmarks/results/gpu-DATE.json`; without a CUDA device the record says that nothing was
measured. Every variant runs in a fresh process, which gives its peak memory, and all of them run
one after the other in every round, so that what else the machine does hits them alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

from rllib_om2p.evaluation.provenance import provenance
from tests.benchmarks.per_agent import PerAgentUpdate
from tests.benchmarks.plugin import make_learner
from tests.benchmarks.problem import Batch, Draws, Sizes, draw, make_batch

RESULTS = Path(__file__).parent / "results"
SIZES = {"2x128": Sizes(hidden=(128, 128)), "4x512": Sizes()}
# The learner's settings; the plain loop is not the learner's.
VARIANTS: dict[str, dict[str, bool] | None] = {
    "plain loop": None,
    "stacked": {},
    "compiled": {"torch_compile": True},
    "captured": {"cuda_graph": True},
    "compiled and captured": {"torch_compile": True, "cuda_graph": True},
}
WARM_UP = 20


def plain_loop(sizes: Sizes) -> Callable[[int], None]:
    """Return a function that makes so many updates, agent by agent."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("cuda"):
        update = PerAgentUpdate(sizes, derivative="jvp")
    batch = Batch(*(part.cuda() for part in make_batch(sizes, generator)))
    draws = Draws(*(part.cuda() for part in draw(sizes, generator)))

    def run(num_updates: int) -> None:
        for _ in range(num_updates):
            update(batch, draws)

    return run


def learners(sizes: Sizes, settings: dict[str, bool]) -> Callable[[int], None]:
    """Return a function that makes so many updates with the learner of the plugin."""
    with tempfile.TemporaryDirectory() as folder:
        learner = make_learner(sizes, Path(folder) / "set", num_gpus=1, **settings)
    return lambda num_updates: learner.update(num_updates=num_updates)


def measure(variant: str, sizes: Sizes, num_updates: int) -> dict[str, float]:
    """Return one round of a variant: updates per second, and peak memory in MiB."""
    settings = VARIANTS[variant]
    # RLlib asks Ray for a learner's device, which would start a Ray of all cores by itself.
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    run = plain_loop(sizes) if settings is None else learners(sizes, settings)
    run(WARM_UP)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run(num_updates)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {
        "updates_per_second": num_updates / seconds,
        "peak_mib": torch.cuda.max_memory_reserved() / 2**20,
    }


def in_fresh_process(variant: str, sizes: Sizes, num_updates: int) -> dict[str, float]:
    """Measure in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (variant, sizes, num_updates))


def record(rounds: int, num_updates: int) -> dict[str, Any]:
    """Return all measurements, medians over the rounds, or why there are none."""
    about: dict[str, Any] = {"made": provenance(), "rounds": rounds, "num_updates": num_updates}
    if not torch.cuda.is_available():
        return about | {"measured": None, "reason": "not measured: there is no CUDA device"}
    about["device"] = torch.cuda.get_device_name()
    measured = {}
    for name, sizes in SIZES.items():
        found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
        for _ in range(rounds):
            for variant, values in found.items():
                values.append(in_fresh_process(variant, sizes, num_updates))
        measured[name] = {
            variant: {key: statistics.median(v[key] for v in values) for key in values[0]}
            for variant, values in found.items()
        }
    return about | {"measured": measured}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = record(arguments.rounds, arguments.updates)
    text = json.dumps(found, indent=1)
    print(text)
    if found["measured"] is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"gpu-{found['made']['date'][:10]}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
