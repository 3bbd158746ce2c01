"""The papers' particle tasks for many worlds at once; the physics is in `vector_mpe`.

A task says what moves, what is seen and what is rewarded, as `mpe_scenarios` does for one world.

Axes: worlds are the LAST axis, (bodies, 2, N), so that every operation runs over contiguous worlds.
Agents come before landmarks, learned agents before the prey.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.envs.paper_constants import (
    ARENA,
    COLLISION_PENALTY,
    DISTANCE_WEIGHT,
    FOOD_DISTANCE_WEIGHT,
    FOOD_REWARD,
    FORCE_GAIN,
    NEAREST_REWARD_CAP,
    TAG_HIT,
    WORLD_BOUNDARY_WEIGHT,
    WORLD_HIT,
)

Array = NDArray[Any]


class Bodies(NamedTuple):
    """Physical constants of a task's agents (A, the prey included) and then its landmarks."""

    num_agents: int
    sizes: Array  # (bodies,) radius
    collides: Array  # (bodies,) bool
    force_gains: Array  # (A,) force of an action of length 1
    max_speeds: Array  # (A,) inf where there is no limit


class VectorTask(ABC):
    """One task: what moves, what is seen and what is rewarded.

    Attributes:
        bodies: What moves and what stands.
        agents: Names of the learned agents (L), the first of the moving bodies.
        obs_dim: Length of each learned agent's observation.
    """

    bodies: Bodies
    agents: tuple[str, ...]
    obs_dim: int

    @abstractmethod
    def draw_start(self, generator: np.random.Generator, num_worlds: int) -> Array:
        """Return start positions, (num_worlds, bodies, 2), drawn in the order of mpe2's reset."""

    @abstractmethod
    def observe(self, positions: Array, velocities: Array) -> Array:
        """Return observations, (L, obs_dim, N), of positions (bodies, 2, N)."""

    @abstractmethod
    def rewards(self, positions: Array) -> Array:
        """Return rewards, (L, N), of the positions after the step, (bodies, 2, N)."""


class SimpleSpread(VectorTask):
    """Cooperative Navigation, as `mpe_scenarios.SimpleSpread`."""

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
        self._others = _others(num_agents)

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
        nearest = length(agents[:, None] - landmarks[None]).min(axis=0)
        covered = (1 / np.maximum(nearest, 1 / NEAREST_REWARD_CAP)).sum(axis=0)
        between = length(agents[self._others] - agents[:, None])
        collisions = (between < 2 * self.bodies.sizes[0]).sum(axis=1)
        return covered[None] - COLLISION_PENALTY * collisions


class SimpleTag(VectorTask):
    """Predator-Prey, as `mpe_scenarios.SimpleTag`; the prey is the last of the agents.

    Attributes:
        prey_obs_dim: Length of the prey's observation.
    """

    hit = TAG_HIT
    num_forests = 0

    def __init__(self) -> None:
        self._set_bodies(prey_size=0.05, obstacles=2, other_landmarks=())

    def _set_bodies(
        self, *, prey_size: float, obstacles: int, other_landmarks: tuple[float, ...]
    ) -> None:
        """Set the bodies: three predators, the prey, obstacles and what does not collide."""
        num_predators = 3
        num_agents, num_landmarks = num_predators + 1, obstacles + len(other_landmarks)
        self.agents = tuple(f"agent_{i}" for i in range(num_predators))
        self.bodies = Bodies(
            num_agents=num_agents,
            sizes=np.array(
                [0.075] * num_predators + [prey_size] + [0.2] * obstacles + [*other_landmarks]
            ),
            collides=np.array([True] * (num_agents + obstacles) + [False] * len(other_landmarks)),
            # The papers' simulator multiplies by the acceleration (3 and 4) twice.
            force_gains=np.array([9.0] * num_predators + [16.0]),
            max_speeds=np.array([1.0] * num_predators + [1.3]),
        )
        # Velocity, position, landmarks, the other agents; predators also see the prey's velocity.
        self.prey_obs_dim = 2 * (2 + num_landmarks + num_predators) + self.num_forests
        self.obs_dim = self.prey_obs_dim + 2
        self._others = _others(num_agents)

    def draw_start(self, generator: np.random.Generator, num_worlds: int) -> Array:
        """Return agents uniform in [-1, 1]^2, then landmarks uniform in [-0.9, 0.9]^2."""
        num_agents = self.bodies.num_agents
        agents = generator.uniform(-1.0, 1.0, (num_worlds, num_agents, 2))
        num_landmarks = len(self.bodies.sizes) - num_agents
        landmarks = generator.uniform(-0.9, 0.9, (num_worlds, num_landmarks, 2))
        return np.concatenate([agents, landmarks], axis=1)

    def observe(self, positions: Array, velocities: Array) -> Array:
        """Return the predators' observations: what everyone sees, the prey's velocity, forests."""
        num_worlds, predators = positions.shape[-1], slice(0, len(self.agents))
        prey_velocity = np.broadcast_to(velocities[-1], (len(self.agents), 2, num_worlds))
        parts = [self._sight(positions, velocities, predators), prey_velocity]
        return np.concatenate([*parts, self._in_forests(positions, predators)], axis=1)

    def observe_prey(self, positions: Array, velocities: Array) -> Array:
        """Return the prey's observation, (prey_obs_dim, N)."""
        prey = slice(len(self.agents), self.bodies.num_agents)
        parts = [self._sight(positions, velocities, prey), self._in_forests(positions, prey)]
        return np.concatenate(parts, axis=1)[0]

    def rewards(self, positions: Array) -> Array:
        """Return -0.1 x the summed distances to the prey, plus the touches; all alike."""
        return np.broadcast_to(self._chase(positions), (len(self.agents), positions.shape[-1]))

    def prey_reward(self, positions: Array) -> Array:
        """Return the prey's reward, (N,): the opposite, less the penalty for leaving the arena."""
        return -self._chase(positions) - self._leaving(positions)

    def _sight(self, positions: Array, velocities: Array, who: slice) -> Array:
        """Return velocity, position, offsets to landmarks and to the others, (who, features, N)."""
        num_agents = self.bodies.num_agents
        agents, landmarks = positions[:num_agents], positions[num_agents:]
        own = agents[who, None]
        seen = (velocities[who, None], own, landmarks[None] - own, agents[self._others[who]] - own)
        sight = np.concatenate(seen, axis=1)
        return sight.reshape(len(sight), -1, positions.shape[-1])

    def _in_forests(self, positions: Array, who: slice) -> Array:
        """Return 1 for each forest that an agent is in, else -1, (who, forests, N)."""
        first_forest = len(positions) - self.num_forests
        distances = length(positions[who, None] - positions[None, first_forest:])
        reach = self.bodies.sizes[who, None] + self.bodies.sizes[None, first_forest:]
        return np.where(distances < reach[..., None], 1.0, -1.0)

    def _chase(self, positions: Array) -> Array:
        prey = len(self.agents)
        distances = length(positions[:prey] - positions[prey])
        touching = distances < self.bodies.sizes[0] + self.bodies.sizes[prey]
        return self.hit * touching.sum(axis=0) - DISTANCE_WEIGHT * distances.sum(axis=0)

    def _leaving(self, positions: Array) -> Array:
        beyond = np.abs(positions[len(self.agents)])
        near = np.maximum(beyond - ARENA, 0.0) * 10
        steep = np.minimum(np.exp(2 * beyond - 2), 10.0)
        return np.where(beyond < 1.0, near, steep).sum(axis=0)


class SimpleWorld(SimpleTag):
    """World, as `mpe_scenarios.SimpleWorld`: one obstacle, two foods, two forests."""

    hit = WORLD_HIT
    num_forests = 2
    num_food = 2

    def __init__(self) -> None:
        self._set_bodies(
            prey_size=0.045,
            obstacles=1,
            other_landmarks=(0.03,) * self.num_food + (0.3,) * self.num_forests,
        )

    def draw_start(self, generator: np.random.Generator, num_worlds: int) -> Array:
        """Return starts as in Predator-Prey; mpe2 draws food and forests a second time."""
        start = super().draw_start(generator, num_worlds)
        redrawn = self.num_food + self.num_forests
        start[:, -redrawn:] = generator.uniform(-0.9, 0.9, (num_worlds, redrawn, 2))
        return start

    def prey_reward(self, positions: Array) -> Array:
        """Return the prey's reward, (N,): also for food, and with twice the penalty."""
        prey = len(self.agents)
        food = slice(len(positions) - self.num_forests - self.num_food, -self.num_forests)
        distances = length(positions[food] - positions[prey])
        reach = self.bodies.sizes[food] + self.bodies.sizes[prey]
        eaten = (distances < reach[:, None]).sum(axis=0)
        fed = FOOD_REWARD * eaten + FOOD_DISTANCE_WEIGHT * distances.min(axis=0)
        return fed - self._chase(positions) - WORLD_BOUNDARY_WEIGHT * self._leaving(positions)


VECTOR_TASKS: Mapping[str, type[VectorTask]] = {
    "mpe/simple_spread": SimpleSpread,
    "mpe/simple_tag": SimpleTag,
    "mpe/simple_world": SimpleWorld,
}
"""Tasks by their registered name."""


def length(vectors: Array) -> Array:
    """Return the Euclidean length over the axis before the last, (..., 2, N) -> (..., N)."""
    return np.sqrt(np.square(vectors[..., 0, :]) + np.square(vectors[..., 1, :]))


def _others(num_agents: int) -> Array:
    return np.array([[j for j in range(num_agents) if j != i] for i in range(num_agents)])
