"""The transitions of one learner as one float32 table on its device, sampled uniformly.

Knows rows, blocks and indices; nothing of agents, losses or RLlib. A row is one joint step; the
row after it is the next step of the same episode, and the final observation of an episode stands in
a row of its own that is never drawn. So the next observation of row i is in row i + 1.

Two modes, chosen by the memory budget:

- whole: every block is in the table; each draw is uniform over all transitions.
- window: the table holds as many blocks as the budget allows. The oldest block makes room for the
  next one whenever `draws_per_transition` draws per transition of a block have been made, so each
  epoch over the shuffled blocks shows every transition about that often. Blocks are read ahead by a
  thread, but swapped at fixed draw counts: what is drawn depends on seeds and counters alone.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rllib_om2p.core.shared_table import open_or_fill, table_folder

logger = logging.getLogger(__name__)

FLOAT32_BYTES = 4


class Block(NamedTuple):
    """Whole episodes, ready for the table.

    Attributes:
        rows: (R, width) float32.
        valid: (R,) bool, False in the row with an episode's final observation.
    """

    rows: np.ndarray
    valid: np.ndarray


class Sample(NamedTuple):
    """Sampled rows.

    Attributes:
        rows: (B, width).
        next_observed: (B, observed_width), the observed columns of the rows that follow.
    """

    rows: Tensor
    next_observed: Tensor


class TransitionTable:
    """Rows on a device, and uniform draws from them.

    Args:
        read_epoch: Called with the epoch's number and that of a block; yields that epoch's blocks
            from this one on. Always the same blocks, in an order that may depend on the epoch.
        num_blocks: Blocks per epoch.
        max_block_rows: Rows of the largest block.
        num_rows: Rows of all blocks together.
        width: Columns of a row.
        observed_width: The leading columns that `Sample.next_observed` holds.
        device: Where the table lives.
        memory_budget: Bytes that the table may take, read-ahead included; None for no limit.
        draws_per_transition: In window mode, draws per transition of a block between two swaps.
        shared_key: Names what the rows depend on; a whole table is then read once per node, by the
            first process that asks for it, and shared (see `shared_table`). None: an own table.
        may_lack_rows: Blocks may have fewer rows than promised, even none.

    Raises:
        ValueError: The budget is smaller than the smallest window: two blocks and the read-ahead.
            Or no block has a transition.
    """

    def __init__(
        self,
        read_epoch: Callable[[int, int], Iterator[Block]],
        *,
        num_blocks: int,
        max_block_rows: int,
        num_rows: int,
        width: int,
        observed_width: int,
        device: torch.device | str = "cpu",
        memory_budget: int | None = None,
        draws_per_transition: float = 4.0,
        shared_key: str | None = None,
        may_lack_rows: bool = False,
    ) -> None:
        self._read_epoch = read_epoch
        self._may_lack_rows = may_lack_rows
        self._num_blocks = num_blocks
        self._observed_width = observed_width
        self._device = torch.device(device)
        self._draws_per_transition = draws_per_transition
        self._reader: _ReadAhead | None = None
        self._num_inserted = 0
        self._draws_since_swap = 0.0
        # Each row costs its columns and its entry in the index of valid rows.
        row_bytes = width * FLOAT32_BYTES + torch.int64.itemsize
        block_bytes = max_block_rows * row_bytes
        self.is_window = memory_budget is not None and num_rows * row_bytes > memory_budget
        if self.is_window:
            assert memory_budget is not None
            # Two blocks outside the table: one waiting in the queue, one in the reader's hands.
            num_slots = memory_budget // block_bytes - 2
            if num_slots < 2:
                raise ValueError(
                    f"table_memory_budget={memory_budget} bytes is too small: the largest row "
                    f"group takes {block_bytes} bytes and the rolling window needs four of them. "
                    f"Raise the budget to at least {4 * block_bytes} or write the dataset with "
                    "fewer rows_per_group."
                )
            self._num_slots = int(num_slots)
            self._slot_rows = max_block_rows
            self._rows = torch.empty((num_slots * max_block_rows, width), device=self._device)
            self._slot_valid: list[Tensor] = [torch.empty(0, dtype=torch.int64)] * self._num_slots
            self._fill_window()
        elif shared_key is not None:
            rows, valid = open_or_fill(
                table_folder(), shared_key, (num_rows, width), self._fill_whole
            )
            self._rows, self._valid = rows.to(self._device), valid.to(self._device)
        else:
            self._rows = torch.empty((num_rows, width), device=self._device)
            self._valid = self._fill_whole(self._rows).to(self._device)

    @property
    def num_transitions(self) -> int:
        """Transitions that can be drawn now."""
        return len(self._valid)

    @property
    def num_bytes(self) -> int:
        """Bytes of the table and its index, without the read-ahead."""
        index_bytes = self._valid.numel() * self._valid.element_size()
        return self._rows.numel() * self._rows.element_size() + index_bytes

    def sample(self, batch_size: int, generator: torch.Generator) -> Sample:
        """Draw `batch_size` transitions uniformly, with replacement.

        Args:
            batch_size: B.
            generator: On the table's device.
        """
        if self.is_window:
            self._swap_if_due(batch_size)
        positions = torch.randint(
            len(self._valid), (batch_size,), generator=generator, device=self._device
        )
        index = self._valid.index_select(0, positions)
        return Sample(
            rows=self._rows.index_select(0, index),
            next_observed=self._rows[:, : self._observed_width].index_select(0, index + 1),
        )

    def get_state(self) -> dict[str, Any]:
        """Return the counters from which the same window and the same draws follow."""
        return {"num_inserted": self._num_inserted, "draws_since_swap": self._draws_since_swap}

    def set_state(self, state: dict[str, Any]) -> None:
        """Rebuild the window that `state` describes; a whole table has nothing to restore."""
        if not self.is_window:
            return
        self.close()
        self._fill_window(num_inserted=int(state["num_inserted"]))
        self._draws_since_swap = float(state["draws_since_swap"])

    def close(self) -> None:
        """Stop reading ahead."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _fill_whole(self, rows: Tensor) -> Tensor:
        start, valid = 0, []
        for block in self._read_epoch(0, 0):
            end = start + len(block.rows)
            rows[start:end] = torch.from_numpy(block.rows)
            valid.append(torch.from_numpy(np.flatnonzero(block.valid) + start))
            start = end
        if start != len(rows) and not self._may_lack_rows:
            raise ValueError(
                f"the dataset promised {len(rows)} rows and gave {start}; it changed while "
                "it was read. Check that no other process writes it."
            )
        return self._joined(valid)

    def _fill_window(self, num_inserted: int | None = None) -> None:
        """Fill all slots, ending with block number `num_inserted - 1` of the endless sequence."""
        self._num_inserted = max((num_inserted or 0) - self._num_slots, 0)
        self._draws_since_swap = 0.0
        self._reader = _ReadAhead(
            self._blocks_from(self._num_inserted), pin=self._device.type == "cuda"
        )
        while self._num_inserted < max(num_inserted or 0, self._num_slots):
            self._insert(self._reader.next_block())
        self._valid = self._joined(self._slot_valid).to(self._device)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        valid = torch.cat(parts)
        if not len(valid):
            raise ValueError(
                "nothing is left to learn from: no row group of the table could be read (see the "
                "warnings); copy the dataset again."
            )
        return valid

    def _blocks_from(self, first: int) -> Iterator[Block]:
        epoch, offset = divmod(first, self._num_blocks)
        while True:
            count = offset
            for block in self._read_epoch(epoch, offset):
                count += 1
                yield block
            if count != self._num_blocks:
                raise ValueError(
                    f"epoch {epoch} gave {count} row groups instead of {self._num_blocks}; the "
                    "dataset changed while it was read."
                )
            epoch, offset = epoch + 1, 0

    def _insert(self, block: _Ready) -> None:
        slot = self._num_inserted % self._num_slots
        start = slot * self._slot_rows
        self._rows[start : start + len(block.rows)].copy_(block.rows, non_blocking=True)
        self._slot_valid[slot] = block.valid + start
        self._num_inserted += 1

    def _swap_if_due(self, batch_size: int) -> None:
        assert self._reader is not None
        # Small blocks may be due several at a time; more than a whole window is not.
        num_swapped = 0
        while num_swapped < self._num_slots:
            oldest = self._slot_valid[self._num_inserted % self._num_slots]
            due = self._draws_per_transition * len(oldest)
            if self._draws_since_swap < due:
                break
            self._insert(self._reader.next_block())
            self._draws_since_swap -= due
            num_swapped += 1
        if num_swapped:
            self._valid = self._joined(self._slot_valid).to(self._device)
        self._draws_since_swap += batch_size


class _Ready(NamedTuple):
    """A block as tensors.

    Attributes:
        rows: (R, width).
        valid: Numbers of the rows that can be drawn.
    """

    rows: Tensor
    valid: Tensor


class _ReadAhead:
    """Pulls one block ahead of its consumer, in a thread, and hands over the reader's errors.

    Args:
        blocks: What to read.
        pin: Put rows into page-locked memory, from which a GPU copies while it computes.
    """

    def __init__(self, blocks: Iterator[Block], *, pin: bool) -> None:
        self._pin = pin
        self._queue: queue.Queue[_Ready | BaseException] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(blocks,), name="table-read-ahead", daemon=True
        )
        self._thread.start()

    def next_block(self) -> _Ready:
        if self._error is not None:
            raise self._error
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._error = item  # the thread has ended: nothing else will come
            raise item
        return item

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=10.0)
        if self._thread.is_alive():
            logger.warning("the table's reader did not stop within 10 s; it ends with the process")

    def _run(self, blocks: Iterator[Block]) -> None:
        try:
            for block in blocks:
                rows = torch.from_numpy(block.rows)
                ready = _Ready(
                    rows.pin_memory() if self._pin else rows,
                    torch.from_numpy(np.flatnonzero(block.valid)),
                )
                if not self._put(ready):
                    return
        except Exception as error:  # handed over whole, so that the learner raises it
            self._put(error)

    def _put(self, item: _Ready | BaseException) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
