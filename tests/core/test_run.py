"""A run's directory is continued from its own checkpoint only."""

from __future__ import annotations

from pathlib import Path

import pytest

from rllib_om2p.core.run import CHECKPOINT, PROGRESS, Run


def make_run(directory: Path) -> Path:
    """Write what a run leaves and return its checkpoint."""
    (directory / CHECKPOINT).mkdir(parents=True)
    (directory / PROGRESS).write_text('{"num_updates": 5}\n')
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
