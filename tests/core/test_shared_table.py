"""Shared tables: filled once by whoever comes first, equal to an own table, safe to lose."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.core import shared_table
from rllib_om2p.core.shared_table import open_or_fill, table_folder, table_key
from tests.small_data import write_random

SHAPE = (6, 2)


def fill(rows: torch.Tensor) -> torch.Tensor:
    rows.copy_(torch.arange(12.0).view(SHAPE))
    return torch.tensor([0, 2, 4])


def refuse(rows: torch.Tensor) -> torch.Tensor:
    raise AssertionError("filled twice")


def test_second_process_maps_what_the_first_filled(tmp_path):
    for function in (fill, refuse):
        rows, valid = open_or_fill(tmp_path, "key", SHAPE, function)
        assert torch.equal(rows, torch.arange(12.0).view(SHAPE))
        assert valid.tolist() == [0, 2, 4]


def test_writing_to_a_shared_table_changes_it_for_nobody_else(tmp_path):
    rows, _ = open_or_fill(tmp_path, "key", SHAPE, fill)
    rows.zero_()
    again, _ = open_or_fill(tmp_path, "key", SHAPE, refuse)
    assert torch.equal(again, torch.arange(12.0).view(SHAPE))


def test_processes_that_start_together_read_once(tmp_path):
    """Filling takes a while; the log holds a line per process that read."""
    program = textwrap.dedent(
        """
        import sys, time, pathlib, torch
        from rllib_om2p.core.shared_table import open_or_fill
        folder = pathlib.Path(sys.argv[1])
        def fill(rows):
            with open(folder / "log", "a") as log:
                log.write("read\\n")
            time.sleep(0.5)
            rows.fill_(7)
            return torch.arange(4)
        rows, valid = open_or_fill(folder, "key", (4, 3), fill)
        assert rows.sum() == 84 and len(valid) == 4
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    started = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "read\n"


def test_failed_filling_leaves_nothing_and_the_next_one_tries(tmp_path):
    with pytest.raises(AssertionError, match="filled twice"):
        open_or_fill(tmp_path, "key", SHAPE, refuse)
    assert [place.name for place in tmp_path.iterdir()] == ["key.lock"]
    rows, _ = open_or_fill(tmp_path, "key", SHAPE, fill)
    assert rows[5, 1] == 11


def test_full_disk_is_an_error_and_no_crash(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no room for a shared table.*share_table=False"):
        open_or_fill(tmp_path, "key", SHAPE, fill)
    assert not (tmp_path / "key").exists()


def test_table_where_nothing_can_be_locked_is_that_of_whoever_is_first(
    tmp_path, monkeypatch, caplog
):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def overtaken(rows: torch.Tensor) -> torch.Tensor:
        open_or_fill(tmp_path, "key", SHAPE, fill)  # by another process, which cannot wait
        rows.fill_(9)
        return torch.arange(6)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    rows, valid = open_or_fill(tmp_path, "key", SHAPE, overtaken)
    assert torch.equal(rows, torch.arange(12.0).view(SHAPE))
    assert valid.tolist() == [0, 2, 4]
    assert sorted(place.name for place in tmp_path.iterdir()) == ["key", "key.lock"]
    assert "cannot be locked" in caplog.text


def make_old(place: Path) -> Path:
    long_ago = time.time() - shared_table.KEEP_S - 1
    os.utime(place, (long_ago, long_ago))
    return place


def test_table_that_nobody_opened_for_a_day_is_removed_under_its_users(tmp_path):
    old, new = table_key("old"), table_key("new")
    rows, _ = open_or_fill(tmp_path, old, SHAPE, fill)
    left = tmp_path / f"{table_key('killed')}.writing-{'0' * 8}"
    left.mkdir()
    for place in (tmp_path / old, left):
        make_old(place)
    open_or_fill(tmp_path, new, SHAPE, fill)
    assert sorted(place.name for place in tmp_path.iterdir()) == [new, f"{new}.lock"]
    assert rows[5, 1] == 11


def test_what_else_lies_in_the_folder_stays(tmp_path):
    key = table_key("old")
    names = ["photos", key[:-1], f"{key}0", key.upper(), f"{key}.writing-by-hand", f"old-{key}"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").touch()
        make_old(tmp_path / name)
    make_old(tmp_path)
    (tmp_path / table_key("a file")).touch()
    make_old(tmp_path / table_key("a file"))
    open_or_fill(tmp_path, table_key("new"), SHAPE, fill)
    assert all((tmp_path / name / "precious").exists() for name in names)
    assert (tmp_path / table_key("a file")).exists()


def test_old_table_that_someone_is_opening_stays(tmp_path):
    key = table_key("old")
    open_or_fill(tmp_path, key, SHAPE, fill)
    make_old(tmp_path / key)
    with (tmp_path / f"{key}.lock").open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        open_or_fill(tmp_path, table_key("new"), SHAPE, fill)
        assert (tmp_path / key / "rows.npy").exists()
    open_or_fill(tmp_path, key, SHAPE, refuse)


def waits_for_a_lock(pid: int) -> bool:
    with Path("/proc/locks").open() as locks:
        return any("->" in line and f" {pid} " in line for line in locks)


def test_process_that_waits_for_a_lock_that_is_removed_takes_a_new_one(tmp_path):
    program = textwrap.dedent(
        """
        import pathlib, sys
        from rllib_om2p.core.shared_table import open_or_fill
        folder, key = pathlib.Path(sys.argv[1]), sys.argv[2]
        def fill(rows):
            import fcntl, torch
            with (folder / f"{key}.lock").open() as held:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    rows.fill_(7)
                    return torch.arange(4)
        print("ready", flush=True)
        assert open_or_fill(folder, key, (4, 3), fill)[0].sum() == 84
        """
    )
    key = table_key("key")
    lock = tmp_path / f"{key}.lock"
    with lock.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        command = [sys.executable, "-c", program, str(tmp_path), key]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert waiting.stdout.readline() == "ready\n"
        while not waits_for_a_lock(waiting.pid):
            assert waiting.poll() is None
        lock.unlink()
    assert waiting.wait() == 0


def test_key_follows_every_part():
    parts = [np.zeros(2, np.float32), "fingerprint", 0.1, (0, 2)]
    others = [np.zeros(2), np.zeros((2, 1), np.float32), np.array([0, 1], np.float32)]
    keys = [table_key(*parts), *(table_key(other, *parts[1:]) for other in others)]
    keys += [table_key(*parts[:3], (1, 2)), table_key(*parts[:2], 0.2, (0, 2))]
    assert len(set(keys)) == len(keys)
    assert table_key(*parts) == keys[0]


def test_folder_can_be_named_and_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLIB_OM2P_TABLES", str(tmp_path / "tables"))
    assert table_folder() == tmp_path / "tables"
    assert table_folder().stat().st_mode & 0o777 == 0o700


def make_learner(dataset: Path, **settings: object):
    config = OM2PConfig().offline_data(input_=str(dataset), **settings).debugging(seed=0)
    config.training(actor_hidden=(8,), critic_hidden=(8,), train_batch_size=32).validate()
    return config.build_learner()


def test_learner_with_a_shared_table_makes_the_same_updates(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLIB_OM2P_TABLES", str(tmp_path / "tables"))
    dataset = write_random(tmp_path / "set")
    learners = [make_learner(dataset, share_table=share) for share in (False, True, True)]
    for learner in learners:
        learner.update(num_updates=3)
    (first, *others) = [learner._networks.state_dict() for learner in learners]
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_learners_of_different_rows_have_different_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLIB_OM2P_TABLES", str(tmp_path / "tables"))
    dataset = write_random(tmp_path / "set")
    settings = [
        {},
        {"holdout_fraction": 0.2},
        {"standardize_rewards": False},
        {"bootstrap_at_truncation": False},
    ]
    keys = {make_learner(dataset, **s)._table_key() for s in settings}
    assert len(keys) == 4
