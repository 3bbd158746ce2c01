"""Runs that another suite beside this one has already made: taken over, not trained again.

Suites overlap: the plain algorithm stands in the comparison and in each of its ablations. A run is
the same if algorithm, all hyperparameters (not only those that a suite names), data, seed, updates
and evaluation are the same. Its record keeps who made it and when.

A record lacks hyperparameters that came after it; they count as what their default makes of it,
which leaves an algorithm as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rllib_om2p import disk
from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.benchmark.cells import (
    Cell,
    failure_file,
    require_same,
    result_file,
    write_json,
)
from rllib_om2p.benchmark.training import hyperparameters, make_config
from rllib_om2p.core.settings import apply_settings
from rllib_om2p.evaluation.records import WITHOUT_EFFECT, read_record

TAKEN_FROM = "taken_from"
_RUN = (
    "algorithm",
    "dataset",
    "fingerprint",
    "seed",
    "num_updates",
    "num_points",
    "episodes",
    "curve_episodes",
    "first_seed",
    "curve_seed",
)


def take_over(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Write the results of cells that other suites have made, and return these cells.

    Args:
        cells: Those without a result.
        folder: Of this suite's results; other suites' are the folders beside it.

    Raises:
        ValueError: A result there is damaged; the text names it.
    """
    made = _made_beside(folder)
    found = []
    for cell in cells:
        if cell.fresh_process or cell.gpus:
            continue  # its cost is what it is run for
        for source in made.get(_identity(asdict(cell), hyperparameters(make_config(cell))), ()):
            if source.with_suffix(".npz").exists() or not _keeps_samples(cell):
                _copy(source, cell, folder)
                found.append(cell)
                break
    return found


def _made_beside(folder: Path) -> dict[str, list[Path]]:
    """Return the results in other suites' folders by what their runs were."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.parent.glob("*/*.json")):
        if file.parent.resolve() == folder.resolve():
            continue
        record = read_record(file)
        if "cell" in record and "hyperparameters" in record:
            identity = _identity(record["cell"], complete(record))
            found.setdefault(identity, []).append(file)
    return found


def require_same_defaults(cells: Sequence[Cell], folder: Path) -> None:
    """Check that results were made with the hyperparameters that their cells have today.

    A cell names only what a suite sets; a default that has changed since is seen here.

    Raises:
        ValueError: One was made otherwise; the text says which, and what to do.
    """
    for cell in cells:
        file = result_file(folder, cell)
        record = read_record(file) if file.exists() else {}
        if "hyperparameters" not in record:
            continue
        require_same(file, complete(record), _with_effect(hyperparameters(make_config(cell))))


def complete(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's hyperparameters, and what those that came after it were."""
    then: dict[str, Any] = record["hyperparameters"]
    if record["cell"]["algorithm"] not in ALGORITHMS:
        return then
    config = ALGORITHMS[record["cell"]["algorithm"]][1]()
    apply_settings(config, record["cell"]["settings"])
    return hyperparameters(config) | then


def _keeps_samples(cell: Cell) -> bool:
    return cell.keep_actions and cell.episodes > 0


def _with_effect(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in WITHOUT_EFFECT}


def _identity(run: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    facts = {name: run.get(name) for name in _RUN} | {"hyperparameters": _with_effect(values)}
    return json.dumps(facts, sort_keys=True)


def _copy(source: Path, cell: Cell, folder: Path) -> None:
    record = read_record(source)
    identity = cell.identity()
    file = result_file(folder, cell)
    folder.mkdir(parents=True, exist_ok=True)
    if _keeps_samples(cell):
        samples = source.with_suffix(".npz").read_bytes()
        disk.write_whole(file.with_suffix(".npz"), lambda opened: opened.write(samples))
    changed = {
        "suite": cell.suite,
        "method": cell.method,
        "overrides": identity["settings"],
        "cell": identity,
        TAKEN_FROM: f"{source.parent.name}/{source.name}",
    }
    write_json(file, record | changed)
    failure_file(folder, cell).unlink(missing_ok=True)
