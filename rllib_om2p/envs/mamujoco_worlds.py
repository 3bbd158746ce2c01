"""Many worlds of one multi-agent MuJoCo task, stepped one after the other for a batched policy.

The same physics, rewards and observations as `mamujoco.MAMuJoCo`; observations are made only when
they are asked for. Axes: (worlds N, agents, features).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from rllib_om2p.envs.mamujoco import MAMuJoCo, full_observations

Array = NDArray[Any]


class WorldsStep(NamedTuple):
    """What one step of all worlds returns."""

    states: Array  # (N, S) float32
    rewards: Array  # (N,) float64, the same for every agent
    terminateds: Array  # (N,) bool
    truncateds: Array  # (N,) bool


class MAMuJoCoWorlds:
    """N worlds of one task; a world whose episode is over waits for its `reset`.

    Args:
        task: A key of `mamujoco.ROBOTS`.
        num_worlds: N.
        kwargs: Passed to `MAMuJoCo`.
    """

    def __init__(self, task: str, num_worlds: int, **kwargs: Any) -> None:
        if num_worlds < 1:
            raise ValueError(f"num_worlds must be at least 1, got {num_worlds}.")
        self.envs = [MAMuJoCo(task, **kwargs) for _ in range(num_worlds)]
        self._team = self.envs[0].unwrapped
        self._robots = [env.unwrapped.single_agent_env for env in self.envs]
        self.agents = tuple(self.envs[0].possible_agents)
        # The robot's actuator of every joint action, agent after agent.
        self.actuators = np.array(
            [node.act_ids for part in self._team.agent_action_partitions for node in part]
        )
        box = self._robots[0].action_space
        self._low, self._high = box.low, box.high
        self.states = np.zeros((num_worlds, *self.envs[0].state().shape), np.float32)
        self.live = np.zeros(num_worlds, bool)

    @property
    def local_features(self) -> dict[str, Array]:
        """Which features of the state an agent's local observation holds, in its order."""
        return {a: np.array(i) for a, i in self._team.observation_factorization.items()}

    def reset(self, seeds: Sequence[int] | Array) -> Array:
        """Start an episode in every world, from the start states of the seeds; return states."""
        if len(seeds) != len(self.envs):
            raise ValueError(f"Expected {len(self.envs)} seeds, one per world, got {len(seeds)}.")
        for world, seed in enumerate(seeds):
            self.reset_world(world, int(seed))
        return self.states.copy()

    def reset_world(self, world: int, seed: int) -> Array:
        """Start an episode in one world and return its state, (S,)."""
        self.states[world], _ = self._robots[world].reset(seed=seed)
        self.live[world] = True
        return self.states[world].copy()

    def step(self, actions: Array) -> WorldsStep:
        """Advance every live world; the others keep their state and earn 0.

        Args:
            actions: Joint actions, (N, all agents' features in order), clipped to their boxes.
        """
        expected = (len(self.envs), len(self.actuators))
        if np.shape(actions) != expected:
            raise ValueError(f"actions must be {expected}, got {np.shape(actions)}.")
        ordered = np.empty(expected, np.float32)
        ordered[:, self.actuators] = actions
        np.clip(ordered, self._low, self._high, out=ordered)
        rewards = np.zeros(len(self.envs))
        terminateds, truncateds = np.zeros((2, len(self.envs)), bool)
        for world in np.flatnonzero(self.live):
            state, rewards[world], terminateds[world], truncateds[world], _ = self._robots[
                world
            ].step(ordered[world].astype(np.float64))
            self.states[world] = state
        self.live &= ~(terminateds | truncateds)
        return WorldsStep(self.states.copy(), rewards, terminateds, truncateds)

    def observations(self) -> dict[str, Array]:
        """Return the present observations, (N, features) by agent."""
        if self.envs[0].observations == "full":
            return self.observations_of(self.states)
        by_world = [env.unwrapped._get_obs() for env in self.envs]
        return {a: np.array([obs[a] for obs in by_world], np.float32) for a in self.agents}

    def observations_of(self, states: Array) -> dict[str, Array]:
        """Return what agents observe in states (..., S), (..., features) by agent.

        Exact but for a Hopper's local observations: its state stops velocities at 10.
        """
        if self.envs[0].observations == "full":
            full = full_observations(states, len(self.agents))
            return {agent: full[..., i, :] for i, agent in enumerate(self.agents)}
        return {agent: states[..., own] for agent, own in self.local_features.items()}

    def snapshot(self) -> dict[str, Any]:
        """Return all that the next steps depend on, as plain data."""
        return {
            "states": self.states.copy(),
            "live": self.live.copy(),
            "elapsed": [robot._elapsed_steps for robot in self._robots],
            "physics": [pickle.dumps(robot.unwrapped.data) for robot in self._robots],
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot, exactly."""
        self.states[:], self.live[:] = snapshot["states"], snapshot["live"]
        for robot, elapsed, physics in zip(
            self._robots, snapshot["elapsed"], snapshot["physics"], strict=True
        ):
            robot.reset()  # gymnasium refuses to step what was never reset
            robot._elapsed_steps = elapsed
            simulator = robot.unwrapped
            mujoco.mj_copyData(simulator.data, simulator.model, pickle.loads(physics))

    def close(self) -> None:
        """Free the simulators."""
        for env in self.envs:
            env.close()
