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
from rllib_om2p.evaluation.provenance import describe_machine
from rllib_om2p.evaluation.report import Result, results_table
from rllib_om2p.evaluation.scores import References
from tuned_configs import markers

BEGIN = markers.begin("tuned_configs.compare render")
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


def distances(cells: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """Return how far the policies' actions are from the data's, as a Markdown table."""
    lines = [
        "| data set | " + " | ".join(TITLES[m] for m in ORDER[2:]) + " |",
        "|---|---:|---:|---:|",
    ]
    for quality in QUALITIES:
        row = []
        for method in ORDER[2:]:
            records = cells.get((quality, method), [])
            row.append(f"{np.mean([r['action_rmse'] for r in records]):.3f}" if records else "")
        if any(row):
            lines.append(f"| {quality} | " + " | ".join(row) + " |")
    return (
        "Root mean square distance of one-step actions to the data's actions, at the same "
        "observations, mean over the seeds:\n\n" + "\n".join(lines)
    )


def made_with(cells: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """Return who made the numbers: commits, machines, dates, seeds, speed."""
    records = [r for (_, method), found in cells.items() for r in found if method in ORDER[2:]]
    facts = [r["provenance"] for r in records]
    commits = sorted({f"{f['commit'][:7]}" + (" (dirty)" if f["dirty"] else "") for f in facts})
    dates = sorted(str(f["date"])[:10] for f in facts)
    speeds = [r["updates_per_second"] for r in records]
    return (
        f"{len(records)} runs of {sorted({r['updates'] for r in records})} updates, seeds "
        f"{sorted({r['seed'] for r in records})}, commit {', '.join(commits)}, {dates[0]} to "
        f"{dates[-1]}, {describe_machine(facts[0]['machine'])}; {min(speeds):.0f} to "
        f"{max(speeds):.0f} updates/s, one thread each, two at a time."
    )


def render(folder: Path) -> None:
    """Put the tables into RESULTS.md and one learning-curve picture per quality beside the JSON.

    Only what stands between the two marks is replaced; the words are a person's.
    """
    cells = load(folder)
    if not cells:
        sys.exit(f"no results in {folder}; run the `train` command first.")
    rows = results(cells)
    references = References.from_mapping(next(iter(cells.values()))[0]["references"])
    table = results_table(rows, references=references, baseline="data")
    print(table.text())
    parts = [table.markdown(), floors(rows), distances(cells), made_with(cells)]
    markers.replace_between(folder.parent / "RESULTS.md", BEGIN, "\n\n".join(parts))
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
