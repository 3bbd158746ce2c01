"""Many particle worlds at once in NumPy; must not know mpe2, RLlib or the data.

The same dynamics, rewards, observations and start states as `mpe.py`, a hundred times faster. A
task is one `VectorTask`: its bodies, observations and rewards; `VectorMPE` holds the physics.

Axes: inside, worlds are the LAST axis (bodies, 2, N), so that every operation runs over contiguous
worlds; at the surface they are the first one, (N, agents, features). Agents come before landmarks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rllib_om2p.envs.paper_constants import COLLISION_PENALTY, FORCE_GAIN, NEAREST_REWARD_CAP

Array = NDArray[Any]

TIME_STEP = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3


class Bodies(NamedTuple):
    """Physical constants of a task's agents (A) and then its landmarks."""

    num_agents: int
    sizes: Array  # (bodies,) radius
    collides: Array  # (bodies,) bool
    force_gains: Array  # (A,) force of an action of length 1
    max_speeds: Array  # (A,) inf where there is no limit


class VectorTask(ABC):
    """One task: what moves, what is seen and what is rewarded."""

    bodies: Bodies
    agents: tuple[str, ...]
    obs_dim: int

    @abstractmethod
    def draw_start(self, generator: np.random.Generator, num_worlds: int) -> Array:
        """Return start positions, (num_worlds, bodies, 2), drawn in the order of mpe2's reset."""

    @abstractmethod
    def observe(self, positions: Array, velocities: Array) -> Array:
        """Return observations, (A, obs_dim, N), of positions (bodies, 2, N)."""

    @abstractmethod
    def rewards(self, positions: Array) -> Array:
        """Return rewards, (A, N), of the positions after the step, (bodies, 2, N)."""


class SimpleSpread(VectorTask):
    """Cooperative Navigation, as `mpe.SimpleSpread`."""

    def __init__(self) -> None:
        num_agents = num_landmarks = 3
        self.agents = tuple(f"agent_{i}" for i in range(num_agents))
        self.bodies = Bodies(
            num_agents=num_agents,
            sizes=np.array([0.15] * num_agents + [0.05] * num_landmarks),
            collides=np.array([True] * num_agents + [False] * num_landmarks),
            force_gains=np.full(num_agents, FORCE_GAIN),
            max_speeds=np.full(num_agents, np.inf),
        )
        # Per agent: velocity, position, landmarks, the other agents, their silent channels.
        self.obs_dim = 2 * (2 + num_landmarks + 2 * (num_agents - 1))
        self._others = np.array(
            [[j for j in range(num_agents) if j != i] for i in range(num_agents)]
        )

    def draw_start(self, generator: np.random.Generator, num_worlds: int) -> Array:
        """Return positions uniform in [-1, 1]^2, agents first, as mpe2 draws them."""
        return generator.uniform(-1.0, 1.0, (num_worlds, len(self.bodies.sizes), 2))

    def observe(self, positions: Array, velocities: Array) -> Array:
        """Return own velocity and position, then offsets to landmarks and to other agents."""
        num_agents = self.bodies.num_agents
        agents, landmarks = positions[:num_agents], positions[num_agents:]
        first_other = 2 + len(landmarks)
        first_silent = first_other + num_agents - 1
        obs = np.zeros((num_agents, self.obs_dim // 2, 2, positions.shape[-1]))
        obs[:, 0] = velocities
        obs[:, 1] = agents
        np.subtract(landmarks[None], agents[:, None], out=obs[:, 2:first_other])
        np.subtract(agents[self._others], agents[:, None], out=obs[:, first_other:first_silent])
        return obs.reshape(num_agents, self.obs_dim, -1)

    def rewards(self, positions: Array) -> Array:
        """Return min(1 / nearest distance, cap) over landmarks, less the own collisions."""
        num_agents = self.bodies.num_agents
        agents, landmarks = positions[:num_agents], positions[num_agents:]
        nearest = _length(agents[:, None] - landmarks[None]).min(axis=0)
        covered = (1 / np.maximum(nearest, 1 / NEAREST_REWARD_CAP)).sum(axis=0)
        between = _length(agents[self._others] - agents[:, None])
        collisions = (between < 2 * self.bodies.sizes[0]).sum(axis=1)
        return covered[None] - COLLISION_PENALTY * collisions


VECTOR_TASKS: Mapping[str, type[VectorTask]] = {"mpe/simple_spread": SimpleSpread}
"""Tasks by their registered name."""


class VectorStep(NamedTuple):
    """What one step of all worlds returns."""

    obs: Array  # (N, agents, obs_dim)
    rewards: Array  # (N, agents), float64


class VectorMPE:
    """N worlds of one task, stepped together; the caller stops at the time limit.

    Args:
        task: A key of `VECTOR_TASKS`.
        num_envs: Number of worlds N.
        seed: Seed of the start states that `reset()` draws when it is given no seeds.
        dtype: Of the observations. float32 as in PettingZoo; float64 for exact comparisons.
    """

    def __init__(
        self, task: str, num_envs: int, *, seed: int = 0, dtype: DTypeLike = np.float32
    ) -> None:
        if task not in VECTOR_TASKS:
            raise ValueError(f"No vectorised simulator for {task!r}; there is {[*VECTOR_TASKS]}.")
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        self.task = VECTOR_TASKS[task]()
        self.num_envs = num_envs
        self.agents = self.task.agents
        self._dtype = np.dtype(dtype)
        self._generator = np.random.default_rng(seed)
        bodies = self.task.bodies
        first, second = np.triu_indices(len(bodies.sizes), k=1)
        # Landmarks do not move, so that only pairs with an agent matter.
        touching = bodies.collides[first] & bodies.collides[second] & (first < bodies.num_agents)
        self._first, self._second = first[touching], second[touching]
        self._contact_distance = (bodies.sizes[self._first] + bodies.sizes[self._second])[:, None]
        self._has_speed_limit = bool(np.isfinite(bodies.max_speeds).any())
        self._positions = np.zeros((len(bodies.sizes), 2, num_envs))
        self._velocities = np.zeros((bodies.num_agents, 2, num_envs))

    @property
    def agent_positions(self) -> Array:
        """Positions of the agents, (N, A, 2)."""
        return self._positions[: self.task.bodies.num_agents].transpose(2, 0, 1).copy()

    @property
    def agent_velocities(self) -> Array:
        """Velocities of the agents, (N, A, 2)."""
        return self._velocities.transpose(2, 0, 1).copy()

    @property
    def landmark_positions(self) -> Array:
        """Positions of the landmarks, (N, landmarks, 2)."""
        return self._positions[self.task.bodies.num_agents :].transpose(2, 0, 1).copy()

    def set_state(self, agent_pos: Array, agent_vel: Array, landmark_pos: Array) -> Array:
        """Put all worlds in a state, each (N, bodies of that kind, 2), and return observations."""
        positions = np.concatenate([agent_pos, landmark_pos], axis=1).transpose(1, 2, 0)
        velocities = np.asarray(agent_vel).transpose(1, 2, 0)
        if positions.shape != self._positions.shape or velocities.shape != self._velocities.shape:
            raise ValueError(
                f"Positions and velocities (bodies, 2, worlds) must be {self._positions.shape} and "
                f"{self._velocities.shape}, got {positions.shape} and {velocities.shape}."
            )
        self._positions = np.ascontiguousarray(positions, dtype=np.float64)
        self._velocities = np.ascontiguousarray(velocities, dtype=np.float64)
        return self.observe()

    def reset(self, seeds: Sequence[int] | Array | None = None) -> Array:
        """Start an episode in every world and return observations, (N, agents, obs_dim).

        Args:
            seeds: One per world: the start states of the PettingZoo environment reset with those
                seeds. None draws from this simulator's own generator.
        """
        if seeds is None:
            start = self.task.draw_start(self._generator, self.num_envs)
        else:
            if len(seeds) != self.num_envs:
                raise ValueError(
                    f"Expected {self.num_envs} seeds, one per world, got {len(seeds)}."
                )
            # gymnasium's seeding.np_random is default_rng of the seed.
            draws = [self.task.draw_start(np.random.default_rng(int(s)), 1) for s in seeds]
            start = np.concatenate(draws)
        self._positions = np.ascontiguousarray(start.transpose(1, 2, 0))
        self._velocities = np.zeros_like(self._velocities)
        return self.observe()

    def observe(self) -> Array:
        """Return the observations of the present state, (N, agents, obs_dim)."""
        obs = self.task.observe(self._positions, self._velocities)
        return np.ascontiguousarray(obs.transpose(2, 0, 1), dtype=self._dtype)

    def step(self, actions: Array) -> VectorStep:
        """Advance every world by one step.

        Args:
            actions: 2-D forces, (N, agents, 2), clipped to [-1, 1].
        """
        expected = (self.num_envs, len(self.agents), 2)
        if np.shape(actions) != expected:
            raise ValueError(f"actions must be {expected}, got {np.shape(actions)}.")
        forces = np.clip(np.asarray(actions, np.float64).transpose(1, 2, 0), -1.0, 1.0)
        forces = forces * self.task.bodies.force_gains[:, None, None]
        self._add_contact_forces(forces)
        self._integrate(forces)
        rewards = self.task.rewards(self._positions)
        return VectorStep(self.observe(), np.ascontiguousarray(rewards.T))

    def _add_contact_forces(self, forces: Array) -> None:
        offsets = self._positions[self._first] - self._positions[self._second]
        distances = _length(offsets)
        overlap = (self._contact_distance - distances) / CONTACT_MARGIN
        penetration = np.logaddexp(0.0, overlap) * CONTACT_MARGIN
        push = offsets * (CONTACT_FORCE * penetration / distances)[:, None]
        for pair, (first, second) in enumerate(zip(self._first, self._second, strict=True)):
            forces[first] += push[pair]
            if second < len(forces):
                forces[second] -= push[pair]

    def _integrate(self, forces: Array) -> None:
        velocities = self._velocities * (1 - DAMPING) + forces * TIME_STEP
        if self._has_speed_limit:
            speeds = _length(velocities)
            limits = self.task.bodies.max_speeds[:, None]
            velocities *= np.where(speeds > limits, limits / np.maximum(speeds, limits), 1.0)[
                :, None
            ]
        self._velocities = velocities
        self._positions[: len(velocities)] += velocities * TIME_STEP


def _length(vectors: Array) -> Array:
    """Return the Euclidean length over the axis before the last, (..., 2, N) -> (..., N)."""
    return np.sqrt(np.square(vectors[..., 0, :]) + np.square(vectors[..., 1, :]))
