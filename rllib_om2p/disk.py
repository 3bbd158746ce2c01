"""Files that are whole at any time, the hash of one, and what a disk says that is full.

Knows files only; every layer above may use it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

# What a disk, a quota or a limit of the file size says when nothing more fits.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path of this machine, or of a folder that it shares; `~` is the home directory.

    Raises:
        ValueError: It is a URI, which would become a folder of that name.
    """
    text = os.fspath(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):  # pathlib makes one slash of two
        raise ValueError(
            f"{text!r} is a URI; give a path here, in a cluster of a folder that all nodes share."
        )
    return Path(text).expanduser()


def write_text_whole(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all; as `write_whole` in the rest."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that whoever opens it finds the former content or all of the new one.

    A hidden neighbour is written, synced to disk and moved into place. A process that is killed
    leaves it at most, and the next one writes over it. One writer at a time: two of the same file
    would share that neighbour, so whoever may meet another holds a lock.

    Args:
        path: Its directory must exist.
        write: Writes the content into the file that it is given.

    Raises:
        OSError: It could not be written (the disk is full, ...); what was there is intact, as it is
            after whatever `write` raises.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read block by block."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
