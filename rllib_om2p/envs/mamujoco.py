"""Multi-agent MuJoCo as the papers use it; knows gymnasium-robotics, not RLlib and not the data.

A robot's joints are split over a team, every agent receives the robot's reward, and the global
state is the observation of the single-agent task. All observations are float32. Agents observe

- "local": their own joints (and, with `agent_obsk=1`, the positions of the neighbouring ones and
  the whole body's movement), as gymnasium-robotics defines it;
- "full": (global state, one-hot agent), less its mean and divided by its standard deviation, both
  over the features of that one vector: what the agents of OMIGA's and VGM2P's datasets observe.
  gymnasium-robotics has no such option; there `agent_obsk=None` makes a single agent.

The time limit of 1000 steps is a truncation; a Hopper that falls and an Ant that turns over
terminate the episode.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from ctypes.util import find_library
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

if sys.platform == "linux" and not {"MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
    # mujoco reads it once, when it is imported, and ends there if the library is not found. Its own
    # choice, GLFW, needs a display.
    libraries = {"egl": "EGL", "osmesa": "OSMesa"}
    found = (backend for backend, library in libraries.items() if find_library(library))
    os.environ["MUJOCO_GL"] = next(found, "disabled")

try:
    import mujoco

    # It prints a notice about robots that are not used here.
    with contextlib.redirect_stderr(io.StringIO()):
        from gymnasium_robotics import mamujoco_v1
except ImportError as error:
    raise ImportError(
        "The mamujoco environments need gymnasium-robotics and mujoco; install them with "
        "pip install 'rllib-om2p[mamujoco]'."
    ) from error

Observations = Literal["local", "full"]

# Ant-v2's state began its contact forces with those of the world body, always six zeros, which
# Ant-v5 leaves out; with them a full observation has the 113 features of OMIGA's Ant datasets.
_WORLD_FORCES = 6


class Robot(NamedTuple):
    """One task: a robot, its partition and what gymnasium-robotics shows to its agents."""

    scenario: str
    partition: str
    neighbours: int  # Distance in joints up to which "local" looks.
    sees_body: bool  # Whether "local" includes the whole body's position and velocity.
    observations: Observations  # What the papers' agents observe.
    num_proprioceptive: int  # Positions and velocities; the state goes on with contact forces.


ROBOTS: Mapping[str, Robot] = {
    "2x3-HalfCheetah": Robot("HalfCheetah", "2x3", 0, False, "local", 17),
    "6x1-HalfCheetah": Robot("HalfCheetah", "6x1", 1, True, "full", 17),
    "3x1-Hopper": Robot("Hopper", "3x1", 1, True, "full", 11),
    "2x4-Ant": Robot("Ant", "2x4", 1, True, "full", 27),
}
"""Tasks by name."""


class MAMuJoCo(ParallelEnv):
    """A team of one robot's joints; `unwrapped` is gymnasium-robotics' environment.

    Args:
        task: A key of `ROBOTS`.
        observations: "local" or "full"; those of the papers if None.
        render_mode: "rgb_array" or "human"; None does not draw.
        kwargs: Passed to the single-agent task, such as `max_episode_steps`, `width` or
            `camera_name`.
    """

    def __init__(
        self,
        task: str,
        *,
        observations: Observations | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        robot = ROBOTS[task]
        self.observations = observations or robot.observations
        if self.observations not in ("local", "full"):
            raise ValueError(f'observations must be "local" or "full", got {observations!r}.')
        # RLlib writes into the metadata of its environments.
        self.metadata: dict[str, Any] = {"name": task, "render_modes": ["rgb_array", "human"]}
        self.render_mode = render_mode
        self.env = _create(robot, render_mode, kwargs)
        self.metadata["render_fps"] = self.unwrapped.single_agent_env.metadata["render_fps"]
        self.possible_agents = list(self.env.possible_agents)
        self.agents = list(self.possible_agents)
        self.action_spaces = dict(self.env.action_spaces)
        self.observation_spaces = {
            agent: spaces.Box(-np.inf, np.inf, (size,), np.float32)
            for agent, size in self._obs_sizes().items()
        }

    @property
    def unwrapped(self) -> Any:
        """gymnasium-robotics' environment; its `single_agent_env.unwrapped` has `model`, `data`."""
        return self.env

    def observation_space(self, agent: str) -> spaces.Box:
        """Return the box of an agent's observations."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Box:
        """Return the box of an agent's actions."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Start an episode and return observations and infos by agent."""
        obs, infos = self.env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._observe(obs), {agent: dict(infos[agent]) for agent in self.agents}

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Advance one step; `actions` must hold exactly the live agents' finite vectors.

        Actions are clipped to their box, so that the control cost is that of what acts.
        """
        if set(actions) != set(self.agents):
            raise ValueError(
                f"Expected one action for each of {self.agents}, got {sorted(actions)}"
                + ("." if self.agents else "; the episode is over, call reset().")
            )
        applied = {agent: self._applied(agent, actions[agent]) for agent in self.agents}
        obs, rewards, terminateds, truncateds, infos = self.env.step(applied)
        agents, self.agents = self.agents, list(self.env.agents)
        return (
            self._observe(obs),
            {agent: float(rewards[agent]) for agent in agents},
            {agent: bool(terminateds[agent]) for agent in agents},
            {agent: bool(truncateds[agent]) for agent in agents},
            {agent: dict(infos[agent]) for agent in agents},
        )

    def state(self) -> NDArray[np.float32]:
        """Return the global state: the observation of the single-agent task."""
        return np.asarray(self.env.state(), np.float32)

    def render(self) -> NDArray[np.uint8] | None:
        """Return a frame, or None when drawing on a screen.

        Raises:
            RuntimeError: No picture can be made here; the text says what to do.
        """
        try:
            return self.env.render()
        except Exception as error:  # OpenGL's bindings raise anything, AttributeError included.
            raise RuntimeError(
                f"mujoco cannot draw here with MUJOCO_GL={os.environ.get('MUJOCO_GL')!r} "
                f"({type(error).__name__}: {error}). Without a display install libegl1 and leave "
                "MUJOCO_GL unset, or install libosmesa6 and set MUJOCO_GL=osmesa, before Python "
                "starts."
            ) from error

    def close(self) -> None:
        """Free the simulator and its renderer."""
        self.env.close()

    def _applied(self, agent: str, action: Any) -> NDArray[np.float32]:
        box = self.action_spaces[agent]
        vector = np.asarray(action, np.float32)
        if vector.shape != box.shape or not np.isfinite(vector).all():
            raise ValueError(
                f"The action of {agent} must be {box.shape[0]} finite numbers, got {action!r}."
            )
        return np.clip(vector, box.low, box.high)

    def _obs_sizes(self) -> dict[str, int]:
        if self.observations == "local":
            boxes = self.env.observation_spaces
            return {agent: int(np.prod(boxes[agent].shape)) for agent in self.possible_agents}
        size = full_observations(self.env.state(), len(self.possible_agents)).shape[-1]
        return {agent: size for agent in self.possible_agents}

    def _observe(self, obs: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        if self.observations == "local":
            return {agent: np.asarray(obs[agent], np.float32) for agent in self.possible_agents}
        full = full_observations(self.state(), len(self.possible_agents))
        return dict(zip(self.possible_agents, full, strict=True))


def full_observations(states: NDArray[Any], num_agents: int) -> NDArray[np.float32]:
    """Return every agent's full observation, (..., agents, features), of states (..., S).

    They follow from the float32 state that a dataset holds, to the last bit.
    """
    states = np.asarray(states, np.float64)
    num_ant_features = ROBOTS["2x4-Ant"].num_proprioceptive
    if states.shape[-1] > num_ant_features:
        zeros = np.zeros((*states.shape[:-1], _WORLD_FORCES))
        parts = (states[..., :num_ant_features], zeros, states[..., num_ant_features:])
        states = np.concatenate(parts, axis=-1)
    shape = (*states.shape[:-1], num_agents)
    identity = np.broadcast_to(np.eye(num_agents), (*shape, num_agents))
    repeated = np.broadcast_to(states[..., None, :], (*shape, states.shape[-1]))
    features = np.concatenate((repeated, identity), axis=-1)
    centred = features - features.mean(axis=-1, keepdims=True)
    return (centred / features.std(axis=-1, keepdims=True)).astype(np.float32)


def _create(robot: Robot, render_mode: str | None, kwargs: Mapping[str, Any]) -> Any:
    # gymnasium's robot files hold an attribute that mujoco 4 deprecates; its warning would go to
    # the terminal and into a file MUJOCO_LOG.TXT of the working directory.
    mujoco.set_mju_user_warning(lambda text: None)
    try:
        return mamujoco_v1.parallel_env(
            robot.scenario,
            robot.partition,
            agent_obsk=robot.neighbours,
            global_categories=None if robot.sees_body else (),
            render_mode=render_mode,
            **kwargs,
        )
    finally:
        mujoco.set_mju_user_warning(None)
