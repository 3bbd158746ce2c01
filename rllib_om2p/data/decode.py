"""Decodes and packs row groups; what both the reader and its Ray Data tasks run.

Knows the contract, pyarrow and NumPy. Every decoded row is checked here, so that nothing reaches a
learner unchecked whichever way it is read.

Axes: R rows, C packed columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rllib_om2p.data.checks import RowIndex, check_episodes, check_values
from rllib_om2p.data.files import SourceFile, reaching
from rllib_om2p.data.schema import (
    CONTENT_KEY,
    AnyArray,
    BoolArray,
    Column,
    DataError,
    FloatArray,
    StorageError,
)

INDEX_COLUMNS = ("episode_id", "step", "valid")


class RowRange(NamedTuple):
    """Rows of one row group, whole episodes.

    Args:
        source: The file.
        group: Number of the row group in the file.
        start: First row in the group.
        stop: Row after the last.
        left_out: Rows of the group that do not count, as (first, row after the last), in order.
        content: The file's `content_mark` when it was opened; None to read whatever it holds.
    """

    source: SourceFile
    group: int
    start: int
    stop: int
    left_out: tuple[tuple[int, int], ...] = ()
    content: bytes | None = None

    def kept(self) -> list[tuple[int, int]]:
        """Return the rows that count as pieces (first, row after the last), in order."""
        pieces, first = [], self.start
        for low, high in (*self.left_out, (self.stop, self.stop)):
            if first < min(low, self.stop):
                pieces.append((first, min(low, self.stop)))
            first = max(first, high)
        return pieces

    @property
    def num_rows(self) -> int:
        """The number of rows that count."""
        return sum(stop - start for start, stop in self.kept())

    @property
    def where(self) -> str:
        """The place, for error texts."""
        return f"{self.source.path}, row group {self.group}"


class PackedBlock(NamedTuple):
    """Rows of whole episodes as one float32 array.

    Args:
        rows: The requested columns side by side, (R, C) float32, C-contiguous.
        valid: False on final rows, which hold only observations, (R,).
        episode_ids: Episode of each row, as numbered in its file, (R,).
        source: "file, row group k".
        error: Why the row group cannot be read; the block is empty then.
        is_unreachable: Whether that is its storage's fault, so that it may well be whole.
    """

    rows: FloatArray
    valid: BoolArray
    episode_ids: npt.NDArray[np.int64]
    source: str
    error: str | None = None
    is_unreachable: bool = False

    @classmethod
    def unreadable(
        cls, source: str, width: int, error: str, *, is_unreachable: bool
    ) -> PackedBlock:
        """Return the block of a row group that cannot be read."""
        rows, valid = np.zeros((0, width), np.float32), np.zeros(0, bool)
        return cls(rows, valid, np.zeros(0, np.int64), source, error, is_unreachable)

    def check(self, *, may_be_damaged: bool) -> PackedBlock:
        """Return the block.

        Raises:
            StorageError: It could not be reached.
            DataError: It is damaged or breaks the contract, unless it `may_be_damaged`.
        """
        if self.error is not None and self.is_unreachable:
            raise StorageError(self.error)
        if self.error is not None and not may_be_damaged:
            raise DataError(self.error)
        return self


def content_mark(metadata: pq.FileMetaData) -> bytes:
    """Return what a file's footer says of its content, SHA-256 in hex; b"" if nothing."""
    return bytes((metadata.metadata or {}).get(CONTENT_KEY, b""))


def read_table(rows: RowRange, names: Sequence[str]) -> pa.Table:
    """Read columns of a row range as they are stored, unchecked.

    Raises:
        DataError: The file was replaced or is damaged, or could not be reached.
    """
    damaged = (
        "cannot be read: {error}. The file is damaged or was replaced; copy or write it again."
    )
    with (
        reaching(rows.where, damaged),
        rows.source.filesystem.open_input_file(rows.source.path) as file,
    ):
        parquet = pq.ParquetFile(file, pre_buffer=True)
        is_other = rows.content not in (None, content_mark(parquet.metadata))
        table = parquet.read_row_group(rows.group, columns=list(names), use_threads=True)
    if is_other or rows.stop > table.num_rows:
        raise DataError(
            f"{rows.where} is not what it was when it was opened: the file was replaced. Open the "
            "dataset again."
        )
    return pa.concat_tables(table.slice(start, stop - start) for start, stop in rows.kept())


def decode(
    rows: RowRange, columns: Mapping[str, Column], names: Sequence[str]
) -> tuple[dict[str, AnyArray], RowIndex]:
    """Read and check columns of a row range.

    Args:
        rows: What to read.
        columns: The contract's columns.
        names: Which of them to return.

    Returns:
        The columns, (R, width) or (R,), and where each row belongs.

    Raises:
        DataError: The file was replaced or is damaged, or could not be reached, or its rows break
            the contract.
    """
    wanted = list(dict.fromkeys([*INDEX_COLUMNS, *names]))
    table = read_table(rows, wanted)
    values = {name: _to_numpy(table[name], columns[name], rows.where) for name in wanted}
    index = RowIndex(values["episode_id"], values["step"], values["valid"])
    check_episodes(index, rows.where)
    selected = {name: values[name] for name in names}
    check_values(columns, selected, index, rows.where)
    return selected, index


def _to_numpy(chunked: pa.ChunkedArray, column: Column, where: str) -> AnyArray:
    array = chunked.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    is_vector = pa.types.is_fixed_size_list(array.type)
    flat = array.flatten() if is_vector else array
    if array.null_count or flat.null_count:
        row = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
        at = f", row {row[0]}" if row.size else ""
        agent = f", agent {column.agent.name}" if column.agent is not None else ""
        raise DataError(
            f"{where}{at}{agent}: column {column.name} holds nulls; fill them or leave the episode "
            "out."
        )
    numbers: AnyArray = flat.to_numpy(zero_copy_only=False)
    return numbers.reshape(len(array), column.width) if is_vector else numbers


def pack(rows: RowRange, columns: Mapping[str, Column], names: Sequence[str]) -> PackedBlock:
    """Read and check columns of a row range, and lay them side by side.

    Booleans become 0 and 1, discrete actions one-hot (all zero on final rows).
    """
    values, index = decode(rows, columns, names)
    num_rows = len(index.valid)
    packed = np.zeros((num_rows, sum(columns[name].width for name in names)), np.float32)
    offset = 0
    for name in names:
        width, array = columns[name].width, values[name]
        if columns[name].kind == "action" and array.ndim == 1:
            acting = np.flatnonzero(index.valid)
            packed[acting, offset + array[acting]] = 1.0
        else:
            packed[:, offset : offset + width] = array.reshape(num_rows, width)
        offset += width
    return PackedBlock(packed, index.valid, index.episode_ids, rows.where)


def try_pack(rows: RowRange, columns: Mapping[str, Column], names: Sequence[str]) -> PackedBlock:
    """Like `pack`, with the error in the block instead of raised."""
    try:
        return pack(rows, columns, names)
    except DataError as error:
        width = sum(columns[name].width for name in names)
        is_unreachable = isinstance(error, StorageError)
        return PackedBlock.unreadable(rows.where, width, str(error), is_unreachable=is_unreachable)
