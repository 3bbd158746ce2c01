"""Many particle worlds at once in NumPy; must not know mpe2, RLlib or the data.

The same dynamics, rewards, observations and start states as `mpe.py`, a hundred times faster. A
task is one `VectorTask`: its bodies, observations and rewards; `VectorMPE` holds the physics and
lets the prey act, if there is one.

Axes: inside, worlds are the LAST axis (bodies, 2, N), see `vector_tasks`; at the surface they are
the first one, (N, agents, features). The prey is the last moving body, and an agent only with
`prey="agent"`; what it observes has another size and is asked for by `observe_prey`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rllib_om2p.envs.paper_constants import UNIT_FORCES
from rllib_om2p.envs.prey import PREY, PREY_AS_AGENT, PreySource, load_prey
from rllib_om2p.envs.vector_tasks import VECTOR_TASKS, SimpleTag, length

Array = NDArray[Any]

TIME_STEP = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3


class VectorStep(NamedTuple):
    """What one step of all worlds returns."""

    obs: Array  # (N, agents, obs_dim), without a prey
    rewards: Array  # (N, agents), float64, with a prey that is an agent


class VectorMPE:
    """N worlds of one task, stepped together; the caller stops at the time limit.

    Args:
        task: A key of `VECTOR_TASKS`.
        num_envs: Number of worlds N.
        seed: Seed of the start states that `reset()` draws when it is given no seeds.
        prey: Who moves the prey; the project's own policy if None, nobody if "agent". See
            `prey.load_prey`.
        continuous_actions: Whether an action is a force or one of `UNIT_FORCES`.
        dynamics: The papers' only; `envs.make` knows mpe2's as well.
        dtype: Of the observations. float32 as in PettingZoo; float64 for exact comparisons.

    Attributes:
        agents: Names of the learned agents.
        prey: The policy of the prey, None in a task without one and where the prey is an agent.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        *,
        seed: int = 0,
        prey: PreySource = None,
        continuous_actions: bool = True,
        dynamics: str = "papers",
        dtype: DTypeLike = np.float32,
    ) -> None:
        if task not in VECTOR_TASKS:
            raise ValueError(f"No vectorised simulator for {task!r}; there is {[*VECTOR_TASKS]}.")
        if dynamics != "papers":
            raise ValueError(
                f"The vectorised simulator has the papers' dynamics only, got dynamics="
                f"{dynamics!r}; use envs.make({task!r}, dynamics={dynamics!r})."
            )
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        self.task = VECTOR_TASKS[task]()
        self.num_envs = num_envs
        self.prey = load_prey(task, prey)
        self.prey_is_agent = prey == PREY_AS_AGENT
        self.agents = (*self.task.agents, PREY) if self.prey_is_agent else self.task.agents
        self._is_continuous = continuous_actions
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

    def observe_prey(self) -> Array:
        """Return the prey's observations of the present state, (N, prey_obs_dim), in float64."""
        return self._task_with_prey().observe_prey(self._positions, self._velocities).T

    def prey_rewards(self) -> Array:
        """Return the prey's rewards of the present state, (N,)."""
        return self._task_with_prey().prey_reward(self._positions)

    def step(self, actions: Array) -> VectorStep:
        """Advance every world by one step.

        Args:
            actions: 2-D forces, (N, agents, 2), clipped to [-1, 1], or with discrete actions their
                numbers, (N, agents).
        """
        actions = np.asarray(actions)
        expected = (self.num_envs, len(self.agents), 2)[: 3 if self._is_continuous else 2]
        if actions.shape != expected:
            raise ValueError(f"actions must be {expected}, got {actions.shape}.")
        if not self._is_continuous:
            actions = _forces(actions)
        forces = np.empty_like(self._velocities)
        forces[: len(self.agents)] = np.transpose(actions, (1, 2, 0))
        if self.prey is not None:
            forces[-1] = self.prey(self.observe_prey()).T
        np.clip(forces, -1.0, 1.0, out=forces)
        forces *= self.task.bodies.force_gains[:, None, None]
        self._add_contact_forces(forces)
        self._integrate(forces)
        rewards = self.task.rewards(self._positions)
        if self.prey_is_agent:
            rewards = np.vstack((rewards, self.prey_rewards()))
        return VectorStep(self.observe(), np.ascontiguousarray(rewards.T))

    def _add_contact_forces(self, forces: Array) -> None:
        offsets = self._positions[self._first] - self._positions[self._second]
        distances = length(offsets)
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
            speeds = length(velocities)
            limits = self.task.bodies.max_speeds[:, None]
            velocities *= np.where(speeds > limits, limits / np.maximum(speeds, limits), 1.0)[
                :, None
            ]
        self._velocities = velocities
        self._positions[: len(velocities)] += velocities * TIME_STEP

    def _task_with_prey(self) -> SimpleTag:
        if not isinstance(self.task, SimpleTag):
            raise ValueError(f"There is no prey in {type(self.task).__name__}.")
        return self.task


def _forces(actions: Array) -> Array:
    """Return the forces (N, agents, 2) behind discrete actions (N, agents)."""
    last = len(UNIT_FORCES) - 1
    if not np.issubdtype(actions.dtype, np.integer) or actions.min() < 0 or actions.max() > last:
        raise ValueError(
            f"discrete actions must be integers from 0 to {last}, got {actions.dtype} from "
            f"{actions.min()} to {actions.max()}."
        )
    return np.array(UNIT_FORCES)[actions]
