"""A writer that continues: after a kill at any point, the bytes of an unbroken run."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rllib_om2p.data import parts
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import CARD_NAME, DataError, DatasetSpec
from rllib_om2p.data.writer import WRITING_NAME, DatasetWriter

SIZES = {"rows_per_group": 20, "rows_per_file": 30}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture
def broken(tmp_path, spec, episodes):
    """A writer that failed in its fifth episode, and the dataset that it should have written."""
    writer = DatasetWriter(tmp_path / "data", spec, **SIZES, resume=True)

    def fail() -> None:
        with writer:
            for episode in episodes[:5]:
                writer.write_episode(episode)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    with DatasetWriter(tmp_path / "whole", spec, **SIZES) as whole:
        for episode in episodes:
            whole.write_episode(episode)
    return tmp_path / "data", contents(tmp_path / "whole")


def go_on(directory: Path, spec: DatasetSpec, episodes) -> int:
    with DatasetWriter(directory, spec, **SIZES, resume=True) as writer:
        kept = writer.num_episodes
        for episode in episodes[kept:]:
            writer.write_episode(episode)
    return kept


def test_resumed_bytes_equal_those_of_an_unbroken_run(broken, spec, episodes):
    directory, expected = broken
    assert go_on(directory, spec, episodes) > 0
    assert contents(directory) == expected
    assert not (directory / WRITING_NAME).exists()


def failing(function: Callable[..., None], after: int, error: BaseException) -> Callable[..., None]:
    """Return a function that works so many times before it fails."""
    calls = iter(range(after))

    def call(*arguments: object) -> None:
        if next(calls, None) is None:
            raise error
        function(*arguments)

    return call


FULL = OSError(errno.ENOSPC, "No space left on device")


def write_and_leave(directory, spec, episodes, patch, fault) -> None:
    """Write whole episodes and leave while a function of os fails: (its name, after how many)."""
    name, after, error = fault
    with DatasetWriter(directory, spec, **SIZES, resume=True) as writer:
        for episode in episodes:
            writer.write_episode(episode)
        patch.setattr(os, name, failing(getattr(os, name), after, error))


# On leaving, os.fsync is called for two parts with their journals, the card, the directory before
# the card is moved and after it; os.replace for two journals, three parts and the card.
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("name", "after"),
    [*(("fsync", n) for n in range(6)), *(("replace", n) for n in range(6))],
)
def test_a_failure_on_leaving_keeps_the_whole_files(
    broken, tmp_path, spec, episodes, monkeypatch, name, after, error
):
    _, expected = broken
    directory = tmp_path / "leaving"

    with pytest.raises(type(error)), monkeypatch.context() as patch:
        write_and_leave(directory, spec, episodes, patch, (name, after, error))
    with pytest.raises(DataError, match="half-written"):
        OfflineDataset.open(str(directory))
    assert go_on(directory, spec, episodes) > 0
    assert contents(directory) == expected
    assert not (directory / WRITING_NAME).exists()


def test_a_failure_after_the_card_is_in_place_leaves_the_dataset_alone(
    broken, tmp_path, spec, episodes, monkeypatch
):
    _, expected = broken
    directory = tmp_path / "leaving"

    with pytest.raises(OSError, match="No space"), monkeypatch.context() as patch:
        write_and_leave(directory, spec, episodes, patch, ("fsync", 6, FULL))
    assert contents(directory) == expected
    assert not (directory / WRITING_NAME).exists()


def test_what_lies_there_in_between_does_not_open(broken):
    directory, _ = broken
    with pytest.raises(DataError, match="half-written"):
        OfflineDataset.open(str(directory))


def test_a_changed_part_is_written_again(broken, spec, episodes):
    directory, expected = broken
    part = directory / WRITING_NAME / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    assert go_on(directory, spec, episodes) == 0
    assert contents(directory) == expected


def test_another_spec_begins_anew(broken, spec, episodes, caplog):
    directory, _ = broken
    other = DatasetSpec("another", spec.agents)
    assert go_on(directory, other, episodes) == 0
    assert "start of something else" in caplog.text
    assert OfflineDataset.open(str(directory)).spec.dataset_id == "another"


def test_a_published_dataset_is_not_continued(broken, spec, episodes):
    directory, expected = broken
    go_on(directory, spec, episodes)
    with pytest.raises(DataError, match=f"already holds {CARD_NAME}"):
        go_on(directory, spec, episodes)
    assert contents(directory) == expected


def test_a_damaged_journal_begins_anew(broken, spec, episodes):
    directory, expected = broken
    journal = directory / WRITING_NAME / parts.JOURNAL_NAME
    journal.write_text(json.dumps({"key": 1}))
    assert go_on(directory, spec, episodes) == 0
    assert contents(directory) == expected
