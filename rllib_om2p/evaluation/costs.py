"""What training takes: time per update, memory, minutes; medians over runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rllib_om2p.evaluation.records import Comparison, Run
from rllib_om2p.evaluation.report import Table


class Cost(NamedTuple):
    """What a method's training takes, as medians over its runs.

    Attributes:
        updates_per_second: By the clock.
        milliseconds: Per update, of processor time, or by the clock on a GPU; None where it was
            not measured.
        minutes: Of one run: building, training and evaluation.
        peak_mib: Most memory in training, of the whole process or on the GPU.
        added_mib: How much of it came with the table, networks and training; None where another
            run had been in the process before.
    """

    updates_per_second: float
    milliseconds: float | None
    minutes: float | None
    peak_mib: float | None
    added_mib: float | None


def cost(runs: Sequence[Run]) -> Cost | None:
    """Return what runs took, None if none of them measured it.

    Where only some were compiled, those count: half of two kinds is neither.
    """
    timed = [run.record for run in runs if "updates_per_second" in run.record]
    if not timed:
        return None
    timed = [record for record in timed if _is_compiled(record)] or timed
    return Cost(
        updates_per_second=float(np.median([record["updates_per_second"] for record in timed])),
        milliseconds=_median(timed, _update_ms),
        minutes=_median(
            timed,
            lambda r: sum(r["seconds"][part] for part in ("build", "train", "evaluate")) / 60.0,
        ),
        peak_mib=_median(timed, lambda r: r["memory_mib"]["gpu_peak"] or r["memory_mib"]["peak"]),
        added_mib=_median(
            [r for r in timed if _is_own_memory(r)],
            lambda r: (
                r["memory_mib"]["gpu_peak"] or r["memory_mib"]["peak"] - r["memory_mib"]["before"]
            ),
        ),
    )


def cost_table(comparison: Comparison, env: str) -> Table | None:
    """Return speed and memory on one environment, and their ratios to the first method."""
    datasets = comparison.datasets_of(env)
    costs = {
        method: found
        for method in comparison.methods
        if (found := cost([r for d in datasets for r in comparison.of(method, d)])) is not None
    }
    if not costs:
        return None
    first = next(iter(costs))
    header = (
        "method", "updates/s", "ms per update", f"time ÷ {first}", "minutes per run",
        "peak MiB of the process", "MiB of training", f"memory ÷ {first}",
    )  # fmt: skip
    base, rows = costs[first], []
    for method, own in costs.items():
        time_ratio = _ratio(own.milliseconds, base.milliseconds)
        rows.append(
            (
                method,
                _three_digits(own.updates_per_second),
                _three_digits(own.milliseconds),
                _three_digits(time_ratio),
                _three_digits(own.minutes),
                "" if own.peak_mib is None else f"{own.peak_mib:.0f}",
                "" if own.added_mib is None else f"{own.added_mib:.0f}",
                _three_digits(_ratio(own.added_mib, base.added_mib)),
            )
        )
    return Table(header, tuple(rows), frozenset({"method"}))


def _update_ms(record: Mapping[str, Any]) -> float:
    """Return what an update takes; other processes slow a clock, but not a processor's."""
    clock = "wall" if record["memory_mib"]["gpu_peak"] else "processor"
    return float(record["update_ms"][clock])


def _is_compiled(record: Mapping[str, Any]) -> bool:
    return bool(record.get("hyperparameters", {}).get("torch_compile"))


def _is_own_memory(record: Mapping[str, Any]) -> bool:
    """Whether no earlier run in the process blurs what this one took."""
    memory = record.get("memory_mib", {})
    return bool(memory.get("gpu_peak") or memory.get("fresh_process"))


def _median(
    records: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]
) -> float | None:
    """Return the median over records that measured it; older ones did not measure all."""
    measured = [value(r) for r in records if "seconds" in r and "memory_mib" in r]
    return float(np.median(measured)) if measured else None


def _ratio(own: float | None, base: float | None) -> float | None:
    return None if own is None or not base else own / base


def _three_digits(value: float | None) -> str:
    if value is None:
        return ""
    digits = np.format_float_positional(value, precision=3, unique=False, fractional=False)
    return digits.removesuffix(".")
