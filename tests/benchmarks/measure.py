"""Measurements: interleaved timings, operations per update, peak memory."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rllib_om2p.benchmark.memory import peak_mib, reset_peaks
from tests.benchmarks.problem import Batch, Draws, Sizes, draw, make_batch

Update = Callable[[Batch, Draws], object]


@dataclass(frozen=True)
class Timing:
    """Times of one variant, one number per round, in seconds."""

    wall: list[float]
    cpu: list[float]

    @property
    def summary(self) -> dict[str, float]:
        """Return medians in milliseconds."""
        return {
            "wall_ms": 1e3 * statistics.median(self.wall),
            "cpu_ms": 1e3 * statistics.median(self.cpu),
            "fastest_ms": 1e3 * min(self.wall),
        }


def time_interleaved(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Time all variants round-robin, so that whatever else the machine does hits them alike."""
    for call in variants.values():
        for _ in range(warm_up):
            call()
    timings = {name: Timing([], []) for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            timings[name].cpu.append(time.process_time() - cpu)
            timings[name].wall.append(time.perf_counter() - wall)
    return timings


def ratio(timings: Mapping[str, Timing], baseline: str, variant: str) -> dict[str, float]:
    """Return how many times faster the variant is: median over rounds of the rounds' ratios.

    By the clock, and by processor time, which other programs on the machine disturb less.
    """
    slow, fast = timings[baseline], timings[variant]
    return {
        kind: statistics.median(
            a / b for a, b in zip(getattr(slow, kind), getattr(fast, kind), strict=True)
        )
        for kind in ("wall", "cpu")
    }


class _Counter(TorchDispatchMode):
    """Counts the operations that reach the dispatcher, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operations(update: Update, sizes: Sizes) -> int:
    """Return the operations of one update, backward and optimisers included."""
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(sizes, generator)
    update(batch, draw(sizes, generator))
    draws = draw(sizes, generator)
    with _Counter() as counter:
        update(batch, draws)
    return counter.count


def peak_memory(build: Callable[[], Update], sizes: Sizes, num_updates: int = 3) -> float:
    """Return the growth of a fresh process's peak memory by building and updating, in MiB."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_report_peak, args=(build, sizes, num_updates, queue))
    process.start()
    grown: float = queue.get()
    process.join()
    return grown


def _report_peak(build: Callable[[], Update], sizes: Sizes, num_updates: int, queue: Any) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    torch.ones(8, 8) @ torch.ones(8, 8)
    # Not getrusage: its peak is at least that of the process that started this one.
    reset_peaks()
    before = peak_mib()
    update, batch = build(), make_batch(sizes, generator)
    for _ in range(num_updates):
        update(batch, draw(sizes, generator))
    queue.put(peak_mib() - before)
