"""One process per run directory; knows nothing of what a run writes there."""

from __future__ import annotations

from pathlib import Path

from rllib_om2p.data.lock import FileLock, HeldError

LOCK = "run.lock"


class RunLock(FileLock):
    """Holds a directory until `release`, or until the process ends.

    Args:
        directory: Must exist.

    Raises:
        RuntimeError: Another process holds it; names its id, its host and since when.
    """

    def __init__(self, directory: Path) -> None:
        try:
            super().__init__(directory / LOCK)
        except HeldError as error:
            raise RuntimeError(
                f"{str(directory)!r} belongs to a run that goes on: {error}. Wait for it, end it, "
                "or choose another directory."
            ) from None
