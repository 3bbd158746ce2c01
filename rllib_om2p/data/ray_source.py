"""Reads row ranges through Ray Data; imported only when Ray is used.

Knows ray.data. One read task per row range, in order, on no CPU of its own (learners may have
reserved them all) and few at a time.

Ray 2.60 would print a call for a bug report for every error inside a read task
(ray/data/exceptions.py:85), so a broken contract travels as a row of text instead.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from rllib_om2p.data.decode import PackedBlock, RowRange, read_table, try_pack
from rllib_om2p.data.schema import Column

MAX_CONCURRENT_TASKS = 2
# Read at once into Ray's object store; a larger row group is a chunk of its own.
MAX_CHUNK_BYTES = 128 * 2**20
# A chunk is at most this part of the smallest object store: two learners of a node may read at the
# same time, each with blocks in the making beside its chunk.
STORE_SHARE = 4

logger = logging.getLogger(__name__)

ReadRange: TypeAlias = Callable[[int, RowRange], pa.Table]


class EpisodesDatasource(Datasource):  # type: ignore[misc]
    """Row ranges as a Ray Data source, one read task and one block per range.

    Args:
        ranges: What to read.
        read: Reads a range, given its position and itself, into a table.
        row_bytes: Estimated size of a row.
    """

    def __init__(self, ranges: Sequence[RowRange], read: ReadRange, *, row_bytes: int = 0) -> None:
        super().__init__()
        self._ranges = list(ranges)
        self._read = read
        self._row_bytes = row_bytes

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the estimated size of all rows in bytes, None if unknown."""
        return sum(r.num_rows for r in self._ranges) * self._row_bytes or None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return one task per row range, whatever parallelism is asked for."""
        return [self._read_task(number, rows) for number, rows in enumerate(self._ranges)]

    def _read_task(self, number: int, rows: RowRange) -> ReadTask:
        num_rows, read = rows.num_rows, self._read
        metadata = BlockMetadata(
            num_rows=num_rows,
            size_bytes=num_rows * self._row_bytes or None,
            input_files=[rows.source.path],
            exec_stats=None,
        )
        return ReadTask(lambda: [read(number, rows)], metadata)


def stored_rows(ranges: Sequence[RowRange], names: Sequence[str]) -> Any:
    """Return a Ray Data Dataset of the rows as they are stored.

    `ray.data.read_parquet` of several files fails now and then where aiohttp is not installed (a
    race between its threads in path_util.py:520, Ray 2.60), and knows one file system per call.
    """

    def read(_: int, rows: RowRange) -> pa.Table:
        return read_table(rows, names)

    return ray.data.read_datasource(
        EpisodesDatasource(ranges, read), override_num_blocks=len(ranges)
    )


def _packed_reader(columns: Mapping[str, Column], names: Sequence[str]) -> ReadRange:
    def read(number: int, rows: RowRange) -> pa.Table:
        block = try_pack(rows, columns, names)
        if block.error is not None:
            blank = np.zeros((1, block.rows.shape[1]), np.float32)
            block = block._replace(rows=blank, valid=np.zeros(1, bool), episode_ids=np.array([-1]))
        return _to_table(number, block)

    return read


def _row_bytes(width: int) -> int:
    """Return the size of one packed row, with episode id, range, flags and error offset."""
    return 4 * width + 8 + 4 + 1 + 4


def _to_table(number: int, block: PackedBlock) -> pa.Table:
    num_rows, width = block.rows.shape
    return pa.table(
        {
            "rows": pa.FixedSizeListArray.from_arrays(pa.array(block.rows.reshape(-1)), width),
            "valid": pa.array(block.valid, pa.bool_()),
            "episode_id": pa.array(block.episode_ids, pa.int64()),
            "range": pa.array(np.full(num_rows, number, np.int32)),
            "error": pa.array([block.error] * num_rows, pa.string()),
            "is_unreachable": pa.array(np.full(num_rows, block.is_unreachable)),
        }
    )


def iter_blocks(
    ranges: Sequence[RowRange], columns: Mapping[str, Column], names: Sequence[str]
) -> Iterator[PackedBlock]:
    """Yield the packed row ranges in order, read chunk by chunk through Ray Data.

    Nothing runs between two chunks. A Ray Data execution left open would keep its scheduling loop
    busy while the consumer pauses, and closing it after `ray.shutdown()` starts a new Ray and hangs
    (Ray 2.60: streaming_executor.py:355 into auto_init_hook.py:13). What cannot be read is an empty
    block with its error.
    """
    read = _packed_reader(columns, names)
    row_bytes = _row_bytes(sum(columns[name].width for name in names))
    max_bytes = _chunk_bytes(max(ranges, key=lambda rows: rows.num_rows), row_bytes)
    chunk: list[RowRange] = []
    num_bytes = 0
    for rows in ranges:
        size = rows.num_rows * row_bytes
        if chunk and num_bytes + size > max_bytes:
            yield from _read_chunk(chunk, read, row_bytes)
            chunk, num_bytes = [], 0
        chunk.append(rows)
        num_bytes += size
    yield from _read_chunk(chunk, read, row_bytes)


def _chunk_bytes(largest: RowRange, row_bytes: int) -> int:
    """Return how much to read at once: a share of the object store, so that Ray spills nothing."""
    stores = [
        int(node["Resources"].get("object_store_memory", 0))
        for node in ray.nodes()
        if node["Alive"]
    ]
    smallest = min(store for store in stores if store > 0)
    if largest.num_rows * row_bytes > smallest // 2:
        logger.warning(
            "%s takes %d MB, and an object store of this cluster holds %d MB: Ray may spill it to "
            "disk at every reading. Write the dataset with fewer rows_per_group, or start Ray with "
            "a larger object_store_memory.",
            largest.where,
            largest.num_rows * row_bytes // 10**6,
            smallest // 10**6,
        )
    return min(MAX_CHUNK_BYTES, smallest // STORE_SHARE)


def _read_chunk(
    ranges: Sequence[RowRange], read: ReadRange, row_bytes: int
) -> Iterator[PackedBlock]:
    dataset = ray.data.read_datasource(
        EpisodesDatasource(ranges, read, row_bytes=row_bytes),
        num_cpus=0,
        concurrency=min(MAX_CONCURRENT_TASKS, len(ranges)),
        override_num_blocks=len(ranges),
    )
    # The context is this dataset's own copy.
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    dataset.context.execution_options.preserve_order = True
    # One block per read task, however large: blocks must not be cut inside an episode.
    dataset.context.target_max_block_size = None
    with _quiet():
        tables = list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    tables.reverse()
    while tables:
        yield _from_table(tables.pop(), ranges)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop Ray Data's line per finished execution; a rolling window would print it all day."""
    levels = {
        logging.getLogger("ray.data._internal.execution.streaming_executor"): logging.WARNING,
        logging.getLogger("ray.data._internal.progress"): logging.ERROR,
    }
    before = {logger: logger.level for logger in levels}
    for logger, level in levels.items():
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def _from_table(table: pa.Table, ranges: Sequence[RowRange]) -> PackedBlock:
    table = table.combine_chunks()
    error = table["error"][0].as_py()
    where = ranges[table["range"][0].as_py()].where
    rows = table["rows"].chunk(0)
    if error is not None:
        is_unreachable = table["is_unreachable"][0].as_py()
        return PackedBlock.unreadable(
            where, rows.type.list_size, error, is_unreachable=is_unreachable
        )
    return PackedBlock(
        rows.flatten().to_numpy().reshape(len(rows), rows.type.list_size),
        table["valid"].to_numpy(),
        table["episode_id"].to_numpy(),
        where,
    )
