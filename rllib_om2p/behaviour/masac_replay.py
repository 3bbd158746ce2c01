"""A replay buffer of several worlds' streams, so that it can become a dataset; knows no training.

All worlds step together, (T, worlds, ...), each through its own episodes. The oldest steps are
overwritten when the buffer is full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rllib_om2p.behaviour.masac import Batch

Array = NDArray[Any]


class StateEpisode(NamedTuple):
    """One episode of T steps as the simulator saw it."""

    states: Array  # (T + 1, S)
    actions: Array  # (T, all agents' features in order)
    rewards: Array  # (T,), of the team
    terminated: bool


class StreamBuffer:
    """Holds the last `num_rows` steps of `num_worlds` worlds."""

    def __init__(self, num_rows: int, num_worlds: int, *, state_dim: int, action_dim: int) -> None:
        shape = (num_rows, num_worlds)
        self._fields = {
            "states": np.zeros((*shape, state_dim), np.float32),
            "actions": np.zeros((*shape, action_dim), np.float32),
            "rewards": np.zeros(shape, np.float32),
            "next_states": np.zeros((*shape, state_dim), np.float32),
            "terminateds": np.zeros(shape, np.float32),
            "truncateds": np.zeros(shape, np.float32),
        }
        self._num_rows, self._num_worlds = shape
        self._num_added = 0

    def add(self, **step: Array) -> None:
        """Append one step of all worlds; one array (worlds, ...) per field."""
        assert step.keys() == self._fields.keys()
        row = self._num_added % self._num_rows
        for name, values in step.items():
            self._fields[name][row] = values
        self._num_added += 1

    @property
    def num_steps(self) -> int:
        """Joint steps that are held."""
        return min(self._num_added, self._num_rows) * self._num_worlds

    def sample(self, generator: np.random.Generator, size: int) -> Batch:
        """Return `size` joint transitions, uniform over all that are held."""
        row, world = np.divmod(generator.integers(self.num_steps, size=size), self._num_worlds)
        names = ("states", "actions", "rewards", "next_states", "terminateds")
        return Batch(*(torch.from_numpy(self._fields[name][row, world]) for name in names))

    def episodes(self) -> Iterator[StateEpisode]:
        """Yield the whole episodes in the order in which they ended."""
        fields = {name: values[self._rows_in_order()] for name, values in self._fields.items()}
        ends = (fields["terminateds"] + fields["truncateds"]) > 0
        # A stream that has lost its start begins with the rest of an episode.
        lost = self._num_added > self._num_rows
        starts = np.full(self._num_worlds, -1 if lost else 0)
        for row, world in np.argwhere(ends):
            start, starts[world] = starts[world], row + 1
            if start >= 0:
                yield _episode(fields, slice(start, row + 1), world)

    def state_dict(self) -> dict[str, Any]:
        """Return what is held, as arrays."""
        return {
            "num_added": self._num_added,
            "fields": {name: values[: self._num_added] for name, values in self._fields.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold what a `state_dict` of an equal buffer says."""
        self._num_added = state["num_added"]
        for name, values in state["fields"].items():
            self._fields[name][: self._num_added] = values

    def _rows_in_order(self) -> Array:
        first = max(0, self._num_added - self._num_rows)
        return np.arange(first, self._num_added) % self._num_rows


def _episode(fields: Mapping[str, Array], rows: slice, world: int) -> StateEpisode:
    states = fields["states"][rows, world]
    last = fields["next_states"][rows.stop - 1, world]
    return StateEpisode(
        np.concatenate((states, last[None])),
        fields["actions"][rows, world],
        fields["rewards"][rows, world],
        bool(fields["terminateds"][rows.stop - 1, world]),
    )
