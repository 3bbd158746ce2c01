"""A run that another suite made is taken over; one that differs in anything is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.benchmark.cells import (
    Cell,
    failure_file,
    make_cells,
    missing,
    result_file,
    write_json,
)
from rllib_om2p.benchmark.reuse import require_same_defaults, take_over
from rllib_om2p.benchmark.suite import Method, Suite, Task
from rllib_om2p.benchmark.training import CellRun
from rllib_om2p.evaluation.provenance import provenance
from tests.small_data import write_spread

pytestmark = pytest.mark.usefixtures("ray_cluster")

SPREAD = "mpe/simple_spread"
SMALL = {"actor_hidden": (8, 8), "critic_hidden": (8, 8), "train_batch_size": 32}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Cell]]:
    """Make the cells of a suite of one method."""
    data = Path(tmp_path_factory.mktemp("data"))
    write_spread(data / SPREAD / "medium")

    def cells(suite: str, own: dict[str, Any], **changes: Any) -> list[Cell]:
        fields: dict[str, Any] = {
            "name": suite,
            "title": "a test",
            "methods": [Method(suite.upper(), "OM2P", own)],
            "tasks": [Task(SPREAD, ["medium"], 8, 4)],
            "seeds": [0],
            "num_updates": 20,
            "num_points": 2,
            "settings": SMALL,
        }
        return make_cells(Suite(**fields | changes), data, ALGORITHMS)

    return cells


@pytest.fixture(scope="module")
def trained(make: Callable[..., list[Cell]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of suite "a": one run, with eta 0.5."""
    folder = Path(tmp_path_factory.mktemp("results")) / "a"
    folder.mkdir()
    (cell,) = make("a", {"eta": 0.5})
    run = CellRun(cell, folder, provenance("a test"))
    while not run.is_trained:
        run.advance()
    run.finish()
    run.stop()
    return folder


@pytest.fixture
def made(trained: Path, tmp_path: Path) -> Path:
    """The same in a place of its own."""
    return Path(shutil.copytree(trained, tmp_path / "results" / "a"))


def test_the_same_run_is_taken_over_with_its_makers_provenance(make, made):
    # Another name, and a default that is spelled out.
    cells = make("b", {"eta": 0.5, "num_critics": 2})
    folder = made.parent / "b"
    assert take_over(cells, folder) == cells
    assert missing(cells, folder) == []
    (cell,) = cells
    old = json.loads((made / "mpe-simple_spread-medium-A-0.json").read_text())
    new = json.loads(result_file(folder, cell).read_text())
    assert new.pop("taken_from") == "a/mpe-simple_spread-medium-A-0.json"
    assert (new["suite"], new["method"], new["cell"]) == ("b", "B", cell.identity())
    assert new["overrides"] == cell.identity()["settings"]
    for record in (old, new):
        for name in ("suite", "method", "cell", "overrides"):
            del record[name]
    assert new == old
    samples = result_file(folder, cell).with_suffix(".npz")
    assert samples.read_bytes() == (made / "mpe-simple_spread-medium-A-0.npz").read_bytes()


def test_failure_of_a_run_is_forgotten_when_it_is_taken_over(make, made):
    (cell,) = make("b", {"eta": 0.5})
    folder = made.parent / "b"
    folder.mkdir()
    write_json(failure_file(folder, cell), {"cell": cell.identity(), "error": "no"})
    assert take_over([cell], folder) == [cell]
    assert not failure_file(folder, cell).exists()


def test_damaged_result_of_another_suite_is_named(make, made):
    file = made / "mpe-simple_spread-medium-A-0.json"
    file.write_text("")
    with pytest.raises(ValueError, match=rf"a/{file.name}' is no JSON .*; remove or renew it"):
        take_over(make("b", {"eta": 0.5}), made.parent / "b")


def test_a_compiled_run_is_the_same_run(make, made):
    cells = make("b", {"eta": 0.5}, torch_compile=True)
    assert take_over(cells, made.parent / "b") == cells


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"eta": 0.4}, {}),
        ({"eta": 0.5, "derivative": "none"}, {}),
        ({"eta": 0.5}, {"seeds": [1]}),
        ({"eta": 0.5}, {"num_updates": 22}),
        ({"eta": 0.5}, {"num_points": 4}),
        ({"eta": 0.5}, {"first_seed": 5}),
        ({"eta": 0.5}, {"tasks": [Task(SPREAD, ["medium"], 9, 4)]}),
        ({"eta": 0.5}, {"settings": SMALL | {"lr": 2e-4}}),
        ({"eta": 0.5}, {"fresh_process": True}),
    ],
)
def test_a_run_that_differs_is_not(make, made, settings, changes):
    cells = make("c", settings, **changes)
    assert take_over(cells, made.parent / "c") == []
    assert not (made.parent / "c").exists()


def test_a_run_on_other_data_or_of_an_older_default_is_not(make, made, tmp_path):
    (cell,) = make("d", {"eta": 0.5})
    other = replace(cell, fingerprint="0" * 64)
    assert take_over([other], made.parent / "d") == []
    record = json.loads((made / "mpe-simple_spread-medium-A-0.json").read_text())
    record["hyperparameters"]["num_critics"] = 3
    (tmp_path / "older").mkdir()
    write_json(tmp_path / "older" / "mpe-simple_spread-medium-A-0.json", record)
    assert take_over([cell], tmp_path / "d") == []


def test_own_results_and_runs_without_the_samples_that_are_wanted_are_not(make, made, tmp_path):
    (cell,) = make("a", {"eta": 0.5})
    assert take_over([cell], made) == []
    file = made / "mpe-simple_spread-medium-A-0.json"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / file.name).write_bytes(file.read_bytes())
    (cell,) = make("e", {"eta": 0.5})
    assert take_over([cell], tmp_path / "e") == []
    without = replace(cell, keep_actions=False)
    assert take_over([without], tmp_path / "e") == [without]


def test_a_record_from_before_a_setting_is_as_its_default_made_it(make, made, tmp_path):
    cells = make("f", {"eta": 0.5})
    record = json.loads((made / "mpe-simple_spread-medium-A-0.json").read_text())
    del record["hyperparameters"]["conservative_weight"]
    shutil.copytree(made, tmp_path / "older")
    write_json(tmp_path / "older" / "mpe-simple_spread-medium-A-0.json", record)
    assert take_over(make("g", {"eta": 0.5, "conservative_weight": 1.0}), tmp_path / "g") == []
    assert take_over(cells, tmp_path / "f") == cells


def test_a_result_under_a_default_that_has_changed_since_is_refused(make, made):
    cells = make("a", {"eta": 0.5})
    require_same_defaults(cells, made)
    file = made / "mpe-simple_spread-medium-A-0.json"
    record = json.loads(file.read_text())
    record["hyperparameters"]["tau"] = 0.25
    write_json(file, record)
    with pytest.raises(ValueError, match=r"made otherwise: tau 0\.25 \(now 0\.005\)\. Move it"):
        require_same_defaults(cells, made)
