"""A replay buffer of whole rounds of episodes, so that it can become a dataset; knows no training.

A round is one episode of every world, (T, worlds, ...). The oldest round is overwritten when the
buffer is full, so that after training the buffer holds the last rounds, in order, and nothing else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.envs.rollout import Episodes


class Batch(NamedTuple):
    """Joint transitions drawn from the buffer."""

    obs: NDArray[Any]  # (B, agents, obs_dim)
    actions: NDArray[Any]  # (B, agents, action_dim)
    rewards: NDArray[Any]  # (B, agents)
    next_obs: NDArray[Any]  # (B, agents, obs_dim)


class ReplayBuffer:
    """Holds the last `num_rounds` rounds of `num_steps` steps of `num_worlds` worlds."""

    def __init__(
        self, num_rounds: int, num_steps: int, num_worlds: int, *, obs_shape: tuple[int, int]
    ) -> None:
        num_agents = obs_shape[0]
        self._num_steps, self._num_worlds = num_steps, num_worlds
        self._obs = np.zeros((num_rounds, num_steps + 1, num_worlds, *obs_shape), np.float32)
        self._actions = np.zeros((num_rounds, num_steps, num_worlds, num_agents, 2), np.float32)
        self._rewards = np.zeros((num_rounds, num_steps, num_worlds, num_agents), np.float32)
        self._round = -1
        self._step = num_steps

    def start_round(self, obs: NDArray[Any]) -> None:
        """Begin a round with its first observations, in the place of the oldest."""
        assert self._step == self._num_steps, "the round before is not finished"
        self._round += 1
        self._step = 0
        self._obs[self._slot(self._round), 0] = obs

    def add(self, actions: NDArray[Any], rewards: NDArray[Any], next_obs: NDArray[Any]) -> None:
        """Append one step of all worlds to the present round."""
        slot, step = self._slot(self._round), self._step
        self._actions[slot, step] = actions
        self._rewards[slot, step] = rewards
        self._obs[slot, step + 1] = next_obs
        self._step += 1

    @property
    def room(self) -> int:
        """Joint steps that it can hold."""
        return len(self._obs) * self._num_steps * self._num_worlds

    @property
    def num_steps(self) -> int:
        """Joint steps that can be sampled."""
        whole_rounds = self._round - self._first_round()
        return (whole_rounds * self._num_steps + self._step) * self._num_worlds

    def sample(self, generator: np.random.Generator, size: int) -> Batch:
        """Return `size` joint transitions, uniform over all that are held."""
        index = generator.integers(self.num_steps, size=size)
        index, world = np.divmod(index, self._num_worlds)
        round_, step = np.divmod(index, self._num_steps)
        slot = self._slot(round_ + self._first_round())
        return Batch(
            self._obs[slot, step, world],
            self._actions[slot, step, world],
            self._rewards[slot, step, world],
            self._obs[slot, step + 1, world],
        )

    def episodes(self) -> Episodes:
        """Return all whole episodes in the order in which they ended."""
        end = self._round + (self._step == self._num_steps)
        slots = self._slot(np.arange(self._first_round(), end))
        return Episodes(
            *(
                np.swapaxes(field[slots], 1, 2).reshape(-1, field.shape[1], *field.shape[3:])
                for field in (self._obs, self._actions, self._rewards)
            )
        )

    def _slot(self, round_: Any) -> Any:
        return round_ % len(self._obs)

    def _first_round(self) -> int:
        return max(0, self._round - len(self._obs) + 1)
