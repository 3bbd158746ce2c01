"""Wraps an RLlib multi-agent environment and keeps whole episodes as the environment saw them.

Knows the environment's dictionaries and the contract's episodes; nothing of algorithms, runners or
files. Standing at the environment itself, it sees what connectors, fragments and resets cannot
change: raw observations, the actions that were applied, and where episodes begin and end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_om2p.core.rl_module import ACTION_MASK, OBSERVATIONS
from rllib_om2p.data.checks import ACTION_TOLERANCE
from rllib_om2p.data.schema import AgentSpec, AnyArray, DataError, Episode


def agent_order(env: MultiAgentEnv) -> list[Any]:
    """Return the environment's agents in the order in which it declares them.

    RLlib's wrapper of PettingZoo lists them in the order of a set, another one in each process
    (env/wrappers/pettingzoo_env.py, 2.60.0); the wrapped environment is asked instead.
    """
    wrapped = getattr(env, "par_env", None)
    return list(getattr(wrapped, "possible_agents", None) or env.possible_agents)


def agent_spec(env: MultiAgentEnv, agent_id: Any) -> AgentSpec:
    """Return what an agent sees and does, from the environment's spaces.

    Raises:
        DataError: Observations are no flat box (with a mask of legal actions or without), or
            actions neither a finite box nor discrete from 0.
    """
    name = str(agent_id)
    obs_space, action_space = env.get_observation_space(agent_id), env.get_action_space(agent_id)
    if has_action_mask(env, agent_id):
        obs_space = obs_space[OBSERVATIONS]
    if not isinstance(obs_space, spaces.Box) or len(obs_space.shape) != 1:
        raise DataError(
            f"Agent {name}: observations must be a flat Box (features,), got {obs_space}; wrap the "
            "environment so that each agent's observation is one vector."
        )
    if isinstance(action_space, spaces.Discrete):
        if action_space.start != 0:
            raise DataError(
                f"Agent {name}: discrete actions must begin at 0, got {action_space}; wrap the "
                "environment so that it adds the first action's number itself."
            )
        return AgentSpec.discrete(name, obs_space.shape[0], int(action_space.n))
    if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
        raise DataError(
            f"Agent {name}: actions must be Discrete or a flat Box (features,), got {action_space};"
            " wrap the environment so that each agent's action is one number or one vector."
        )
    low, high = action_space.low.tolist(), action_space.high.tolist()
    return AgentSpec(name, obs_space.shape[0], action_space.shape[0], tuple(low), tuple(high))


def has_action_mask(env: MultiAgentEnv, agent_id: Any) -> bool:
    """Return whether an agent is told which of its discrete actions are legal."""
    space = env.get_observation_space(agent_id)
    return (
        isinstance(space, spaces.Dict)
        and set(space) == {OBSERVATIONS, ACTION_MASK}
        and isinstance(env.get_action_space(agent_id), spaces.Discrete)
    )


class RecordingEnv(gym.Wrapper):
    """An environment that hands every finished episode to `keep`.

    An episode that is cut by a reset before its end is left out.

    Args:
        env: An RLlib `MultiAgentEnv`, possibly under gymnasium's wrappers.
        agents: The agents' ids and what they see and do, in order.
        keep: Receives each episode when it ends; None of its arrays changes later.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        agents: Mapping[Any, AgentSpec],
        keep: Callable[[Episode], None],
    ) -> None:
        super().__init__(env)
        self.is_paused = False
        self._agents = dict(agents)
        self._keep = keep
        self._tape: _Tape | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self._tape = None
        obs, infos = self.env.reset(**kwargs)
        if not self.is_paused:
            self._tape = _Tape(self._agents, self._is_masked(), obs)
        return obs, infos

    def step(self, action: Any) -> tuple[Any, ...]:  # type: ignore[override]
        """Advance one step; the episode is kept when this was its last."""
        tape = self._tape
        if tape is not None:
            # Before the step: environments may change the arrays that they are given.
            tape.add_actions(action)
        obs, rewards, terminateds, truncateds, infos = self.env.step(action)
        if tape is not None and tape.add_results(obs, rewards, terminateds, truncateds):  # type: ignore[arg-type]
            self._tape = None
            self._keep(tape.episode())
        return obs, rewards, terminateds, truncateds, infos

    def _is_masked(self) -> bool:
        env = self.env.unwrapped
        assert isinstance(env, MultiAgentEnv)
        return any(has_action_mask(env, agent) for agent in self._agents)


class _Tape:
    """One episode while it is played; lists of rows, one per step, by agent."""

    def __init__(
        self,
        agents: Mapping[Any, AgentSpec],
        is_masked: bool,
        obs: Mapping[Any, Any],
    ) -> None:
        self._agents = agents
        self._masks: dict[Any, list[AnyArray]] = {
            agent: [] for agent, spec in agents.items() if is_masked and spec.num_actions
        }
        obs = self._without_masks(obs)
        self._obs: dict[Any, list[AnyArray]] = {}
        self._actions: dict[Any, list[AnyArray]] = {agent: [] for agent in agents}
        self._rewards: dict[Any, list[float]] = {agent: [] for agent in agents}
        self._ends: dict[Any, list[bool]] = {agent: [] for agent in agents}
        self._alive = {agent: [agent in obs] for agent in agents}
        self._has_left: set[Any] = set()
        self._truncated = False
        for agent, spec in agents.items():
            absent = np.zeros(spec.obs_dim, np.float32)
            self._obs[agent] = [np.array(obs.get(agent, absent), np.float32)]

    def add_actions(self, actions: Mapping[Any, Any]) -> None:
        for agent, spec in self._agents.items():
            present = self._alive[agent][-1]
            if present and agent not in actions:
                raise DataError(
                    f"Agent {spec.name} is present at step {len(self._actions[agent])} but does "
                    "not act; recording needs agents that move at the same time, so wrap a "
                    "turn-based environment with an action that does nothing."
                )
            row = self._applied(agent, spec, actions[agent]) if present else _no_action(spec)
            self._actions[agent].append(row)

    def add_results(
        self,
        obs: Mapping[Any, Any],
        rewards: Mapping[Any, float],
        terminateds: Mapping[Any, bool],
        truncateds: Mapping[Any, bool],
    ) -> bool:
        """Add what the environment answered and return whether the episode is over."""
        obs = self._without_masks(obs)
        everyone = "__all__"
        present = [agent for agent in self._agents if self._alive[agent][-1]]
        # "__all__" may only say that nobody goes on, each for a reason of its own.
        ended = {
            a
            for a in present
            if terminateds.get(a) or (terminateds.get(everyone) and not truncateds.get(a))
        }
        cut = {a for a in present if truncateds.get(a) or truncateds.get(everyone)}
        self._has_left |= ended | cut
        stays = {a for a in present if a not in self._has_left}
        stays |= {a for a in self._agents if a in obs and a not in self._has_left}
        is_over = bool(terminateds.get(everyone) or truncateds.get(everyone)) or not stays
        if not is_over and (missing := [a for a in self._agents if a in stays and a not in obs]):
            raise DataError(
                f"Agent {missing[0]} got no observation at step {len(self._rewards[missing[0]])} "
                "although it has not ended; recording needs agents that move at the same time."
            )
        for agent in self._agents:
            self._rewards[agent].append(float(rewards.get(agent, 0.0)))
            self._ends[agent].append(agent in ended)
            # What an agent saw last stays for one row; after that there is nothing.
            last = self._obs[agent][-1] if agent in present else np.zeros_like(self._obs[agent][-1])
            self._obs[agent].append(np.array(obs.get(agent, last), np.float32))
            # Who plays to the end of the episode is there in its final observation.
            self._alive[agent].append(agent in (present if is_over else stays))
        self._truncated = bool(cut)
        return is_over

    def episode(self) -> Episode:
        by_name = {agent: spec.name for agent, spec in self._agents.items()}

        def arrays(rows: Mapping[Any, Sequence[Any]], dtype: Any) -> dict[str, AnyArray]:
            return {name: np.asarray(rows[agent], dtype) for agent, name in by_name.items()}

        actions = {
            spec.name: np.asarray(
                self._actions[agent], np.float32 if spec.num_actions is None else np.int64
            )
            for agent, spec in self._agents.items()
        }
        alive = arrays(self._alive, bool)
        return Episode(
            obs=arrays(self._obs, np.float32),
            actions=actions,
            rewards=arrays(self._rewards, np.float32),
            terminateds=arrays(self._ends, bool),
            truncated=self._truncated,
            action_masks={
                self._agents[agent].name: np.array(rows) for agent, rows in self._masks.items()
            }
            or None,
            alive=None if all(array.all() for array in alive.values()) else alive,
        )

    def _without_masks(self, obs: Mapping[Any, Any]) -> dict[Any, AnyArray]:
        """Keep the masks of legal actions and return the observations beside them."""
        for agent, rows in self._masks.items():
            seen = obs.get(agent)
            if isinstance(seen, Mapping):
                rows.append(np.array(seen[ACTION_MASK], bool))
                continue
            # Who is told nothing may do everything, who is away only what is recorded of it.
            free = np.ones(self._agents[agent].action_dim, bool)
            if seen is None:
                free[1:] = False
            rows.append(free)
        return {
            agent: seen[OBSERVATIONS] if isinstance(seen, Mapping) else seen
            for agent, seen in obs.items()
        }

    def _applied(self, agent: Any, spec: AgentSpec, action: Any) -> AnyArray:
        if spec.num_actions is not None:
            row: AnyArray = np.array(int(action))
            is_inside = 0 <= int(row) < spec.num_actions
        else:
            row = np.array(action, np.float32).reshape(spec.action_dim)
            low, high = (np.array(end, np.float32) for end in (spec.action_low, spec.action_high))
            slack = ACTION_TOLERANCE * (high - low)
            is_inside = bool(((row >= low - slack) & (row <= high + slack)).all())
        if not is_inside:
            raise DataError(
                f"Agent {spec.name} applied {action} at step {len(self._actions[agent])}, outside "
                "its action space; let RLlib bring actions into the space: "
                "config.env_runners(normalize_actions=True), or clip_actions=True."
            )
        return row


def _no_action(spec: AgentSpec) -> AnyArray:
    if spec.num_actions is not None:
        return np.zeros((), np.int64)
    return np.clip(np.zeros(spec.action_dim), spec.action_low, spec.action_high).astype(np.float32)
