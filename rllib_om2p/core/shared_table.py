"""One table per node: a file that all processes map, filled by whoever comes first.

Knows arrays, files and locks; nothing of datasets. Tune's trials train on the same rows: without
this each would read, transform and hold them for itself.

    FOLDER/KEY/rows.npy     (R, width) float32
    FOLDER/KEY/valid.npy    indices of the rows that can be drawn, int64
    FOLDER/KEY.lock         held while KEY is being filled; the kernel releases it at a kill

A table stays for the next trial; `KEEP_S` after it was last opened, the next process that comes to
the folder for another one removes it. On Linux those that have it mapped keep it. The folder may be
a user's own and hold more: what does not bear the name of a table is left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rllib_om2p.data.lock import HeldError, open_locked

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "RLLIB_OM2P_TABLES"
KEEP_S = 24 * 3600.0

# A table, or what a process left that was killed while it filled one.
_OWN_NAME = re.compile(r"([0-9a-f]{32})(\.writing-[0-9a-f]{8})?")

Fill = Callable[[Tensor], Tensor]
"""Writes all rows into a tensor (R, width) and returns the indices of those that can be drawn."""


def table_folder() -> Path:
    """Return the node's folder of tables, which belongs to this user.

    `RLLIB_OM2P_TABLES` names another one, such as a larger or faster local disk.

    Raises:
        PermissionError: The folder belongs to another user.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    folder = Path(named or Path(tempfile.gettempdir()) / f"rllib-om2p-tables-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(
            f"{folder} belongs to another user; set {FOLDER_VARIABLE} to a folder of your own."
        )
    return folder


def table_key(*parts: object) -> str:
    """Return a name for the table made from `parts`: arrays, and values with a stable repr."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def open_or_fill(
    folder: Path, key: str, shape: tuple[int, int], fill: Fill
) -> tuple[Tensor, Tensor]:
    """Return the shared rows and the indices of those that can be drawn; fill a new table.

    Processes that come while it is being filled wait for it. Writing to the tensors changes nothing
    for others.

    Args:
        folder: On a disk of this node.
        key: Says everything that the rows depend on; see `table_key`.
        shape: (R, width).
        fill: Called in one process only. If it fails, the next one that waits tries for itself.

    Raises:
        OSError: The disk is full.
    """
    place = folder / key
    with open_locked(folder / f"{key}.lock", wait=True):
        _remove_unused(folder)
        if not place.exists():
            building = folder / f"{key}.writing-{uuid.uuid4().hex[:8]}"
            building.mkdir()
            try:
                _write(building, shape, fill)
                _publish(building, place)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
            logger.info("filled the node's table %s (%d rows)", place, shape[0])
        os.utime(place)
        # "c": pages are shared until someone writes to them, which nobody does.
        rows, valid = (np.load(place / f"{name}.npy", mmap_mode="c") for name in ("rows", "valid"))
    return torch.from_numpy(rows), torch.from_numpy(valid)


def _write(place: Path, shape: tuple[int, int], fill: Fill) -> None:
    rows = np.lib.format.open_memmap(place / "rows.npy", "w+", np.float32, shape)
    with (place / "rows.npy").open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            # Writing through a map to a full disk would kill the process instead of raising.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise OSError(
                error.errno,
                f"no room for a shared table of {size} bytes in {place.parent} ({error.strerror}); "
                f"set {FOLDER_VARIABLE} to a folder on a larger local disk, or "
                "offline_data(share_table=False) to hold the table in each process",
            ) from error
    valid = fill(torch.from_numpy(rows))
    rows.flush()
    np.save(place / "valid.npy", valid.numpy())


def _publish(building: Path, place: Path) -> None:
    try:
        building.rename(place)
    except OSError:
        # Without locks another process may have filled it meanwhile, with the same rows.
        if not place.exists():
            raise
        shutil.rmtree(building, ignore_errors=True)


def _remove_unused(folder: Path) -> None:
    """Remove old tables and old left-overs with their locks; whose lock is held is in use."""
    for place in folder.iterdir():
        own = _OWN_NAME.fullmatch(place.name)
        if own is None or not _is_unused(place):
            continue
        lock = folder / f"{own[1]}.lock"
        with contextlib.suppress(HeldError), open_locked(lock, wait=False):
            if _is_unused(place):  # still, now that nobody can open it
                shutil.rmtree(place, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _is_unused(place: Path) -> bool:
    try:
        return place.is_dir() and time.time() - place.stat().st_mtime > KEEP_S
    except FileNotFoundError:
        return False
