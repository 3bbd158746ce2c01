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


class FileLock:
    """Holds a file until `release`, or until the process ends.

    Where the file system knows no locks there is a warning and nothing more.

    Args:
        path: The file, made here; its directory must exist.

    Raises:
        HeldError: Another holder has it; names its process, its host and since when.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        while self._file is None:
            self._file = self._acquire()
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
            # Unlinked while it is held: who opens it now finds out in _acquire and tries again.
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _acquire(self) -> TextIO | None:
        """Return the locked file, None if its holder removed it in between."""
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            text = file.read()
            file.close()
            raise HeldError(_holder(text)) from None
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s); see to it that no other process writes into this "
                "directory.",
                self._path,
                error,
            )
            return file
        try:
            is_ours = os.fstat(file.fileno()).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            is_ours = False
        if not is_ours:
            file.close()
            return None
        return file


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
