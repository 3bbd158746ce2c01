"""One cell: its record, and that neither an interruption nor earlier cells change it."""

from __future__ import annotations

import json
import mmap
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.benchmark import memory
from rllib_om2p.benchmark.cells import Cell, make_cells, missing
from rllib_om2p.benchmark.runner import CellTrial
from rllib_om2p.benchmark.suite import Method, Suite, Task
from rllib_om2p.benchmark.training import CellRun
from rllib_om2p.core.checkpoint import MARKER
from rllib_om2p.evaluation.provenance import provenance
from tests.small_data import write_spread

pytestmark = pytest.mark.usefixtures("ray_cluster")

SPREAD = "mpe/simple_spread"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    data = Path(tmp_path_factory.mktemp("data"))
    write_spread(data / SPREAD / "medium")
    suite = Suite(
        name="mine",
        title="a test",
        methods=[Method("A", "OM2P", {"eta": 0.5}), Method("B", "OM2P", {"critic": "vdn"})],
        tasks=[Task(SPREAD, ["medium"], 8, 4)],
        seeds=[0, 1],
        num_updates=20,
        num_points=4,
        settings={"actor_hidden": (8, 8), "critic_hidden": (8, 8), "train_batch_size": 32},
    )
    return make_cells(suite, data, ALGORITHMS)


def run(cell: Cell, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    training = CellRun(cell, folder, provenance("a test"))
    while not training.is_trained:
        training.advance()
    record = training.finish()
    training.stop()
    return record


@pytest.fixture(scope="module")
def first(cells: list[Cell], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The record of the first cell, and its folder."""
    folder = Path(tmp_path_factory.mktemp("results"))
    return folder, run(cells[0], folder)


def test_record_holds_what_the_report_and_a_reader_need(cells, first):
    folder, record = first
    (file,) = folder.glob("*.json")
    assert file.name == "mpe-simple_spread-medium-A-0.json"
    assert json.loads(file.read_text()) == record
    assert record["dataset_id"] == "simple_spread-random-0"
    assert record["updates"] == 20
    assert len(record["returns"]) == 8
    assert [step for step, _ in record["curve"]] == [5, 10, 15, 20]
    assert record["overrides"]["eta"] == record["hyperparameters"]["eta"] == 0.5
    assert record["hyperparameters"]["gamma"] == 0.99
    assert record["memory_mib"]["peak"] >= record["memory_mib"]["built"] > 0
    assert record["update_ms"]["wall"] == pytest.approx(1e3 / record["updates_per_second"], 1e-4)
    assert missing(cells, folder) == cells[1:]


def test_record_names_no_folder_of_the_machine(first):
    folder, _ = first
    (file,) = folder.glob("*.json")
    text = file.read_text()
    assert str(folder) not in text
    assert "/tmp" not in text


def test_samples_of_actions_are_kept_for_the_first_seed_only(cells, first, tmp_path):
    folder, _ = first
    with np.load(folder / "mpe-simple_spread-medium-A-0.npz") as arrays:
        assert {name.split("/")[0] for name in arrays.files} == {"agent_0", "agent_1", "agent_2"}
        assert np.abs(arrays["agent_0/policy"]).max() <= 1.0
    run(cells[2], tmp_path / "second-seed")
    assert not list((tmp_path / "second-seed").glob("*.npz"))


def test_warming_up_for_the_memory_changes_no_result(cells, first, tmp_path):
    record = run(replace(cells[0], fresh_process=True), tmp_path)
    assert record["memory_mib"]["fresh_process"]
    for name in ("returns", "curve", "metrics"):
        assert record[name] == first[1][name]


def test_cell_that_is_not_scored_never_acts(cells, tmp_path):
    record = run(replace(cells[0], episodes=0, curve_episodes=0), tmp_path)
    assert record["returns"] == record["curve"] == []
    assert "action_rmse" not in record
    assert record["updates_per_second"] > 0
    assert [file.suffix for file in tmp_path.iterdir() if file.is_file()] == [".json"]


def test_cell_does_not_depend_on_those_before_it_in_its_process(cells, first, tmp_path):
    run(cells[1], tmp_path / "between")
    again = run(cells[0], tmp_path / "again")
    for name in ("returns", "curve", "metrics", "action_rmse"):
        assert again[name] == first[1][name]


def test_saved_cell_ends_like_the_uninterrupted_one(cells, first, tmp_path):
    begun = CellRun(cells[0], tmp_path, provenance("a test"))
    begun.advance()
    begun.save()
    begun.advance()  # lost
    begun.stop()
    resumed = CellRun(cells[0], tmp_path, provenance("a test"))
    assert resumed.num_updates == 5
    resumed.stop()
    record = run(cells[0], tmp_path)
    for name in ("returns", "curve", "metrics"):
        assert record[name] == first[1][name]
    assert not list((tmp_path / ".unfinished").iterdir())


def test_a_resumed_run_names_all_commits_that_trained_it(cells, first, tmp_path):
    facts = provenance("a test") | {"commit": "old", "dirty": True}
    begun = CellRun(cells[0], tmp_path, facts)
    begun.advance()
    begun.save()
    begun.stop()
    resumed = CellRun(cells[0], tmp_path, facts | {"commit": "new", "dirty": False})
    while not resumed.is_trained:
        resumed.advance()
    made = resumed.finish()["provenance"]
    resumed.stop()
    assert (made["commit"], made["earlier_commits"], made["dirty"]) == ("new", ["old"], True)
    assert "earlier_commits" not in first[1]["provenance"]


def begin(cell: Cell, folder: Path, num_points: int) -> Path:
    """Train to a point, save, and return where."""
    begun = CellRun(cell, folder, provenance("a test"))
    for _ in range(num_points):
        begun.advance()
    begun.save()
    begun.stop()
    (saved,) = (folder / ".unfinished").iterdir()
    return saved


def test_what_a_killed_writer_left_is_put_right(cells, tmp_path):
    saved = begin(cells[0], tmp_path, 1)
    # Killed between the two moves where directories cannot change places, after an earlier kill.
    saved.rename(saved.with_name(f".{saved.name}.old"))
    left = saved.with_name(f".{saved.name}.writing-1")
    left.mkdir()
    resumed = CellRun(cells[0], tmp_path, provenance("a test"))
    assert resumed.num_updates == 5
    assert not left.exists()
    resumed.stop()


def test_state_that_cannot_be_restored_is_named(cells, tmp_path):
    saved = begin(cells[0], tmp_path, 1)
    (saved / MARKER).unlink()  # half removed
    message = f"A-0 cannot go on from the state at {saved} .*not a whole.*; delete that folder"
    with pytest.raises(ValueError, match=message):
        CellRun(cells[0], tmp_path, provenance("a test"))
    (saved / "log.json").write_text("{")
    with pytest.raises(ValueError, match="JSONDecodeError.*; delete that folder"):
        CellRun(cells[0], tmp_path, provenance("a test"))


def test_update_time_leaves_out_the_first_point_of_each_process(cells, tmp_path):
    saved = begin(cells[0], tmp_path, 3)
    log = json.loads((saved / "log.json").read_text())
    assert log["log"]["first_points"] == [0]
    # Of 5 updates each. The first of this process is slow too, and so is the third point, as if it
    # had been the first of another; the fourth is the one that is trained below.
    log["log"]["points"] = [[90.0, 80.0], [0.5, 0.25], [70.0, 60.0]]
    log["log"]["first_points"] = [0, 2]
    (saved / "log.json").write_text(json.dumps(log))
    record = run(cells[0], tmp_path)
    assert record["update_ms"] == {"wall": 100.0, "processor": 50.0}
    assert record["updates_per_second"] == 10.0


def test_run_of_a_single_point_has_no_update_time(cells, tmp_path):
    record = run(replace(cells[0], num_points=1, episodes=0, curve_episodes=0), tmp_path)
    assert record["update_ms"] is record["updates_per_second"] is None
    assert record["seconds"]["train"] > 0


def test_cell_saved_under_other_settings_begins_anew(cells, tmp_path):
    begun = CellRun(cells[0], tmp_path, provenance("a test"))
    begun.advance()
    begun.save()
    begun.stop()
    other = replace(cells[0], settings=cells[0].settings | {"eta": 0.7})
    resumed = CellRun(other, tmp_path, provenance("a test"))
    assert resumed.num_updates == 0
    resumed.stop()


def test_trial_saves_itself_when_time_is_up_and_the_next_does_not_begin(cells, first, tmp_path):
    config = {"folder": str(tmp_path), "facts": {}, "deadline": float("inf")}
    trial = CellTrial({**config, "cell": asdict(cells[0])})
    assert not trial.train()["done"]
    trial._deadline = 0.0  # passes while it trains
    result = trial.train()
    assert (result["done"], result["finished"], result["num_updates"]) == (True, False, 10)
    trial.reset_config({**config, "cell": asdict(cells[1]), "deadline": 0.0})
    assert not trial.train()["finished"]
    trial.reset_config({**config, "cell": asdict(cells[0])})
    assert trial.train()["num_updates"] == 15
    assert trial.train()["finished"]
    trial.stop()
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["returns"] == first[1]["returns"]


def test_peak_counts_from_its_reset():
    memory.reset_peaks()
    # From the system itself: what a process frees may stay in its heap.
    with mmap.mmap(-1, 64 * 2**20) as block:
        block.write(b"1" * len(block))
        with_block = memory.peak_mib()
    memory.reset_peaks()
    assert memory.peak_mib() <= with_block - 60
    assert memory.peak_mib() == pytest.approx(memory.resident_mib(), abs=5)
