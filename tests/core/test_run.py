"""A run's directory is continued from its own checkpoint only."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from ray.rllib.utils.metrics import ALL_MODULES, LEARNER_RESULTS

from rllib_om2p.core.checkpoint import write_whole
from rllib_om2p.core.learner import NUM_UPDATES_LIFETIME, UPDATES_PER_SECOND
from rllib_om2p.core.run import CHECKPOINT, PROGRESS, Run, planned_updates


def make_run(directory: Path) -> Path:
    """Write what a run leaves and return its checkpoint."""
    (directory / CHECKPOINT).mkdir(parents=True)
    (directory / PROGRESS).write_text('{"num_updates": 5}\n{"num_updates": 10}\n')
    return directory / CHECKPOINT


def test_a_run_goes_on_from_its_own_checkpoint_only(tmp_path):
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other")
    for start in (one, one.parent, one.parent / "kept"):
        Run(tmp_path / "one", resume=start).close()
    for start in (None, other, other.parent, tmp_path / "one" / "inner" / CHECKPOINT):
        with pytest.raises(ValueError, match=r"holds a run already.*one/checkpoint"):
            Run(tmp_path / "one", resume=start)


def test_a_new_directory_and_one_without_a_checkpoint_go_on_from_any(tmp_path):
    older = make_run(tmp_path / "one").rename(tmp_path / "older")
    Run(tmp_path / "new", resume=older).close()
    Run(tmp_path / "one", resume=older).close()
    with pytest.raises(ValueError, match="holds a run already"):
        Run(tmp_path / "one")


class Counts:
    """All that a run asks of an algorithm: five updates an iteration, and a checkpoint of them.

    Args:
        num_updates: Where to begin.
        killed_at: The number of updates after whose checkpoint the process ends.
        fails_at: The number of updates at which no checkpoint can be written.
    """

    def __init__(self, num_updates: int = 0, killed_at: int = -1, fails_at: int = -1) -> None:
        self.num_updates = num_updates
        self._killed_at, self._fails_at = killed_at, fails_at

    def train(self) -> dict[str, object]:
        self.num_updates += 5
        shared = {NUM_UPDATES_LIFETIME: self.num_updates, UPDATES_PER_SECOND: 1.0}
        return {LEARNER_RESULTS: {ALL_MODULES: shared, "agent": {"loss": self.num_updates}}}

    def save_to_path(self, path: Path) -> None:
        if self.num_updates == self._fails_at:
            raise OSError("no space")
        write_whole(path, lambda place: None, {"num_updates": self.num_updates})
        if self.num_updates == self._killed_at:
            os.kill(os.getpid(), signal.SIGKILL)


def lines(directory: Path) -> list[int]:
    text = (directory / PROGRESS).read_text()
    return [json.loads(line)["num_updates"] for line in text.splitlines()]


def test_an_iteration_whose_process_dies_after_its_checkpoint_keeps_its_line(tmp_path):
    child = os.fork()
    if child == 0:
        try:
            Run(tmp_path).train(Counts(killed_at=10), 20)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert lines(tmp_path) == [5, 10]
    with Run(tmp_path, resume=tmp_path) as run:
        assert run.train(Counts(10), 20)
    assert lines(tmp_path) == [5, 10, 15, 20]


def test_an_iteration_whose_checkpoint_fails_has_one_line_when_the_run_goes_on(tmp_path):
    with pytest.raises(OSError, match="no space"), Run(tmp_path) as run:
        run.train(Counts(fails_at=15), 20)
    with Run(tmp_path, resume=tmp_path) as run:
        assert run.train(Counts(10), 20)
    assert lines(tmp_path) == [5, 10, 15, 20]


def test_a_run_without_its_first_checkpoint_begins_again(tmp_path):
    with pytest.raises(OSError, match="no space"), Run(tmp_path) as run:
        run.train(Counts(fails_at=5), 10)
    with Run(tmp_path) as run:
        assert run.train(Counts(), 10)
    assert lines(tmp_path) == [5, 10]


def test_a_run_remembers_how_many_updates_it_shall_make(tmp_path):
    for done, total in ((0, 5), (5, 15)):
        with Run(tmp_path / "run", resume=tmp_path / "run") as run:
            run.train(Counts(done), total)
        assert planned_updates(run.checkpoint) == total
    assert planned_updates(tmp_path / "elsewhere" / CHECKPOINT) is None
