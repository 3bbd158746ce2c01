"""One benchmark per folder of results; knows nothing of what it writes there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rllib_om2p.data.lock import FileLock, HeldError

LOCK = ".lock"


@contextmanager
def suite_lock(folder: Path) -> Iterator[None]:
    """Hold a folder against a second benchmark; a killed process lets go of it by itself.

    Args:
        folder: Of one suite's results; made if missing.

    Raises:
        RuntimeError: Another process holds it; names its id, its host and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK)
    except HeldError as error:
        raise RuntimeError(
            f"another benchmark writes into {folder}: {error}. Wait for it or end it."
        ) from None
    try:
        yield
    finally:
        lock.release()
