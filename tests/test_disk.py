"""Files of processes that are killed, fail, or whose disk is full, while they write."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
from pathlib import Path

import pytest

from rllib_om2p.disk import FULL_DISK, file_sha256, local_path, write_text_whole, write_whole


def test_the_new_text_is_there_and_nothing_else(tmp_path):
    file = tmp_path / "notes.md"
    for text in ("first ä\n", "second\n"):
        write_text_whole(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [file]


def test_a_killed_writer_leaves_the_former_text(tmp_path):
    file = tmp_path / "notes.md"
    write_text_whole(file, "former")
    child = os.fork()
    if child == 0:
        try:
            os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            write_text_whole(file, "newer, and longer")
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert file.read_text() == "former"
    write_text_whole(file, "newer")
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_the_former_text_alone(tmp_path):
    file = tmp_path / "notes.md"
    write_text_whole(file, "former")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            write_text_whole(file, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno in FULL_DISK
    assert file.read_text() == "former"
    assert list(tmp_path.iterdir()) == [file]


def test_a_writer_that_fails_half_way_leaves_the_former_content(tmp_path):
    file = tmp_path / "arrays.npz"
    write_whole(file, lambda opened: opened.write(b"former"))

    def fail(opened):
        opened.write(b"newer")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_whole(file, fail)
    assert file.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [file]


def test_the_hash_is_of_the_whole_content(tmp_path):
    file, content = tmp_path / "rows", bytes(range(256)) * 4097
    file.write_bytes(content)
    assert file_sha256(file) == hashlib.sha256(content).hexdigest()


def test_paths_are_of_this_machine_and_know_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/data/x") == tmp_path / "data" / "x"
    assert local_path(Path("data")) == Path("data")
    assert local_path("C:/data") == Path("C:/data")
    for uri in ("s3://bucket/x", Path("s3://bucket/x"), "file:///x"):
        with pytest.raises(ValueError, match="is a URI; give a path here"):
            local_path(uri)
