"""What every source hands to the streaming core: episodes in batches, and rows cut into episodes.

Knows the contract and NumPy, no public format. Nothing here holds more than a window of rows.

Axes: R rows of a window, E episodes of equal length, T acting steps, O observation, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rllib_om2p.data.importers.options import AtLimit
from rllib_om2p.data.schema import AnyArray, BoolArray, DataError, DatasetSpec

# Rows that are read at once; a longer episode is read whole.
WINDOW_ROWS = 8_192

IntArray = npt.NDArray[np.int64]
Progress = Callable[[str], None]


class EpisodeBatch(NamedTuple):
    """Episodes of one length, shaped as `DatasetWriter.write_batch` takes them.

    Args:
        obs: Per agent (E, T + 1, O).
        actions: Per agent (E, T, A), or (E, T) integers.
        rewards: Per agent (E, T).
        terminateds: Per agent (E, T) bool.
        truncated: (E,) bool.
        state: (E, T + 1, S) or None.
        action_masks: Per discrete agent (E, T + 1, A) bool, or None.
        behaviour_id: (E,) integers, or None.
    """

    obs: dict[str, AnyArray]
    actions: dict[str, AnyArray]
    rewards: dict[str, AnyArray]
    terminateds: dict[str, AnyArray]
    truncated: AnyArray
    state: AnyArray | None = None
    action_masks: dict[str, AnyArray] | None = None
    behaviour_id: AnyArray | None = None


@dataclass(frozen=True, eq=False)
class Recording:
    """An opened source.

    Args:
        spec: What the dataset will say about itself; equal for equal files and options.
        batches: All episodes from a given number on, in an order that is always the same.
        num_episodes: How many there are, None if only reading tells.
        notes: What was found and decided on the way, for the person who imports; batches may
            append to it.
        actuators: Place in our joint action of each recorded action feature, None to keep them.
    """

    spec: DatasetSpec
    batches: Callable[[int], Iterator[EpisodeBatch]]
    num_episodes: int | None = None
    notes: list[str] = field(default_factory=list)
    actuators: tuple[int, ...] | None = None


class Rows(NamedTuple):
    """Consecutive recorded rows of the agents that are kept.

    Args:
        obs: Per agent (R, O).
        actions: Per agent (R, A), or (R,) integers.
        rewards: Per agent (R,).
        dones: Per agent (R,) bool, as they were recorded.
        next_obs: Per agent (R, O), None where the format has none.
        state: (R, S) or None.
        next_state: (R, S) or None.
        action_masks: Per agent (R, A) bool, or None.
    """

    obs: dict[str, AnyArray]
    actions: dict[str, AnyArray]
    rewards: dict[str, AnyArray]
    dones: dict[str, BoolArray]
    next_obs: dict[str, AnyArray] | None = None
    state: AnyArray | None = None
    next_state: AnyArray | None = None
    action_masks: dict[str, AnyArray] | None = None


class Segments(NamedTuple):
    """Where the episodes lie in the streams of rows; arrays (E,) in the order of the dataset.

    Args:
        stream: Number of the stream, for example of the seed.
        start: First row.
        length: Acting rows.
        final: Row that holds the final observation (its next_obs if the format has one).
        ended: Every agent terminates at the last acting row, whatever its flags say.
        truncated: The episode was stopped from outside.
        at_limit: It reached the time limit, where recorded flags do not count.
    """

    stream: IntArray
    start: IntArray
    length: IntArray
    final: IntArray
    ended: BoolArray
    truncated: BoolArray
    at_limit: BoolArray

    @classmethod
    def joined(cls, parts: Sequence[Segments]) -> Segments:
        """Return the episodes of several streams, one after the other."""
        arrays: list[AnyArray] = [np.concatenate(part) for part in zip(*parts, strict=True)]
        return cls(*arrays)

    def select(self, which: BoolArray | slice) -> Segments:
        """Return some of the episodes."""
        arrays: list[AnyArray] = [array[which] for array in self]
        return Segments(*arrays)


def make_segments(
    stream: int,
    start: IntArray,
    length: IntArray,
    final: IntArray,
    *,
    all_done: BoolArray,
    limit: int | None,
    at_limit: AtLimit | None,
) -> Segments:
    """Decide how episodes end.

    An end at the time limit is a truncation, whatever was recorded, unless `at_limit` says
    "terminated"; an earlier end is terminal if all agents are done, else a truncation.
    """
    reached = (length == limit) if limit is not None else np.zeros(len(length), bool)
    ended = np.where(reached, at_limit == "terminated", all_done)
    return Segments(
        np.full(len(start), stream, np.int64), start, length, final, ended, ~ended, reached
    )


def segments_up_to(
    is_end: BoolArray,
    stream: int,
    *,
    all_done: BoolArray,
    limit: int | None,
    at_limit: AtLimit | None,
) -> Segments:
    """Return the episodes of rows that are all steps: each goes up to a marked row.

    Args:
        is_end: Whether an episode ends with a row, (rows,); the last row ends one in any case.
        stream: Where the rows stand.
        all_done: Whether all agents are done at a row, (rows,).
        limit: The time limit.
        at_limit: What an end at the limit is, see `make_segments`.
    """
    last = np.union1d(np.flatnonzero(is_end), len(is_end) - 1)
    first = np.append(0, last[:-1] + 1)
    return make_segments(
        stream,
        first,
        last - first + 1,
        last,
        all_done=all_done[last],
        limit=limit,
        at_limit=at_limit,
    )


def check_limit(segments: Segments, limit: int | None, where: Callable[[int], str]) -> None:
    """Refuse episodes that are longer than the time limit.

    Args:
        segments: The episodes.
        limit: The declared time limit.
        where: Names a stream for the error text.

    Raises:
        DataError: An episode is longer; the text names the rows.
    """
    if limit is None or not len(segments.length):
        return
    worst = int(segments.length.argmax())
    longest, start = int(segments.length[worst]), int(segments.start[worst])
    if longest > limit:
        raise DataError(
            f"{where(int(segments.stream[worst]))}: rows {start} to {start + longest - 1} are one "
            f"episode of {longest} steps, expected at most the time limit of {limit}; give the "
            "true one with --time-limit."
        )


def cut(
    segments: Segments, first: int, read: Callable[[int, int, int], Rows], *, many_streams: bool
) -> Iterator[EpisodeBatch]:
    """Read windows of rows and yield their episodes, those of equal length together.

    Args:
        segments: Where the episodes lie.
        first: Number of the first episode to yield.
        read: Reads rows start .. stop - 1 of a stream.
        many_streams: Whether the number of the stream becomes the behaviour id.
    """
    total = len(segments.start)
    while first < total:
        stream, low = segments.stream[first], segments.start[first]
        ends = np.maximum(segments.start + segments.length, segments.final + 1)
        stop = first + 1
        while stop < total and segments.stream[stop] == stream and ends[stop] - low <= WINDOW_ROWS:
            stop += 1
        rows = read(int(stream), int(low), int(ends[first:stop].max()))
        while first < stop:
            lengths = segments.length[first:stop]
            other = np.flatnonzero(lengths != lengths[0])
            end = first + int(other[0]) if other.size else stop
            part = segments.select(slice(first, end))
            yield _gather(rows, part, int(low), many_streams)
            first = end


def _gather(rows: Rows, part: Segments, low: int, many_streams: bool) -> EpisodeBatch:
    steps = (part.start - low)[:, None] + np.arange(part.length[0])
    final = part.final - low
    next_obs = rows.obs if rows.next_obs is None else rows.next_obs
    next_state = rows.state if rows.next_state is None else rows.next_state

    def with_final(array: AnyArray, finals: AnyArray) -> AnyArray:
        return np.concatenate([array[steps], finals[final][:, None]], axis=1)

    terminateds = {}
    for name, dones in rows.dones.items():
        flags = dones[steps]
        flags[:, -1] = part.ended | (flags[:, -1] & ~part.at_limit)
        terminateds[name] = flags
    masks = rows.action_masks
    return EpisodeBatch(
        obs={name: with_final(array, next_obs[name]) for name, array in rows.obs.items()},
        actions={name: array[steps] for name, array in rows.actions.items()},
        rewards={name: array[steps] for name, array in rows.rewards.items()},
        terminateds=terminateds,
        truncated=part.truncated,
        state=None
        if rows.state is None or next_state is None
        else with_final(rows.state, next_state),
        action_masks=None
        if masks is None
        else {name: with_final(array, array) for name, array in masks.items()},
        behaviour_id=part.stream if many_streams else None,
    )
