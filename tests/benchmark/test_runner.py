"""A suite's cells as one run: how it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.benchmark.cells import Cell, make_cells, missing
from rllib_om2p.benchmark.runner import Outcome, run_cells
from rllib_om2p.benchmark.suite import Method, Suite, Task
from rllib_om2p.evaluation.provenance import provenance
from tests.small_data import write_spread

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(240)]


def make(data: Path, qualities: list[str], seeds: list[int]) -> list[Cell]:
    for quality in qualities:
        write_spread(data / "mpe/simple_spread" / quality)
    suite = Suite(
        name="mine",
        title="a test",
        methods=[Method("A", "OM2P")],
        tasks=[Task("mpe/simple_spread", qualities, 0, 0)],
        seeds=seeds,
        num_updates=10,
        num_points=1,
        settings={"actor_hidden": (8, 8), "critic_hidden": (8, 8), "train_batch_size": 32},
    )
    return make_cells(suite, data, ALGORITHMS)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    return make(Path(tmp_path_factory.mktemp("data")), ["medium"], [0, 1, 2])


def test_interrupt_is_told_from_time_that_is_up(cells, tmp_path):
    facts = provenance("a test")
    none = run_cells(cells, tmp_path, facts=facts, workers=1, max_minutes=0.0)
    assert none == Outcome(done=0, failed=0, left=3, is_interrupted=False)

    def interrupt(line: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does, after the first cell

    outcome = run_cells(cells, tmp_path, facts=facts, workers=1, report=interrupt)
    assert outcome == Outcome(done=1, failed=0, left=2, is_interrupted=True)
    assert missing(cells, tmp_path) == cells[1:]


@pytest.mark.parametrize("workers", [1, 2])
def test_run_that_fails_at_its_set_up_is_recorded_and_stops_no_other(tmp_path, workers):
    """In a process of its own, and in one that comes from another run."""
    cells = make(tmp_path / "data", ["medium", "expert", "random"], [0])
    (tmp_path / "data/mpe/simple_spread/expert/part-00000.parquet").unlink()
    lines: list[str] = []
    results = tmp_path / "results"
    outcome = run_cells(
        cells, results, facts=provenance("a test"), workers=workers, report=lines.append
    )
    assert outcome == Outcome(done=2, failed=1, left=0, is_interrupted=False)
    assert [cell.quality for cell in missing(cells, results)] == ["expert"]
    (failed,) = [line for line in lines if "FAILED" in line]
    assert "expert A seed 0: FAILED" in failed
    assert "part-00000.parquet" in (results / f"{cells[1].name}.failed").read_text()
