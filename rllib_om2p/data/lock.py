"""A lock file that names its holder and ends with the process, however that ends.

Knows files and processes only. The lock is the system's (flock), so a killed process leaves none;
the file says who holds it, for the message that the second one gets.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

logger = logging.getLogger(__name__)


class HeldError(RuntimeError):
    """The lock is held; the text says by whom."""


def open_locked(path: Path, *, wait: bool) -> TextIO:
    """Return a file that is locked until it is closed, or until the process ends.

    A file that its holder removed before it let go is made anew: a lock on the removed one would
    keep nobody out. Where the file system knows no locks there is a warning and nothing more.

    Args:
        path: The file, made here; its directory must exist. What it holds is kept.
        wait: Whether to wait for another holder, however long.

    Raises:
        HeldError: Another holder has it, and `wait` is False; names whom the file names.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if not _lock(file, wait=wait) or _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


class FileLock:
    """Holds a file until `release`, or until the process ends; see `open_locked`.

    Args:
        path: The file, made here; its directory must exist.

    Raises:
        HeldError: Another holder has it; names its process, its host and since when.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = open_locked(path, wait=False)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(json.dumps(holder) + "\n")
        self._file.flush()

    def release(self) -> None:
        """Let the next one in and remove the file; nothing if that was done."""
        if self._file is not None:
            # Unlinked while it is held: who opens it now finds out in open_locked and tries again.
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def _lock(file: TextIO, *, wait: bool) -> bool:
    """Lock an open file; False, with a warning, where the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise HeldError(_holder(file.read())) from None
    except OSError as error:
        logger.warning(
            "%s cannot be locked (%s); see to it that no other process writes into this directory.",
            file.name,
            error,
        )
        return False
    return True


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
