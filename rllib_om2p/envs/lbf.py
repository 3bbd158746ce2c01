"""Level-based foraging as a PettingZoo environment; knows lbforaging, not RLlib and not the data.

Agents of different levels walk over a grid and eat food that they stand beside: it is eaten when
the levels of those who load at the same step add up to its own. An agent's reward is its share of
all food, so that the team's return lies in [0, 1]. An agent that wants what is illegal does
nothing.

Observations are {"observations": (O,) float32, "action_mask": (6,) int8}: row, column and level
of every food, of the agent itself and of the others (-1, -1, 0 where there is none in sight, and
counted from the corner of what is in sight). An episode terminates when all food is eaten and is
truncated after 50 steps; lbforaging itself calls both the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pygame
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from rllib_om2p.envs.entries import LBF_NUM_ACTIONS, LBF_TIME_LIMIT, lbf_settings

try:
    from lbforaging.foraging.environment import ForagingEnv
except ImportError as error:
    raise ImportError(
        "Level-based foraging needs lbforaging; install it with pip install 'rllib-om2p[lbf]'."
    ) from error

_CELL = 48  # pixels
_GROUND, _GRID, _TEXT = (244, 241, 232), (214, 208, 192), (255, 255, 255)
_FOOD, _AGENT = (178, 58, 48), (44, 93, 134)


class LevelBasedForaging(ParallelEnv):
    """One task; `unwrapped` is this class and `simulator` lbforaging's environment.

    Args:
        task: The name in lbforaging, without the version, such as "Foraging-8x8-3p-2f" or
            "Foraging-2s-10x10-3p-3f-coop".
        render_mode: "rgb_array"; None does not draw.
        max_episode_steps: Steps after which an episode is truncated.
        kwargs: Passed to lbforaging, such as `penalty` or `force_coop`.
    """

    def __init__(
        self,
        task: str,
        *,
        render_mode: str | None = None,
        max_episode_steps: int = LBF_TIME_LIMIT,
        **kwargs: Any,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode must be "rgb_array" or None, got {render_mode!r}.')
        # RLlib writes into the metadata of its environments.
        self.metadata: dict[str, Any] = {
            "name": task,
            "render_modes": ["rgb_array"],
            "render_fps": 5,
        }
        self.render_mode = render_mode
        self._time_limit = max_episode_steps
        self.simulator = ForagingEnv(
            **{**lbf_settings(task), "max_episode_steps": max_episode_steps, **kwargs}
        )
        self.possible_agents = [f"agent_{i}" for i in range(self.simulator.n_agents)]
        self.agents: list[str] = []
        self.action_spaces: dict[str, spaces.Discrete] = {
            agent: spaces.Discrete(LBF_NUM_ACTIONS) for agent in self.possible_agents
        }
        mask = spaces.Box(0, 1, (LBF_NUM_ACTIONS,), np.int8)
        self.observation_spaces = {
            agent: spaces.Dict({"observations": box, "action_mask": mask})
            for agent, box in zip(
                self.possible_agents, self.simulator.observation_space, strict=True
            )
        }

    def observation_space(self, agent: str) -> spaces.Dict:
        """Return the space of an agent's observations and mask."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """Return an agent's six actions: nothing, north, south, west, east, load."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode and return observations and infos by agent."""
        for player in self.simulator.players:
            # Else nobody starts where someone stood at the end of the last episode, and a seed
            # means another start after another episode (lbforaging 2.0.0, `_is_empty_location`).
            player.position = None
        obs, _ = self.simulator.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._observe(obs), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Advance one step; `actions` must hold exactly the live agents' numbers."""
        if set(actions) != set(self.agents):
            raise ValueError(
                f"Expected one action for each of {self.agents}, got {sorted(actions)}"
                + ("." if self.agents else "; the episode is over, call reset().")
            )
        ordered = [self._checked(agent, actions[agent]) for agent in self.agents]
        obs, rewards, *_ = self.simulator.step(ordered)
        agents = self.agents
        is_eaten = not self.simulator.field.any()
        is_late = not is_eaten and self.simulator.current_step >= self._time_limit
        if is_eaten or is_late:
            self.agents = []
        return (
            self._observe(obs),
            {agent: float(reward) for agent, reward in zip(agents, rewards, strict=True)},
            dict.fromkeys(agents, is_eaten),
            dict.fromkeys(agents, is_late),
            {agent: {} for agent in agents},
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture of the grid: food red, agents blue, with their levels."""
        if self.render_mode is None:
            return None
        rows, columns = self.simulator.field.shape
        surface = pygame.Surface((columns * _CELL, rows * _CELL))
        surface.fill(_GROUND)
        for line in range(max(rows, columns)):
            pygame.draw.line(surface, _GRID, (0, line * _CELL), (columns * _CELL, line * _CELL))
            pygame.draw.line(surface, _GRID, (line * _CELL, 0), (line * _CELL, rows * _CELL))
        for row, column in np.argwhere(self.simulator.field):
            _draw(surface, _FOOD, (row, column), self.simulator.field[row, column])
        for player in self.simulator.players:
            _draw(surface, _AGENT, player.position, player.level)
        return np.ascontiguousarray(pygame.surfarray.array3d(surface).swapaxes(0, 1))

    def close(self) -> None:
        """Nothing is held open."""

    def _checked(self, agent: str, action: Any) -> int:
        if not self.action_spaces[agent].contains(action):
            raise ValueError(
                f"The action of {agent} must be an integer from 0 to {LBF_NUM_ACTIONS - 1}, got "
                f"{action!r}."
            )
        return int(action)

    def _observe(self, obs: tuple[NDArray[np.float32], ...]) -> dict[str, Any]:
        simulator = self.simulator
        seen = {}
        for agent, player, view in zip(self.possible_agents, simulator.players, obs, strict=True):
            mask = np.zeros(LBF_NUM_ACTIONS, np.int8)
            mask[[action.value for action in simulator._valid_actions[player]]] = 1
            seen[agent] = {"observations": view, "action_mask": mask}
        return seen


def _draw(
    surface: pygame.Surface, color: tuple[int, int, int], place: tuple[int, int], level: int
) -> None:
    row, column = place
    centre = ((column + 0.5) * _CELL, (row + 0.5) * _CELL)
    pygame.draw.circle(surface, color, centre, 0.4 * _CELL)
    pygame.font.init()
    text = pygame.font.Font(None, _CELL // 2).render(str(level), True, _TEXT)
    surface.blit(text, text.get_rect(center=centre))
