"""The table against what it must do: uniform draws, true successors, whole windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.stats
import torch

from rllib_om2p.core.table import Block, TransitionTable

WIDTH = 5
STEPS = 4
EPISODES_PER_BLOCK = 10
BLOCK_ROWS = EPISODES_PER_BLOCK * (STEPS + 1)


def make_blocks(num_blocks: int) -> list[Block]:
    """Episodes of four steps; column 0 is the row's global number, column 1 its step."""
    blocks = []
    for number in range(num_blocks):
        ids = np.arange(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
        rows = np.zeros((BLOCK_ROWS, WIDTH), np.float32)
        rows[:, 0] = ids
        rows[:, 1] = ids % (STEPS + 1)
        blocks.append(Block(rows, rows[:, 1] < STEPS))
    return blocks


def make_table(
    num_blocks: int = 6,
    read: Callable[[int, int], Iterator[Block]] | None = None,
    **kwargs: object,
) -> TransitionTable:
    blocks = make_blocks(num_blocks)

    def read_epoch(epoch: int, first: int) -> Iterator[Block]:
        for index in np.random.default_rng(epoch).permutation(num_blocks)[first:]:
            yield blocks[index]

    return TransitionTable(
        read or read_epoch,
        num_blocks=num_blocks,
        max_block_rows=BLOCK_ROWS,
        num_rows=num_blocks * BLOCK_ROWS,
        width=WIDTH,
        observed_width=2,
        **kwargs,
    )


def window_budget(num_slots: int) -> int:
    return (num_slots + 2) * BLOCK_ROWS * (4 * WIDTH + 8)


def draw(table: TransitionTable, num_draws: int, seed: int = 0, batch: int = 64) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return np.concatenate(
        [table.sample(batch, generator).rows[:, 0].numpy() for _ in range(num_draws)]
    ).astype(int)


def test_draws_are_uniform_over_all_transitions_and_never_final_rows():
    table = make_table()
    ids = draw(table, 1000)
    assert (ids % (STEPS + 1) < STEPS).all()
    counts = np.bincount(ids, minlength=6 * BLOCK_ROWS)
    valid = np.arange(6 * BLOCK_ROWS) % (STEPS + 1) < STEPS
    assert scipy.stats.chisquare(counts[valid]).pvalue > 1e-3


def test_next_observation_is_that_of_the_following_step_of_the_same_episode():
    sample = make_table().sample(512, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample.next_observed[:, 0], sample.rows[:, 0] + 1)
    torch.testing.assert_close(sample.next_observed[:, 1], sample.rows[:, 1] + 1)
    assert sample.next_observed.shape == (512, 2)


def test_window_stays_under_its_budget_and_visits_every_transition():
    budget = window_budget(2)
    table = make_table(memory_budget=budget, draws_per_transition=6.0)
    assert table.is_window
    assert table.num_bytes + 2 * BLOCK_ROWS * 4 * WIDTH <= budget
    assert table.num_transitions == 2 * EPISODES_PER_BLOCK * STEPS
    # Three epochs over six blocks of 40 transitions, six draws each.
    ids = draw(table, 3 * 6 * 40 * 6 // 64)
    counts = np.bincount(ids, minlength=6 * BLOCK_ROWS)
    valid = np.arange(6 * BLOCK_ROWS) % (STEPS + 1) < STEPS
    assert (counts[valid] > 0).all()
    assert (counts[~valid] == 0).all()
    per_block = counts.reshape(6, -1).sum(1)
    assert per_block.max() < 2 * per_block.min()
    table.close()


@pytest.mark.parametrize("batch", [64, 400])
def test_window_moves_on_as_often_as_asked_however_large_the_batch(batch):
    """Blocks hold 40 transitions, so that a batch of 400 draws is due for more than one."""
    table = make_table(memory_budget=window_budget(3), draws_per_transition=4.0)
    num_draws = 96_000 // batch
    draw(table, num_draws, batch=batch)
    inserted = table.get_state()["num_inserted"] - 3
    assert num_draws * batch / (40 * inserted) == pytest.approx(4.0, rel=0.02)
    table.close()


def test_window_restored_from_its_counters_gives_the_same_draws():
    table = make_table(memory_budget=window_budget(3))
    draw(table, 50)
    state = table.get_state()
    expected = draw(table, 60, seed=7)
    other = make_table(memory_budget=window_budget(3))
    other.set_state(state)
    np.testing.assert_array_equal(draw(other, 60, seed=7), expected)
    table.close()
    other.close()


def test_budget_that_holds_everything_needs_no_window():
    assert not make_table(memory_budget=10**9).is_window


def test_budget_below_the_smallest_window_names_the_remedy():
    with pytest.raises(ValueError, match="Raise the budget to at least"):
        make_table(memory_budget=window_budget(1))


def test_reader_that_fails_in_the_window_raises_in_sample():
    blocks = make_blocks(6)

    def read_epoch(epoch: int, first: int) -> Iterator[Block]:
        yield from blocks[first:4]
        raise OSError("part-00001.parquet vanished")

    table = TransitionTable(
        read_epoch,
        num_blocks=6,
        max_block_rows=BLOCK_ROWS,
        num_rows=6 * BLOCK_ROWS,
        width=WIDTH,
        observed_width=2,
        memory_budget=window_budget(2),
    )
    with pytest.raises(OSError, match="vanished"):
        draw(table, 100)
    with pytest.raises(OSError, match="vanished"):
        draw(table, 1)


def test_dataset_that_shrank_while_read_is_refused():
    blocks = make_blocks(6)
    with pytest.raises(ValueError, match="it changed while it was read"):
        TransitionTable(
            lambda epoch, first: iter(blocks[:5]),
            num_blocks=6,
            max_block_rows=BLOCK_ROWS,
            num_rows=6 * BLOCK_ROWS,
            width=WIDTH,
            observed_width=2,
        )


def test_a_restored_window_reads_only_what_it_holds():
    blocks, read = make_blocks(6), []

    def read_epoch(epoch: int, first: int) -> Iterator[Block]:
        for number in range(first, 6):
            read.append((epoch, number))
            yield blocks[number]

    table = make_table(read=read_epoch, memory_budget=window_budget(2))
    table.close()
    read.clear()
    table.set_state({"num_inserted": 11, "draws_since_swap": 0})
    table.close()
    assert read[:3] == [(1, 3), (1, 4), (1, 5)]  # and perhaps one or two ahead
