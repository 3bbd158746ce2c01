"""Results as tables and as a small report in a folder; plain numbers in, nothing is run here.

Every seed is shown, the raw return beside the normalised one, and who made the numbers.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rllib_om2p.disk import write_text_whole
from rllib_om2p.evaluation.provenance import describe_machine
from rllib_om2p.evaluation.scores import References, decimals, normalised_score
from rllib_om2p.evaluation.statistics import Interval, mean_interval


@dataclass(frozen=True)
class Result:
    """What one policy made on one dataset.

    Attributes:
        name: The policy: "data", "BC", "OM2P".
        returns: Mean episode return of each seed; one number for the data's own mean.
        dataset: What it was trained on; rows of one dataset are compared with each other.
        interval: Given here, for instance over the episodes of a single seed; over the seeds
            (Student's t, 95 %) if None and there are at least two.
        note: One remark for the reader, such as a setting.
    """

    name: str
    returns: Sequence[float]
    dataset: str = ""
    interval: Interval | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not len(self.returns):
            raise ValueError(f"result {self.name!r} has no returns; give one per seed.")

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.returns))

    def confidence_interval(self) -> Interval | None:
        """Return the given interval, the one over the seeds, or None for a single number."""
        if self.interval is not None or len(self.returns) < 2:
            return self.interval
        return mean_interval(self.returns)


@dataclass(frozen=True)
class Table:
    """Cells as text; `markdown()` for files, `text()` for a terminal.

    Attributes:
        header: One name per column.
        rows: As long as the header each.
        words: Names of the columns that hold words, aligned left; numbers align right.
        strong: Cells in bold type, as (row, column).
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[str] = frozenset()
    strong: frozenset[tuple[int, int]] = frozenset()

    def markdown(self) -> str:
        """Return a Markdown table."""
        rule = ["---" if name in self.words else "---:" for name in self.header]
        rows = [
            [f"**{cell}**" if (i, j) in self.strong else cell for j, cell in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        cells = [self.header, rule, *rows]
        return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in r) + " |" for r in cells)

    def text(self) -> str:
        """Return aligned columns with a rule under the header."""
        cells = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.header))]
        lines = [
            "  ".join(
                cell.ljust(width) if name in self.words else cell.rjust(width)
                for name, cell, width in zip(self.header, row, widths, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def results_table(
    results: Sequence[Result],
    *,
    references: References | Mapping[str, References | None] | None = None,
    baseline: str | None = None,
) -> Table:
    """Return one row per result: raw, interval, normalised, ratio to a baseline, every seed.

    Columns that no row would fill are left out.

    Args:
        results: In the order of the rows.
        references: The scale of the normalised score, one for all or by dataset.
        baseline: Name of the result of each dataset that the others are divided by, such as "data".

    Raises:
        ValueError: No results, or a dataset that holds the baseline more than once.
    """
    if not results:
        raise ValueError("a table needs at least one result, got none.")
    bases = _baselines(results, baseline)
    places = decimals(result.mean for result in results)
    columns: dict[str, list[str]] = {
        "dataset": [r.dataset for r in results],
        "policy": [r.name for r in results],
        "return": [f"{r.mean:.{places}f}" for r in results],
        "95 % interval": [_interval_text(r.confidence_interval(), places) for r in results],
        "normalised": [_score_text(r, _scale(references, r.dataset)) for r in results],
        f"÷ {baseline}": [_ratio_text(r, bases.get(r.dataset)) for r in results],
        "each seed": [_seeds_text(r, places) for r in results],
        "note": [r.note for r in results],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    rows = tuple(zip(*kept.values(), strict=True))
    return Table(tuple(kept), rows, frozenset({"dataset", "policy", "each seed", "note"}))


def write_report(
    directory: str | os.PathLike[str],
    *,
    title: str,
    results: Sequence[Result],
    provenance: Mapping[str, object],
    seeds: Sequence[int],
    references: References | Mapping[str, References | None] | None = None,
    baseline: str | None = None,
    summary: str = "",
    pictures: Mapping[str, str | os.PathLike[str]] | None = None,
) -> Path:
    """Write report.md and results.json into a folder and return the path of report.md.

    Args:
        directory: Made if missing; files of the same names are replaced.
        title: First line.
        results: As for `results_table`.
        provenance: As `provenance()` returns it.
        seeds: The seeds of the training runs.
        references: As for `results_table`.
        baseline: As for `results_table`.
        summary: A paragraph under the title.
        pictures: Caption to image file; those outside the folder are copied into it.

    Raises:
        FileNotFoundError: A picture does not exist; nothing is written then.
    """
    files = {caption: Path(file) for caption, file in (pictures or {}).items()}
    for caption, file in files.items():
        if not file.is_file():
            raise FileNotFoundError(f"picture {caption!r} is not at {file}; save it first.")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# {title}"]
    if summary:
        parts.append(summary)
    parts.append(results_table(results, references=references, baseline=baseline).markdown())
    parts += _footnotes(results, references)
    for caption, file in files.items():
        if file.resolve().parent != folder.resolve():
            shutil.copyfile(file, folder / file.name)
        parts.append(f"![{caption}]({file.name.replace(' ', '%20')})\n\n*{caption}*")
    parts.append("## How it was made\n\n" + _provenance_lines(provenance, seeds))
    write_text_whole(folder / "report.md", "\n\n".join(parts) + "\n")
    record = {
        "title": title,
        "results": [_as_json(r, _scale(references, r.dataset)) for r in results],
        "seeds": list(seeds),
        "provenance": dict(provenance),
    }
    write_text_whole(
        folder / "results.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    )
    return folder / "report.md"


def _baselines(results: Sequence[Result], baseline: str | None) -> dict[str, float]:
    bases: dict[str, float] = {}
    for result in results:
        if result.name != baseline:
            continue
        if result.dataset in bases:
            raise ValueError(
                f"dataset {result.dataset!r} holds {baseline!r} twice; give each row its own name."
            )
        bases[result.dataset] = result.mean
    return bases


def _scale(
    references: References | Mapping[str, References | None] | None, dataset: str
) -> References | None:
    if references is None or isinstance(references, References):
        return references
    return references.get(dataset)


def _interval_text(interval: Interval | None, places: int) -> str:
    return "" if interval is None else f"{interval.low:.{places}f} to {interval.high:.{places}f}"


def _score_text(result: Result, scale: References | None) -> str:
    return "" if scale is None else f"{float(normalised_score(result.mean, scale)):.1f}"


def _ratio_text(result: Result, base: float | None) -> str:
    # A ratio of returns of different sign says nothing.
    if base is None or base <= 0.0 or result.mean < 0.0:
        return ""
    return f"{result.mean / base:.2f}"


def _seeds_text(result: Result, places: int) -> str:
    several = len(result.returns) > 1
    return ", ".join(f"{x:.{places}f}" for x in result.returns) if several else ""


def _footnotes(
    results: Sequence[Result], references: References | Mapping[str, References | None] | None
) -> list[str]:
    scales = {r.dataset: _scale(references, r.dataset) for r in results}
    lines = [
        f"Normalised: 0 is random ({s.random:g}), 100 is expert ({s.expert:g}); {s.source}."
        for s in dict.fromkeys(s for s in scales.values() if s is not None)
    ]
    if any(r.interval is None and len(r.returns) > 1 for r in results):
        lines.append("Intervals: 95 %, Student's t over the seeds.")
    return lines


def _provenance_lines(facts: Mapping[str, object], seeds: Sequence[int]) -> str:
    commit = facts.get("commit") or "not from a git checkout"
    if facts.get("dirty"):
        commit = f"{commit} with uncommitted changes"
    machine = facts.get("machine")
    packages = facts.get("packages")
    lines = {
        "command": f"`{facts.get('command', '')}`",
        "commit": commit,
        "seeds": ", ".join(map(str, seeds)),
        "machine": describe_machine(machine) if isinstance(machine, dict) else machine,
        "date": facts.get("date", ""),
        "python": facts.get("python", ""),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items())
        if isinstance(packages, Mapping)
        else "",
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items() if value)


def _as_json(result: Result, scale: References | None) -> dict[str, object]:
    interval = result.confidence_interval()
    return {
        "dataset": result.dataset,
        "policy": result.name,
        "returns": [float(x) for x in result.returns],
        "mean": result.mean,
        "interval": None if interval is None else [interval.low, interval.high],
        "normalised": None if scale is None else float(normalised_score(result.mean, scale)),
        "note": result.note,
    }
