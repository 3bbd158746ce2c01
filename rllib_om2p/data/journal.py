"""Append-only files of whole episodes, for processes that may die at any moment.

Knows the contract's episodes and NumPy; not who records them. A journal holds a JSON text (what the
recording says about itself) and then one record per episode, each with its length and checksum. A
process that dies leaves at most its last record torn; readers stop there, and everything before it
is whole. `DatasetWriter` makes a dataset of what a journal holds.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from rllib_om2p.data.schema import AnyArray, DataError, Episode

SUFFIX = ".journal"
MAGIC = b"rllib_om2p journal 1\n"
_RECORD = struct.Struct("<QI")  # bytes of the payload, CRC-32 of the payload
_PER_AGENT = ("obs", "actions", "rewards", "terminateds", "action_masks", "alive")


class JournalWriter:
    """Writes a journal; each episode is handed to the system before `append` returns.

    Args:
        path: A file that does not exist yet; its directory is made if missing.
        header: Plain JSON values.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("xb")
        self._file.write(MAGIC)
        self._put(json.dumps(header).encode())

    def append(self, episode: Episode) -> None:
        """Add an episode: observations, actions, rewards, ends, masks, presence, truncation."""
        arrays: dict[str, AnyArray] = {"truncated": np.array(episode.truncated)}
        for kind in _PER_AGENT:
            for agent, array in (getattr(episode, kind) or {}).items():
                arrays[f"{kind}:{agent}"] = array
        payload = io.BytesIO()
        np.savez(payload, **arrays)  # type: ignore[arg-type]  # its stubs mix up two arguments
        self._put(payload.getvalue())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _put(self, payload: bytes) -> None:
        self._file.write(_RECORD.pack(len(payload), zlib.crc32(payload)) + payload)
        self._file.flush()


class Journal:
    """Reads a journal, also one that is still being written or whose writer died.

    Args:
        path: The file.

    Raises:
        DataError: The file is no journal, or was cut before its first episode.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = next(self._records(), None)
        if header is None:
            raise DataError(f"{path} is not a whole journal of recorded episodes; leave it out.")
        self.header: dict[str, Any] = json.loads(header)

    def __iter__(self) -> Iterator[Episode]:
        """Yield every whole episode in the order of recording."""
        records = self._records()
        next(records)
        for payload in records:
            with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
                parts: dict[str, dict[str, AnyArray]] = {kind: {} for kind in _PER_AGENT}
                for name in arrays.files:
                    kind, separator, agent = name.partition(":")
                    if separator:
                        parts[kind][agent] = arrays[name]
                truncated = bool(arrays["truncated"])
            yield Episode(
                obs=parts["obs"],
                actions=parts["actions"],
                rewards=parts["rewards"],
                terminateds=parts["terminateds"],
                truncated=truncated,
                action_masks=parts["action_masks"] or None,
                alive=parts["alive"] or None,
            )

    def _records(self) -> Iterator[bytes]:
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return
            while len(head := file.read(_RECORD.size)) == _RECORD.size:
                length, checksum = _RECORD.unpack(head)
                # After a power failure a file may end in zeros or in anything.
                if not 0 < length <= size - file.tell():
                    return
                payload = file.read(length)
                if len(payload) < length or zlib.crc32(payload) != checksum:
                    return
                yield payload
