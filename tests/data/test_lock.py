"""Locks that are held, and files that are removed while someone comes for them."""

from __future__ import annotations

import fcntl
import os

import pytest

from rllib_om2p.data.lock import FileLock, HeldError, open_locked


def test_whoever_does_not_wait_is_told_who_holds_it(tmp_path):
    lock = FileLock(tmp_path / "lock")
    with pytest.raises(HeldError, match=f"process {os.getpid()} on "):
        open_locked(tmp_path / "lock", wait=False)
    lock.release()
    with (
        open_locked(tmp_path / "lock", wait=False),
        pytest.raises(HeldError, match="another process"),
    ):
        FileLock(tmp_path / "lock")


@pytest.mark.parametrize("wait", [False, True])
def test_file_that_its_holder_removes_meanwhile_is_made_anew(tmp_path, monkeypatch, wait):
    path, flock, calls = tmp_path / "lock", fcntl.flock, []

    def flock_after_a_release(file, how):
        if not calls:
            path.unlink()  # between opening and locking
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", flock_after_a_release)
    with open_locked(path, wait=wait) as opened:
        assert len(calls) == 2
        assert os.path.samestat(os.fstat(opened.fileno()), path.stat())
        with pytest.raises(HeldError):
            open_locked(path, wait=False)
