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


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    data = Path(tmp_path_factory.mktemp("data"))
    write_spread(data / "mpe/simple_spread/medium")
    suite = Suite(
        name="mine",
        title="a test",
        methods=[Method("A", "OM2P")],
        tasks=[Task("mpe/simple_spread", ["medium"], 0, 0)],
        seeds=[0, 1, 2],
        num_updates=10,
        num_points=1,
        settings={"actor_hidden": (8, 8), "critic_hidden": (8, 8), "train_batch_size": 32},
    )
    return make_cells(suite, data, ALGORITHMS)


def test_interrupt_is_told_from_time_that_is_up(cells, tmp_path):
    facts = provenance("a test")
    none = run_cells(cells, tmp_path, facts=facts, workers=1, max_minutes=0.0)
    assert none == Outcome(done=0, failed=0, left=3, is_interrupted=False)

    def interrupt(line: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does, after the first cell

    outcome = run_cells(cells, tmp_path, facts=facts, workers=1, report=interrupt)
    assert outcome == Outcome(done=1, failed=0, left=2, is_interrupted=True)
    assert missing(cells, tmp_path) == cells[1:]
