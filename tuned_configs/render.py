"""Renders the comparison's JSON files as tables and plots; adds nothing to the numbers."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rllib_om2p.evaluation.figures import Curve, save_learning_curve
from rllib_om2p.evaluation.report import Result, results_table
from rllib_om2p.evaluation.scores import References

ORDER = ("data", "behaviour", "bc", "om2p", "om2p-vdn")
TITLES = {
    "data": "data",
    "behaviour": "behaviour, re-rolled",
    "bc": "BC (one-step mean flow, eta = 0)",
    "om2p": "OM2P, own critic (the paper's)",
    "om2p-vdn": "OM2P, VDN critic (ours)",
}
QUALITIES = ("medium-replay", "medium", "medium-expert", "medium-expert-50", "expert")
# Ratios of means that a prototype reached: (method, quality) -> {baseline: ratio}.
FLOORS = {
    ("om2p", "medium-expert"): {"data": 1.10, "bc": 1.15},
    ("om2p", "medium-replay"): {"data": 1.15, "bc": 1.15},
    ("om2p", "medium"): {"data": 1.00, "bc": 1.03},
    ("om2p", "expert"): {"bc": 0.98},
    ("om2p-vdn", "medium"): {"data": 1.10, "bc": 1.12},
    ("om2p-vdn", "medium-expert"): {"data": 1.12},
    ("om2p-vdn", "medium-replay"): {"data": 1.25},
    ("om2p-vdn", "expert"): {"data": 0.97},
}


def load(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the records by (quality, method), ordered by seed."""
    cells = defaultdict(list)
    for file in sorted(folder.glob("simple_spread-*.json")):
        record = json.loads(file.read_text())
        cells[record["quality"], record["method"]].append(record)
    for records in cells.values():
        records.sort(key=lambda record: record["seed"])
    return dict(cells)


def results(cells: dict[tuple[str, str], list[dict[str, Any]]]) -> list[Result]:
    """Return one row per quality and method, with the data's own mean first."""
    rows = []
    for quality in QUALITIES:
        found = [m for m in ORDER if (quality, m) in cells]
        if not found:
            continue
        record = cells[quality, found[-1]][0]
        rows.append(Result(TITLES["data"], [record["dataset_return"]], quality))
        for method in found:
            records = cells[quality, method]
            eta = records[0].get("hyperparameters", {}).get("eta")
            note = f"eta {eta:g}" if method.startswith("om2p") else ""
            means = [float(np.mean(r["returns"])) for r in records]
            rows.append(Result(TITLES[method], means, quality, note=note))
    return rows


def floors(rows: Sequence[Result]) -> str:
    """Return a Markdown table of the ratios that were asked for and reached."""
    mean = {(row.dataset, row.name): row.mean for row in rows}
    lines = ["| method | data set | ratio to | floor | reached |", "|---|---|---|---:|---:|"]
    for (method, quality), ratios in FLOORS.items():
        for baseline, floor in ratios.items():
            own = mean.get((quality, TITLES[method]))
            base = mean.get((quality, TITLES[baseline]))
            if own is None or base is None:
                continue
            mark = "" if own / base >= floor else " (missed)"
            lines.append(
                f"| {TITLES[method]} | {quality} | {baseline} | {floor:.2f} | "
                f"{own / base:.2f}{mark} |"
            )
    return "\n".join(lines)


def render(folder: Path) -> None:
    """Write tables.md and one learning-curve picture per quality into the results' folder.

    RESULTS.md quotes the tables; its words are written by a person.
    """
    cells = load(folder)
    if not cells:
        sys.exit(f"no results in {folder}; run the `train` command first.")
    rows = results(cells)
    references = References.from_mapping(next(iter(cells.values()))[0]["references"])
    table = results_table(rows, references=references, baseline="data")
    print(table.text())
    text = table.markdown() + "\n\n" + floors(rows) + "\n"
    (folder / "tables.md").write_text(text)
    for quality in QUALITIES:
        methods = [m for m in ORDER[2:] if (quality, m) in cells]
        if not methods:
            continue
        curves = [
            Curve(TITLES[method], *zip(*record["curve"], strict=True))
            for method in methods
            for record in cells[quality, method]
        ]
        save_learning_curve(
            folder / f"simple_spread-{quality}.png",
            curves,
            title=f"simple_spread, {quality}",
            lines={"data": cells[quality, methods[0]][0]["dataset_return"]},
            references=references,
        )
