"""Reads row ranges through Ray Data; imported only when Ray is used.

Knows ray.data. One read task per row range, in order, on no CPU of its own (learners may have
reserved them all) and few at a time.

Ray 2.60 would print a call for a bug report for every error inside a read task
(ray/data/exceptions.py:85), so a broken contract travels as a row of text instead.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from rllib_om2p.data.decode import PackedBlock, RowRange, pack
from rllib_om2p.data.schema import Column, DataError

MAX_CONCURRENT_TASKS = 2
# Finished blocks wait here for a slow consumer, such as the rolling window of a learner.
MAX_BUFFERED_BYTES = 256 * 2**20


class EpisodesDatasource(Datasource):  # type: ignore[misc]
    """Packed rows of whole episodes as a Ray Data source, one block per row range."""

    def __init__(
        self, ranges: Sequence[RowRange], columns: Mapping[str, Column], names: Sequence[str]
    ) -> None:
        super().__init__()
        self._ranges = list(ranges)
        self._columns = dict(columns)
        self._names = list(names)
        self._row_bytes = 4 * sum(columns[name].width for name in names) + 13

    def estimate_inmemory_data_size(self) -> int:
        """Return the size of all packed rows in bytes."""
        return sum(r.stop - r.start for r in self._ranges) * self._row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return one task per row range, whatever parallelism is asked for."""
        return [self._read_task(number, rows) for number, rows in enumerate(self._ranges)]

    def _read_task(self, number: int, rows: RowRange) -> ReadTask:
        num_rows = rows.stop - rows.start
        metadata = BlockMetadata(
            num_rows=num_rows,
            size_bytes=num_rows * self._row_bytes,
            input_files=[rows.source.path],
            exec_stats=None,
        )
        return ReadTask(_reader(number, rows, self._columns, self._names), metadata)


def _reader(
    number: int, rows: RowRange, columns: Mapping[str, Column], names: Sequence[str]
) -> Callable[[], Iterable[pa.Table]]:
    # A closure over these four only: Ray ships it to the worker.
    def read() -> Iterable[pa.Table]:
        try:
            block = pack(rows, columns, names)
        except DataError as error:
            width = sum(columns[name].width for name in names)
            yield _to_table(number, np.zeros((1, width), np.float32), [False], [-1], str(error))
        else:
            yield _to_table(number, block.rows, block.valid, block.episode_ids, None)

    return read


def _to_table(number: int, rows: Any, valid: Any, episode_ids: Any, error: str | None) -> pa.Table:
    num_rows, width = rows.shape
    return pa.table(
        {
            "rows": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), width),
            "valid": pa.array(valid, pa.bool_()),
            "episode_id": pa.array(episode_ids, pa.int64()),
            "range": pa.array(np.full(num_rows, number, np.int32)),
            "error": pa.array([error] * num_rows, pa.string()),
        }
    )


def iter_blocks(
    ranges: Sequence[RowRange], columns: Mapping[str, Column], names: Sequence[str]
) -> Iterator[PackedBlock]:
    """Yield the packed row ranges in order, read ahead by Ray Data.

    Raises:
        DataError: A row range breaks the contract.
    """
    dataset = ray.data.read_datasource(
        EpisodesDatasource(ranges, columns, names),
        num_cpus=0,
        concurrency=MAX_CONCURRENT_TASKS,
        override_num_blocks=len(ranges),
    )
    _configure(dataset.context)
    with _quiet():
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
        for table in batches:
            yield _from_table(table, ranges)


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


def _configure(context: Any) -> None:
    """Keep Ray Data in order, quiet and small; the context is this dataset's own copy."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    limits = context.execution_options.resource_limits
    context.execution_options.resource_limits = limits.copy(object_store_memory=MAX_BUFFERED_BYTES)
    # One block per read task, however large: blocks must not be cut inside an episode.
    context.target_max_block_size = None
    # A consumer may pause for hours between two blocks; that is no failure.
    context.execution_no_progress_timeout_s = -1


def _from_table(table: pa.Table, ranges: Sequence[RowRange]) -> PackedBlock:
    table = table.combine_chunks()
    error = table["error"][0].as_py()
    if error is not None:
        raise DataError(error)
    rows = table["rows"].chunk(0)
    where = ranges[table["range"][0].as_py()].where
    return PackedBlock(
        rows.flatten().to_numpy().reshape(len(rows), rows.type.list_size),
        table["valid"].to_numpy(),
        table["episode_id"].to_numpy(),
        where,
    )
