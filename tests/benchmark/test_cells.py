"""Which runs a suite needs, what each is made of, and which are still to do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.benchmark.cells import (
    Cell,
    Choice,
    make_cells,
    missing,
    result_file,
    write_json,
)
from rllib_om2p.benchmark.suite import Method, Suite, Task
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.writer import DatasetWriter
from tests.small_data import write_spread

SPREAD = "mpe/simple_spread"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("data"))
    for seed, quality in enumerate(("medium", "expert")):
        write_spread(folder / SPREAD / quality, num_episodes=4, seed=seed)
    return folder


def make_suite(**changes: Any) -> Suite:
    fields: dict[str, Any] = {
        "name": "mine",
        "title": "a test",
        "methods": [
            Method("A", "OM2P", {"eta": 0.5}, {"expert": {"eta": 0.1, "tau": 0.2}}),
            Method("B", "OM2P", {"lr": 1e-4}),
        ],
        "tasks": [Task(SPREAD, ["medium", "expert"], 3, 2, {"gamma": 0.9, "tau": 0.1})],
        "seeds": [0, 7],
        "num_updates": 10,
        "num_points": 2,
        "settings": {"lr": 1e-3, "gamma": 0.5},
    }
    return Suite(**fields | changes)


def cells(data: Path, suite: Suite | None = None, **choice: Any) -> list[Cell]:
    return make_cells(suite or make_suite(), data, ALGORITHMS, Choice(**choice))


def test_cells_go_seed_by_seed_then_dataset_then_method(data):
    found = [(cell.seed, cell.quality, cell.method) for cell in cells(data)]
    assert found == [
        (seed, quality, method)
        for seed in (0, 7)
        for quality in ("medium", "expert")
        for method in ("A", "B")
    ]


def test_settings_that_have_no_meaning_together_are_refused_before_anything_is_trained(data):
    method = Method("A", "OM2P", {"adaptive_eta": 0.1}, {"expert": {"advantage_temperature": 1.0}})
    with pytest.raises(ValueError, match=f"^A on {SPREAD}/expert: advantage_temperature must"):
        cells(data, make_suite(methods=[method]))


def test_own_settings_stand_over_the_task_and_the_task_over_the_suite(data):
    settings = {(c.method, c.quality): c.settings for c in cells(data, seeds=[0])}
    shared = {"lr": 1e-3, "gamma": 0.9, "tau": 0.1}
    assert settings["A", "medium"] == shared | {"eta": 0.5}
    assert settings["A", "expert"] == shared | {"eta": 0.1, "tau": 0.2}
    assert settings["B", "medium"] == shared | {"lr": 1e-4}


def test_a_part_of_a_suite_can_be_chosen(data):
    assert {c.method for c in cells(data, only=["B"])} == {"B"}
    assert {c.method for c in cells(data, only=["OM2P"])} == {"A", "B"}
    assert {c.quality for c in cells(data, datasets=["*/expert"])} == {"expert"}
    assert {c.seed for c in cells(data, seeds=[7])} == {7}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"only": ["A", "C"]}, r"--only: suite 'mine' has no \['C'\]; it has \['A', 'OM2P', 'B'\]"),
        ({"datasets": ["*/random"]}, r"--datasets: .* has no \['\*/random'\]; .*simple_spread/exp"),
        ({"seeds": [3]}, r"--seeds: .* has no \[3\]; it has \[0, 7\]"),
    ],
)
def test_choosing_what_is_not_there_is_refused(data, choice, message):
    with pytest.raises(ValueError, match=message):
        cells(data, **choice)


def test_unknown_algorithm_is_named_and_the_others_can_be_run(data):
    suite = make_suite(methods=[Method("A", "OM2P"), Method("X", "Alchemy")])
    with pytest.raises(ValueError, match=r"not there: \['Alchemy'\].*--only A\."):
        cells(data, suite)
    assert {c.method for c in cells(data, suite, only=["A"])} == {"A"}


def test_missing_dataset_is_named_with_the_command_that_makes_it(data):
    suite = make_suite(tasks=[Task(SPREAD, ["medium-replay"], 1, 1)])
    with pytest.raises(ValueError, match="make-dataset mpe/simple_spread medium-replay --out"):
        cells(data, suite)


def test_dataset_of_another_environment_is_refused(data, tmp_path):
    write_spread(tmp_path / "mpe/simple_tag/medium", num_episodes=2)
    suite = make_suite(tasks=[Task("mpe/simple_tag", ["medium"], 1, 1)])
    with pytest.raises(ValueError, match="of 'mpe/simple_spread', not of 'mpe/simple_tag'"):
        cells(tmp_path, suite)


def test_dataset_whose_team_returns_are_formed_otherwise_is_refused(data, tmp_path):
    dataset = OfflineDataset.open(str(data / SPREAD / "medium"))
    spec = dataclasses.replace(dataset.spec, team_return="sum")
    with DatasetWriter(tmp_path / SPREAD / "medium", spec) as writer:
        for episode in dataset.episodes():
            writer.write_episode(episode)
    with pytest.raises(ValueError, match="return as 'sum', and mpe/simple_spread, .* as 'mean ov"):
        cells(tmp_path, make_suite(tasks=[Task(SPREAD, ["medium"], 1, 1)]))


def test_part_of_a_suite_may_lack_what_the_shared_settings_are_for(data):
    methods = [Method("A", "OM2P", {}), Method("B", "BC", {})]
    suite = make_suite(methods=methods, settings={"critic_hidden": (8,)})
    cell = cells(data, suite, only=["B"], seeds=[0])[0]
    assert "critic_hidden" not in cell.settings


def test_unknown_settings_are_refused_own_and_shared(data):
    with pytest.raises(ValueError, match="OM2PConfig knows no 'etta'; did you mean eta"):
        cells(data, make_suite(methods=[Method("A", "OM2P", {"etta": 1.0})]))
    with pytest.raises(ValueError, match=r"no method of it has the settings \['actor_hiden'\]"):
        cells(data, make_suite(settings={"actor_hiden": (8,)}))


def write_result(folder: Path, cell: Cell) -> None:
    write_json(result_file(folder, cell), {"cell": cell.identity(), "returns": [1.0]})


def test_cells_with_results_are_done(data, tmp_path):
    found = cells(data, make_suite(settings={"actor_hidden": (8, 8)}))
    assert missing(found, tmp_path) == found
    write_result(tmp_path, found[1])
    assert missing(found, tmp_path) == [found[0], *found[2:]]


def test_damaged_result_is_named(data, tmp_path):
    (cell, *_) = cells(data)
    write_result(tmp_path, cell)
    file = result_file(tmp_path, cell)
    file.write_text(file.read_text()[:20])
    with pytest.raises(ValueError, match=rf"{file.name}' is no JSON .*; remove or renew it"):
        missing([cell], tmp_path)


def test_result_without_a_cell_is_no_result_of_the_suite(data, tmp_path):
    (cell, *_) = cells(data)
    write_json(result_file(tmp_path, cell), {"returns": [1.0]})
    with pytest.raises(ValueError, match="was made otherwise: suite None"):
        missing([cell], tmp_path)


def test_compiled_results_count_beside_others(data, tmp_path):
    (old, *_) = cells(data)
    write_result(tmp_path, old)
    (compiled, *_) = cells(data, make_suite(torch_compile=True))
    assert (old.torch_compile, compiled.torch_compile) == (False, True)
    assert missing([compiled], tmp_path) == []


def test_result_of_other_settings_or_data_is_refused(data, tmp_path):
    (old, *_) = cells(data)
    write_result(tmp_path, old)
    changed = make_suite(methods=[Method("A", "OM2P", {"eta": 0.6})])
    with pytest.raises(
        ValueError, match=r"simple_spread-medium-A-0\.json was made otherwise: sett"
    ):
        missing(cells(data, changed), tmp_path)
    write_spread(tmp_path / "other" / SPREAD / "medium", num_episodes=4, seed=50)
    other = cells(tmp_path / "other", datasets=["*/medium"], seeds=[0], only=["A"])
    with pytest.raises(ValueError, match="was made otherwise: fingerprint"):
        missing(other, tmp_path)


def test_records_are_read_back_and_lists_stay_on_their_line(tmp_path):
    record = {"returns": [1.0, 2.5], "cell": {"name": "x"}, "none": None}
    write_json(tmp_path / "record.json", record)
    text = (tmp_path / "record.json").read_text()
    assert json.loads(text) == record
    assert '"returns": [1.0, 2.5],\n' in text
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]
