"""Journals: what is written comes back, and a torn end costs the torn episode only."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rllib_om2p.data.journal import MAGIC, Journal, JournalWriter
from rllib_om2p.data.schema import DataError


@pytest.fixture
def journal(tmp_path, rich_spec, make_episode):
    """Three episodes with presence, discrete actions and what a journal keeps."""
    episodes = [
        dataclasses.replace(make_episode(rich_spec, 3, seed), state=None, behaviour_id=None)
        for seed in range(3)
    ]
    path = tmp_path / "deep" / "runner.journal"
    with JournalWriter(path, {"dataset_id": "rich"}) as writer:
        for episode in episodes:
            writer.append(episode)
    return path, episodes


def same(one, other):
    for kind in ("obs", "actions", "rewards", "terminateds", "action_masks", "alive"):
        left, right = getattr(one, kind), getattr(other, kind)
        assert list(left) == list(right)
        for agent in left:
            np.testing.assert_array_equal(left[agent], right[agent], strict=True)
    assert one.truncated == other.truncated


def test_header_and_episodes_come_back(journal):
    path, episodes = journal
    read = Journal(path)
    assert read.header == {"dataset_id": "rich"}
    for _ in range(2):
        for one, other in zip(read, episodes, strict=True):
            same(one, other)


@pytest.mark.parametrize("cut", [1, 100, 900])
def test_a_torn_end_costs_the_last_episode_only(journal, cut):
    path, episodes = journal
    path.write_bytes(path.read_bytes()[:-cut])
    read = list(Journal(path))
    assert len(read) == 2
    same(read[1], episodes[1])


def test_a_damaged_record_ends_the_journal(journal):
    path, _ = journal
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)
    assert len(list(Journal(path))) == 2


@pytest.mark.parametrize("tail", [bytes(12), bytes(4096), b"\xff" * 40, b"\0\0\0\0\0\1" + bytes(6)])
def test_what_a_power_failure_leaves_at_the_end_costs_nothing(journal, tail):
    path, episodes = journal
    path.write_bytes(path.read_bytes() + tail)
    assert len(list(Journal(path))) == len(episodes)


def test_an_older_journal_is_never_overwritten(journal):
    with pytest.raises(FileExistsError):
        JournalWriter(journal[0], {})


@pytest.mark.parametrize("content", [b"", b"PAR1", MAGIC, MAGIC + b"\x05"])
def test_what_is_no_journal_is_refused(tmp_path, content):
    path = tmp_path / "x.journal"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a whole journal"):
        Journal(path)
