"""Renders the comparison's JSON files as tables and plots; adds nothing to the numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rllib_om2p.evaluation.figures import Curve, save_learning_curve
from rllib_om2p.evaluation.provenance import describe_machine
from rllib_om2p.evaluation.report import Result, results_table
from rllib_om2p.evaluation.scores import References
from tuned_configs import markers

Cells = dict[tuple[str, str], list[dict[str, Any]]]
"""Records by (quality, method), ordered by seed."""

ORDER = ("data", "behaviour", "bc", "om2p", "om2p-vdn")
TITLES = {
    "data": "data",
    "behaviour": "behaviour, re-rolled",
    "bc": "BC (one-step mean flow, eta = 0)",
    "om2p": "OM2P, own critic (the paper's)",
    "om2p-vdn": "OM2P, VDN critic (ours)",
}
QUALITIES = ("medium-replay", "medium", "medium-expert", "medium-expert-50", "expert")
# Ratios of means that a prototype reached on simple_spread: (method, quality) -> {baseline: ratio}.
FLOORS_ENV = "mpe/simple_spread"
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


def load(folder: Path) -> dict[str, Cells]:
    """Return each environment's records."""
    found: dict[str, Cells] = {}
    for file in sorted(folder.glob("*-*-*.json")):
        record = json.loads(file.read_text())
        cells = found.setdefault(record["env"], {})
        cells.setdefault((record["quality"], record["method"]), []).append(record)
    for cells in found.values():
        for records in cells.values():
            records.sort(key=lambda record: record["seed"])
    return found


def results(cells: Cells) -> list[Result]:
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


def distances(cells: Cells) -> str:
    """Return how far the policies' actions are from the data's, as a Markdown table."""
    methods = [m for m in ORDER[2:] if any(method == m for _, method in cells)]
    lines = [
        "| data set | " + " | ".join(TITLES[m] for m in methods) + " |",
        "|---|" + "---:|" * len(methods),
    ]
    for quality in QUALITIES:
        row = []
        for method in methods:
            records = cells.get((quality, method), [])
            row.append(f"{np.mean([r['action_rmse'] for r in records]):.3f}" if records else "")
        if any(row):
            lines.append(f"| {quality} | " + " | ".join(row) + " |")
    return (
        "Root mean square distance of one-step actions to the data's actions, at the same "
        "observations, mean over the seeds:\n\n" + "\n".join(lines)
    )


def made_with(cells: Cells) -> str:
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
    """Put the tables into RESULTS.md and one learning-curve picture per data set beside the JSON.

    Only what stands between an environment's two marks is replaced; the words are a person's.
    """
    found = load(folder)
    if not found:
        sys.exit(f"no results in {folder}; run the `train` command first.")
    for env, cells in found.items():
        references = References.from_mapping(next(iter(cells.values()))[0]["references"])
        rows = results(cells)
        table = results_table(rows, references=references, baseline="data")
        print(f"{env}\n{table.text()}")
        parts = [table.markdown(), distances(cells), made_with(cells)]
        if env == FLOORS_ENV:
            parts.insert(1, floors(rows))
        mark = markers.begin(f"tuned_configs.compare render, {env}")
        markers.replace_between(folder.parent / "RESULTS.md", mark, "\n\n".join(parts))
        _draw_curves(folder, env.split("/")[-1], cells, references)


def _draw_curves(folder: Path, task: str, cells: Cells, references: References | None) -> None:
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
            folder / f"{task}-{quality}.png",
            curves,
            title=f"{task}, {quality}",
            lines={"data": cells[quality, methods[0]][0]["dataset_return"]},
            references=references,
        )
