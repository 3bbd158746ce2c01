"""Checks of decoded rows against the contract; every error names the place and the remedy.

Knows the contract and NumPy, not where the rows come from. The writer runs the same checks on
what it is given as the reader on what it finds.

R rows in file order; `where` is a place such as "part-00000.parquet, row group 3".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rllib_om2p.data.schema import AnyArray, BoolArray, Column, DataError

# Boxes are float64, actions float32: this share of the range is rounding, not an error.
ACTION_TOLERANCE = 1e-6

IntArray = npt.NDArray[np.int64]


class RowIndex(NamedTuple):
    """Which row belongs where.

    Args:
        episode_ids: Episode of each row, (R,).
        steps: Step of each row, (R,).
        valid: False on final rows, (R,).
    """

    episode_ids: IntArray
    steps: IntArray
    valid: BoolArray


def episode_starts(episode_ids: IntArray) -> IntArray:
    """Return the first row of each run of equal episode ids."""
    changes = np.flatnonzero(np.diff(episode_ids)) + 1
    return np.concatenate([np.zeros(min(1, len(episode_ids)), np.int64), changes])


def check_episodes(index: RowIndex, where: str) -> IntArray:
    """Check that the rows are whole episodes in order, and return where each one starts.

    Raises:
        DataError: An episode is cut short, interleaved, out of order or without a final row.
    """
    ids, steps, valid = index
    starts = episode_starts(ids)
    ends = np.append(starts[1:], len(ids)) - 1
    _check_order(index, starts, where)
    _, counts = np.unique(ids[starts], return_counts=True)
    if counts.size and counts.max() > 1:
        first = np.unique(ids[starts])[counts > 1][0]
        raise DataError(
            f"{where}: the rows of episode {first} are not contiguous; sort the rows by episode_id "
            "and step and write the dataset again."
        )
    is_last = np.zeros(len(ids), bool)
    is_last[ends] = True
    missing = np.flatnonzero(is_last & valid)
    if missing.size:
        row = missing[0]
        raise DataError(
            f"{where}: episode {ids[row]} is cut short: it ends at step {steps[row]} without a "
            "final row (valid = false) that holds the last observation; write it again with its "
            "final row, or leave the episode out."
        )
    early = np.flatnonzero(~is_last & ~valid)
    if early.size:
        row = early[0]
        raise DataError(
            f"{where}: episode {ids[row]} goes on after its final row (valid = false) at step "
            f"{steps[row]}; mark only the last row of an episode as final."
        )
    empty = np.flatnonzero(starts == ends)
    if empty.size:
        raise DataError(
            f"{where}: episode {ids[starts[empty[0]]]} has a final row but no steps; leave it out."
        )
    return starts


def _check_order(index: RowIndex, starts: IntArray, where: str) -> None:
    ids, steps, _ = index
    late = np.flatnonzero(steps[starts] != 0)
    if late.size:
        row = starts[late[0]]
        raise DataError(
            f"{where}: episode {ids[row]} begins at step {steps[row]}, not 0: it is cut or "
            "straddles a row group; keep the rows of an episode together and write it again."
        )
    follows = np.ones(len(ids), bool)
    follows[starts] = False
    wrong = np.flatnonzero(follows[1:] & (np.diff(steps) != 1)) + 1
    if wrong.size:
        row = wrong[0]
        raise DataError(
            f"{where}: episode {ids[row]} is out of order: step {steps[row]} follows step "
            f"{steps[row - 1]}; sort its rows by step, without gaps, and write it again."
        )


def check_values(
    columns: Mapping[str, Column], values: Mapping[str, AnyArray], index: RowIndex, where: str
) -> None:
    """Check the values of the given columns.

    Args:
        columns: The contract's columns.
        values: Decoded columns by name, (R, width) or (R,).
        index: Where each row belongs, with episodes already checked.
        where: The place, for the error text.

    Raises:
        DataError: A value is not finite, an action lies outside its space, a final row acts, or
            `truncated` does not stand on the last acting row.
    """
    for name, array in values.items():
        column = columns[name]
        if np.issubdtype(array.dtype, np.floating):
            _check_finite(column, array, index, where)
        if column.kind == "action":
            _check_action(column, array, index, where)
        if column.kind in ("action", "reward", "terminated", "truncated"):
            _check_final_rows(column, array, index, where)
        if column.kind == "truncated":
            _check_truncated(array, index, where)


def _place(where: str, index: RowIndex, row: int, column: Column) -> str:
    agent = f", agent {column.agent.name}" if column.agent is not None else ""
    step = f"episode {index.episode_ids[row]}, step {index.steps[row]}"
    return f"{where}, {step}{agent}: column {column.name}"


def _first_bad_row(bad: BoolArray) -> int | None:
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    return int(rows[0]) if rows.size else None


def _check_finite(column: Column, array: AnyArray, index: RowIndex, where: str) -> None:
    # The sum is finite unless a value is not (or it overflows); only then build the mask.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return
    row = _first_bad_row(~np.isfinite(array))
    if row is not None:
        values = np.atleast_1d(array[row])
        feature = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(
            f"{_place(where, index, row, column)} holds {values[feature]} at feature {feature}; "
            "every value must be finite: repair it or leave the episode out."
        )


def _check_action(column: Column, array: AnyArray, index: RowIndex, where: str) -> None:
    agent = column.agent
    assert agent is not None
    if agent.num_actions is not None:
        row = _first_bad_row((array < 0) | (array >= agent.num_actions))
        if row is not None:
            raise DataError(
                f"{_place(where, index, row, column)} holds {array[row]}, expected an action from "
                f"0 to {agent.num_actions - 1}; correct num_actions in the spec or the action."
            )
        return
    low, high = np.array(agent.action_low), np.array(agent.action_high)
    slack = ACTION_TOLERANCE * (high - low)
    outside = (array < (low - slack).astype(array.dtype)) | (
        array > (high + slack).astype(array.dtype)
    )
    row = _first_bad_row(outside & index.valid[:, None])
    if row is not None:
        feature = int(np.flatnonzero(outside[row])[0])
        raise DataError(
            f"{_place(where, index, row, column)} holds {array[row, feature]} at feature "
            f"{feature}, outside the action space [{low[feature]:g}, {high[feature]:g}]; clip the "
            "actions as the environment did, or correct the box in the spec."
        )


def _check_final_rows(column: Column, array: AnyArray, index: RowIndex, where: str) -> None:
    final = np.flatnonzero(~index.valid)
    row = _first_bad_row(array[final] != 0) if final.size else None
    if row is not None:
        raise DataError(
            f"{_place(where, index, int(final[row]), column)} is not zero on the final row "
            "(valid = false), which only holds the last observation; nothing acts there. Shift the "
            "column by one row, or set it to zero."
        )


def _check_truncated(array: AnyArray, index: RowIndex, where: str) -> None:
    goes_on = np.append(index.valid[1:], False)
    row = _first_bad_row(array & goes_on)
    if row is not None:
        raise DataError(
            f"{where}, episode {index.episode_ids[row]}, step {index.steps[row]}: truncated is "
            "true, but the episode goes on; it must stand on the last acting row. Split the "
            "episode there, or correct the flag."
        )
