"""Predator-Prey and World in torch, with gradients through time; for training the prey only.

Bodies and start states are those of `envs.vector_tasks`, dynamics and observations are equal, in
torch. Rewards are left to the caller, since those of the tasks have no useful gradient.

Axes: (worlds, bodies, features), learned agents first, then the prey, then landmarks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rllib_om2p.envs.vector_mpe import CONTACT_FORCE, CONTACT_MARGIN, DAMPING, TIME_STEP
from rllib_om2p.envs.vector_tasks import VECTOR_TASKS, SimpleTag


class State(NamedTuple):
    """Where everyone is and how fast."""

    positions: Tensor  # (N, bodies, 2)
    velocities: Tensor  # (N, agents, 2)


class Seen(NamedTuple):
    """What the predators and the prey observe."""

    predators: Tensor  # (N, predators, obs_dim)
    prey: Tensor  # (N, prey_obs_dim)


class TorchPursuit:
    """The simulator of one task; states go in and come out.

    Args:
        env: A registered name with a prey.
        dtype: Of all tensors.
    """

    def __init__(self, env: str, *, dtype: torch.dtype = torch.float32) -> None:
        task = VECTOR_TASKS[env]()
        assert isinstance(task, SimpleTag), env
        self.task, self.dtype = task, dtype
        bodies = task.bodies
        self.num_agents, self.num_predators = bodies.num_agents, len(task.agents)
        self.sizes = torch.tensor(bodies.sizes, dtype=dtype)
        self._gains = torch.tensor(bodies.force_gains, dtype=dtype)[:, None]
        self._max_speeds = torch.tensor(bodies.max_speeds, dtype=dtype)[:, None]
        collides = torch.tensor(bodies.collides)
        # Agents are pushed by every other body that collides, landmarks by nobody.
        pushes = collides[: self.num_agents, None] & collides[None]
        self._pushes = pushes & ~torch.eye(self.num_agents, len(collides), dtype=torch.bool)
        self._contact = self.sizes[: self.num_agents, None] + self.sizes[None]
        self._others = torch.tensor(
            [[j for j in range(self.num_agents) if j != i] for i in range(self.num_agents)]
        )

    def start(self, generator: np.random.Generator, num_worlds: int) -> State:
        """Return `num_worlds` start states."""
        positions = torch.tensor(self.task.draw_start(generator, num_worlds), dtype=self.dtype)
        return State(positions, torch.zeros(num_worlds, self.num_agents, 2, dtype=self.dtype))

    def observe(self, state: State) -> Seen:
        """Return everyone's observations, in the tasks' layout."""
        positions, velocities = state
        agents, landmarks = positions[:, : self.num_agents], positions[:, self.num_agents :]
        own = agents[:, :, None]
        seen = (
            velocities[:, :, None],
            own,
            landmarks[:, None] - own,
            agents[:, self._others] - own,
        )
        sight = torch.cat(seen, dim=2).flatten(2)
        forests = self._in_forests(positions)
        prey_velocity = velocities[:, -1:].expand(-1, self.num_predators, -1)
        predators, prey = slice(0, self.num_predators), self.num_predators
        return Seen(
            torch.cat((sight[:, predators], prey_velocity, forests[:, predators]), dim=-1),
            torch.cat((sight[:, prey], forests[:, prey]), dim=-1),
        )

    def step(self, state: State, actions: Tensor) -> State:
        """Return the next state after the actions (N, agents, 2) in [-1, 1] of all, prey last."""
        forces = actions * self._gains + self._contact_forces(state.positions)
        velocities = state.velocities * (1 - DAMPING) + forces * TIME_STEP
        speeds = length(velocities)[..., None]
        velocities = velocities * (self._max_speeds / torch.maximum(speeds, self._max_speeds))
        agents = state.positions[:, : self.num_agents] + velocities * TIME_STEP
        return State(torch.cat((agents, state.positions[:, self.num_agents :]), dim=1), velocities)

    def prey_distances(self, positions: Tensor) -> Tensor:
        """Return the predators' distances to the prey, (N, predators)."""
        prey = positions[:, self.num_predators, None]
        return length(positions[:, : self.num_predators] - prey)

    def _contact_forces(self, positions: Tensor) -> Tensor:
        offsets = positions[:, : self.num_agents, None] - positions[:, None]
        # The others' distances may be 0, which would make their gradient not a number.
        distances = length(offsets).masked_fill(~self._pushes, 1.0)
        overlap = (self._contact - distances) / CONTACT_MARGIN
        penetration = torch.nn.functional.softplus(overlap, threshold=50.0) * CONTACT_MARGIN
        strength = torch.where(self._pushes, CONTACT_FORCE * penetration / distances, 0.0)
        return (strength[..., None] * offsets).sum(dim=2)

    def _in_forests(self, positions: Tensor) -> Tensor:
        first = positions.shape[1] - self.task.num_forests
        distances = length(positions[:, : self.num_agents, None] - positions[:, None, first:])
        inside = distances < self._contact[:, first:]
        return inside.to(self.dtype) * 2 - 1


def length(vectors: Tensor) -> Tensor:
    """Return the Euclidean length of the last axis; its gradient at zero is zero."""
    return torch.linalg.vector_norm(vectors, dim=-1)
