"""Checkpoints and directories of processes that are killed while they write; by real kills."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from rllib_om2p.core.checkpoint import (
    MARKER,
    read_marker,
    standing,
    tidy,
    write_elsewhere,
    write_whole,
)
from rllib_om2p.core.run import Run
from rllib_om2p.core.run_lock import LOCK

SIZE = 100_000


def in_child(function: Callable[[], None]) -> int:
    """Run a function in a process of its own and return how that ended, as os.wait() tells it."""
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def kill_me(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write(path: Path, value: str, then: Callable[[], None] = lambda: None) -> None:
    def files(place: Path) -> None:
        (place / "first").write_text(value * SIZE)
        then()
        (place / "second").write_text(value * SIZE)

    write_whole(path, files, {"value": value})


def value_of(path: Path) -> str:
    value = read_marker(path)["value"]
    for name in ("first", "second"):
        assert (standing(path) / name).read_text() == value * SIZE
    return value


def without_exchange() -> None:
    """Make this process believe that its system cannot swap two directories."""

    class NoLibrary:
        def __init__(self, *args: object, **kwargs: object) -> None: ...

    ctypes.CDLL = NoLibrary


def in_the_middle(path: Path) -> None:
    write(path, "b", then=kill_me)


def before_the_swap(path: Path) -> None:
    os.fsync = kill_me
    write(path, "b")


def after_the_swap(path: Path) -> None:
    shutil.rmtree = kill_me
    write(path, "b")


def between_two_moves(path: Path) -> None:
    without_exchange()
    move, moves = os.replace, []

    def replace(source: object, target: object) -> None:
        if moves:
            kill_me()
        moves.append(target)
        move(source, target)

    os.replace = replace
    write(path, "b")


def before_the_last_move(path: Path) -> None:
    without_exchange()
    move = os.replace

    def replace(source: Path, target: Path) -> None:
        if source.name.endswith(".old"):
            kill_me()
        move(source, target)

    os.replace = replace
    write(path, "b")


@pytest.mark.parametrize(
    ("killed", "left"),
    [
        (in_the_middle, "a"),
        (before_the_swap, "a"),
        (after_the_swap, "b"),
        (between_two_moves, "a"),
        (before_the_last_move, "b"),
    ],
)
def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path, killed, left):
    path = tmp_path / "checkpoint"
    write(path, "a")
    assert in_child(lambda: killed(path)) == signal.SIGKILL
    assert value_of(path) == left
    tidy(path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    write(path, "c")
    assert value_of(path) == "c"


def test_reading_leaves_what_a_killed_writer_moved_aside_to_the_run(tmp_path):
    path = tmp_path / "run" / "checkpoint"
    write(path, "a")
    assert in_child(lambda: between_two_moves(path)) == signal.SIGKILL
    left = sorted(path.parent.iterdir())
    assert value_of(path) == "a"
    assert sorted(path.parent.iterdir()) == left
    Run(path.parent, resume=path).close()
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint"]
    assert value_of(path) == "a"


@pytest.mark.parametrize("prepare", [lambda: None, without_exchange])
def test_what_cannot_be_removed_does_not_make_a_written_checkpoint_a_failure(tmp_path, prepare):
    """As over NFS, where a file that another process has open cannot be removed."""
    path = tmp_path / "checkpoint"

    def busy(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    def both() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        prepare()
        write(path, "a")
        os.unlink = busy
        write(path, "b")
        write(path, "c")
        os.kill(os.getpid(), signal.SIGUSR1)

    assert in_child(both) == signal.SIGUSR1
    assert value_of(path) == "c"
    tidy(path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_failed_move_puts_the_older_checkpoint_back(tmp_path):
    path = tmp_path / "checkpoint"

    def fail() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        without_exchange()
        move = os.replace

        def replace(source: Path, target: Path) -> None:
            if ".writing-" in source.name:
                raise OSError(errno.EIO, "Input/output error")
            move(source, target)

        os.replace = replace
        with pytest.raises(OSError, match="is intact"):
            write(path, "b")
        os.kill(os.getpid(), signal.SIGUSR1)

    write_whole(path, lambda place: None, {"value": "a"})
    assert in_child(fail) == signal.SIGUSR1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    assert read_marker(path) == {"value": "a"}


def test_without_an_atomic_swap_the_newer_checkpoint_still_replaces_the_older(tmp_path):
    path = tmp_path / "checkpoint"

    def both() -> None:
        # Ray Tune handles this signal in a process in which it ran.
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        without_exchange()
        write(path, "a")
        write(path, "b")
        os.kill(os.getpid(), signal.SIGUSR1)

    assert in_child(both) == signal.SIGUSR1
    assert value_of(path) == "b"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_full_disk_is_said_and_keeps_the_checkpoint_before(tmp_path):
    path = tmp_path / "checkpoint"
    write(path, "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, hard))
    try:
        said = r"not written \(File too large\); the one that is there is intact\. Make room and"
        with pytest.raises(OSError, match=said):
            write(path, "b")
        with pytest.raises(OSError, match=r"no older one is there\. Make room and try again"):
            write(tmp_path / "other", "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert value_of(path) == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_what_is_no_full_disk_asks_for_no_room(tmp_path):
    def refuse(place: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "checkpoint"
    for said in (r"\(Permission denied\); no older one is there: '", r"intact\. Resume from it: '"):
        with pytest.raises(OSError, match=said):
            write_whole(path, refuse, {})
        write(path, "a")


def test_a_killed_first_checkpoint_is_none(tmp_path):
    path = tmp_path / "checkpoint"
    assert in_child(lambda: in_the_middle(path)) == signal.SIGKILL
    with pytest.raises(ValueError, match="is not a directory"):
        read_marker(path)
    assert not list(tmp_path.glob(f"*/{MARKER}"))


def test_elsewhere_a_checkpoint_has_no_marker_while_it_is_written(tmp_path):
    bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())

    def fail() -> None:
        assert not (tmp_path / "one" / MARKER).exists()
        raise OSError("no connection")

    bucket.create_dir("one")
    write_elsewhere(bucket, "one", lambda: None, {"value": "a"})
    assert read_marker(tmp_path / "one") == {"value": "a"}
    with pytest.raises(OSError, match="no connection"):
        write_elsewhere(bucket, "one", fail, {"value": "b"})
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        read_marker(tmp_path / "one")


@pytest.fixture
def other_run(tmp_path):
    """A process that trains into tmp_path/run: its id; it waits until it is killed."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run = Run(tmp_path / "run")
            os.write(tell, b"x")
            signal.pause()
            run.close()
        finally:
            os._exit(0)
    os.read(ready, 1)
    yield child
    os.kill(child, signal.SIGKILL)


def test_second_run_into_a_directory_is_refused_naming_the_first(tmp_path, other_run):
    for resume in (None, tmp_path / "run"):
        with pytest.raises(
            RuntimeError, match=rf"belongs to a run that goes on: process {other_run} on"
        ):
            Run(tmp_path / "run", resume=resume)


def test_lock_of_a_killed_run_is_taken_over(tmp_path, other_run):
    os.kill(other_run, signal.SIGKILL)
    os.waitid(os.P_PID, other_run, os.WEXITED | os.WNOWAIT)
    assert (tmp_path / "run" / LOCK).exists()
    with Run(tmp_path / "run"):
        assert f'"pid": {os.getpid()},' in (tmp_path / "run" / LOCK).read_text()
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_run_that_made_nothing_leaves_no_directory_and_keeps_an_older_one(tmp_path):
    with Run(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    with Run(tmp_path):
        pass
    assert tmp_path.exists()
