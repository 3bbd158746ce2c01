"""A PettingZoo ParallelEnv as an RLlib MultiAgentEnv (new API stack); knows no single task.

RLlib's own wrapper takes `possible_agents` out of a set (another order in each process), leaves the
per-agent spaces unset and passes `render` an argument that PettingZoo refuses
(ray/rllib/env/wrappers/pettingzoo_env.py, 2.60).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv


class RLlibParallelEnv(MultiAgentEnv):
    """The environment under `env`, with ordered agents, per-agent spaces and float32 observations.

    Attributes:
        env: The wrapped PettingZoo environment.
    """

    def __init__(self, env: ParallelEnv, *, first_seed: int | None = None) -> None:
        """Wrap an environment.

        Args:
            env: The environment.
            first_seed: The k-th reset without a seed of its own uses first_seed + k, so that
                whoever plays meets the same start states; None leaves them to chance.
        """
        self.env = env
        self._next_seed = first_seed
        self.possible_agents = list(env.possible_agents)
        self.agents = list(env.possible_agents)
        self.observation_spaces = {
            agent: _as_float32(env.observation_space(agent)) for agent in self.possible_agents
        }
        self.action_spaces = {agent: env.action_space(agent) for agent in self.possible_agents}
        # RLlib writes its autoreset mode in here (env/vector/sync_vector_multi_agent_env.py:33).
        self.metadata = dict(env.metadata)
        self.render_mode = getattr(env, "render_mode", None)
        super().__init__()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode and return observations and infos by agent."""
        if seed is None and self._next_seed is not None:
            seed, self._next_seed = self._next_seed, self._next_seed + 1
        super().reset(seed=seed, options=options)
        obs, infos = self.env.reset(seed=seed, options=options)
        self.agents = list(self.env.agents)
        return self._observations(obs), infos

    def step(self, action_dict: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Advance one step; "__all__" says whether the episode is over for every agent.

        It is then truncated if any agent that acted last was.
        """
        obs, rewards, terminateds, truncateds, infos = self.env.step(dict(action_dict))
        self.agents = list(self.env.agents)
        ended = {agent for agent in terminateds if terminateds[agent] or truncateds[agent]}
        is_over = ended.issuperset(self.agents)
        has_terminated = is_over and all(terminateds.values())
        terminateds = {**terminateds, "__all__": has_terminated}
        truncateds = {**truncateds, "__all__": is_over and not has_terminated}
        return self._observations(obs), dict(rewards), terminateds, truncateds, infos

    def render(self) -> Any:
        """Return the wrapped environment's frame."""
        return self.env.render()

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()

    def _observations(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        return {agent: _cast(self.observation_spaces[agent], obs[agent]) for agent in obs}


def _cast(space: spaces.Space[Any], value: Any) -> Any:
    if isinstance(space, spaces.Dict):  # an action mask beside the observations
        return {key: _cast(part, value[key]) for key, part in space.items()}
    return np.asarray(value, space.dtype)


def _as_float32(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _as_float32(part) for key, part in space.items()})
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32))
    return space
