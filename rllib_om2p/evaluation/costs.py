"""What training takes: time per update, memory, minutes; medians over runs.

Losses may be compiled or not, which changes time and memory: runs of the two kinds are never mixed
in one number, nor divided by each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rllib_om2p.evaluation.records import Comparison
from rllib_om2p.evaluation.report import Table


class Cost(NamedTuple):
    """What a method's training takes, as medians over its runs.

    Attributes:
        is_compiled: Whether the losses of its runs were compiled.
        updates_per_second: Of one core's processor time; by the clock on a GPU and of records
            that measured nothing else. None where it was not measured.
        milliseconds: Per update, likewise, but for None in records that measured nothing else.
        minutes: Of one run: building, training and evaluation; training likewise.
        clock_minutes: The same by the clock, whatever else the machine did.
        peak_mib: Most memory in training, of the whole process or on the GPU.
        added_mib: How much of it came with the table, networks and training; None where another
            run had been in the process before.
    """

    is_compiled: bool
    updates_per_second: float | None
    milliseconds: float | None
    minutes: float | None
    clock_minutes: float | None
    peak_mib: float | None
    added_mib: float | None


def costs(comparison: Comparison, env: str | None = None) -> dict[str, Cost]:
    """Return what the runs of each method took, without methods of which none measured it.

    Of compiled and other runs those count that more methods have, so that as many as can be are
    compared (if equally many: the compiled ones, if the first method has them); of a method that
    has only the other kind, these.

    Args:
        comparison: All runs.
        env: Only those on this environment.
    """
    kinds: dict[str, dict[bool, list[Mapping[str, Any]]]] = {}
    for run in comparison.runs:
        if env in (None, run.env) and "updates_per_second" in run.record:
            by_kind = kinds.setdefault(run.method, {})
            by_kind.setdefault(_is_compiled(run.record), []).append(run.record)
    lead = sum((True in own) - (False in own) for own in kinds.values())
    usual = lead > 0 or (lead == 0 and True in next(iter(kinds.values()), ()))
    return {method: _cost(own.get(usual) or own[not usual]) for method, own in kinds.items()}


def are_mixed(found: Mapping[str, Cost]) -> bool:
    """Return whether some methods were compiled and some were not."""
    return len({own.is_compiled for own in found.values()}) > 1


def _cost(timed: Sequence[Mapping[str, Any]]) -> Cost:
    """Return the medians over records of one kind."""
    return Cost(
        is_compiled=_is_compiled(timed[0]),
        updates_per_second=_middle(
            [r["updates_per_second"] * _slowed(r) for r in timed if r["updates_per_second"]]
        ),
        milliseconds=_median(timed, _update_ms),
        minutes=_median(timed, _minutes),
        clock_minutes=_median(timed, lambda r: sum(r["seconds"].values()) / 60.0),
        peak_mib=_median(timed, lambda r: r["memory_mib"]["gpu_peak"] or r["memory_mib"]["peak"]),
        added_mib=_median(
            [r for r in timed if _is_own_memory(r)],
            lambda r: (
                r["memory_mib"]["gpu_peak"] or r["memory_mib"]["peak"] - r["memory_mib"]["before"]
            ),
        ),
    )


def cost_table(comparison: Comparison, env: str) -> Table | None:
    """Return speed and memory on one environment, and their ratios to the first method.

    Where some methods were compiled and some were not, a column says which. Memory is left out
    where runs shared their processes: it is that of the largest run before.
    """
    found = costs(comparison, env)
    if not found:
        return None
    first = next(iter(found))
    base, is_mixed = found[first], are_mixed(found)
    has_memory = any(own.added_mib is not None for own in found.values())
    memory = ("peak MiB of the process", "MiB of training", f"memory ÷ {first}")
    header = (
        "method", *(["compiled"] if is_mixed else []), "updates/s", "ms per update",
        f"time ÷ {first}", "minutes per run", "minutes by the clock",
        *(memory if has_memory else ()),
    )  # fmt: skip
    rows = []
    for method, own in found.items():
        kind = ["yes" if own.is_compiled else "no"] if is_mixed else []
        has_ratio = own.is_compiled == base.is_compiled
        rows.append(
            (
                method,
                *kind,
                _three_digits(own.updates_per_second),
                _three_digits(own.milliseconds),
                _three_digits(_ratio(own.milliseconds, base.milliseconds) if has_ratio else None),
                _three_digits(own.minutes),
                _three_digits(own.clock_minutes),
                *(_memory(own, base if has_ratio else None) if has_memory else ()),
            )
        )
    return Table(header, tuple(rows), frozenset({"method", "compiled"}))


def _memory(own: Cost, base: Cost | None) -> tuple[str, str, str]:
    ratio = None if base is None else _ratio(own.added_mib, base.added_mib)
    return (
        "" if own.peak_mib is None else f"{own.peak_mib:.0f}",
        "" if own.added_mib is None else f"{own.added_mib:.0f}",
        _three_digits(ratio),
    )


def _update_ms(record: Mapping[str, Any]) -> float | None:
    """Return what an update takes; other processes slow a clock, but not a processor's."""
    clock = "wall" if record["memory_mib"]["gpu_peak"] else "processor"
    return None if record["update_ms"] is None else float(record["update_ms"][clock])


def _minutes(record: Mapping[str, Any]) -> float:
    seconds = record["seconds"]
    training = seconds["train"] / _slowed(record)
    return float(seconds["build"] + training + seconds["evaluate"]) / 60.0


def _slowed(record: Mapping[str, Any]) -> float:
    """Return how many times longer an update took by the clock than its processor worked for it.

    1 on a GPU, which works beside the processor, and where it was not measured.
    """
    times = record.get("update_ms")
    on_gpu = record.get("memory_mib", {}).get("gpu_peak")
    if not times or on_gpu or not times.get("processor"):
        return 1.0
    return max(1.0, float(times["wall"]) / float(times["processor"]))


def _is_compiled(record: Mapping[str, Any]) -> bool:
    return bool(record.get("hyperparameters", {}).get("torch_compile"))


def _is_own_memory(record: Mapping[str, Any]) -> bool:
    """Whether no earlier run in the process blurs what this one took."""
    memory = record.get("memory_mib", {})
    return bool(memory.get("gpu_peak") or memory.get("fresh_process"))


def _median(
    records: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float | None]
) -> float | None:
    """Return the median over records that measured it; older ones did not measure all."""
    return _middle([value(r) for r in records if "seconds" in r and "memory_mib" in r])


def _middle(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return float(np.median(measured)) if measured else None


def _ratio(own: float | None, base: float | None) -> float | None:
    return None if own is None or not base else own / base


def _three_digits(value: float | None) -> str:
    if value is None:
        return ""
    digits = np.format_float_positional(value, precision=3, unique=False, fractional=False)
    return digits.removesuffix(".")
