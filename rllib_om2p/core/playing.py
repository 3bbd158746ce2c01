"""Playing a checkpoint's team: returns by RLlib's env runner, and frames; needs no dataset.

The start states are those of seeds `seed`, `seed + 1`, ..., so every method meets the same ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from rllib_om2p import envs
from rllib_om2p.core.acting import JointPolicy, load_config, load_modules
from rllib_om2p.core.config import OfflineConfig, action_space, observation_space
from rllib_om2p.core.env_runner import episode_team_return
from rllib_om2p.core.environments import (
    check_action_box,
    dataset_settings,
    describe_spaces,
    require_environment,
    scale_of,
)
from rllib_om2p.data.schema import DatasetSpec, team_rewards
from rllib_om2p.envs.registry import FIRST_SEED
from rllib_om2p.evaluation.scores import References, normalised_score
from rllib_om2p.evaluation.statistics import Interval, mean_interval

EPISODES_PER_CALL = 20

MAX_FRAMES = 100
"""Pictures of an episode that lasts to the time limit; a thousand would fill the memory."""


@dataclass(frozen=True)
class Played:
    """What a team made of some start states.

    Attributes:
        env: The environment's name.
        seed: Of the first start state and of the policies' noise.
        agent_returns: Each agent's return of every episode, (E,).
        team_returns: The team's return by the dataset's convention, (E,).
        references: The scale of the normalised score, if the dataset has one.
        returns_by_team: Likewise of each of the config's `teams`, (E,), by team.
        modules: Who played, by agent id.
        settings: Of the environment.
        spec: Of the dataset that the checkpoint was trained on.
    """

    env: str
    seed: int
    agent_returns: Mapping[str, NDArray[np.float64]]
    team_returns: NDArray[np.float64]
    references: References | None
    returns_by_team: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    modules: Mapping[str, RLModule] = field(default_factory=dict, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    spec: DatasetSpec | None = None

    @property
    def mean(self) -> float:
        """The mean team return."""
        return float(self.team_returns.mean())

    @property
    def normalised(self) -> float | None:
        """The normalised score of the mean."""
        if self.references is None:
            return None
        return float(normalised_score(self.mean, self.references))

    def interval(self) -> Interval | None:
        """Return the 95 % interval of the mean over episodes, None for a single one.

        It says how sure this checkpoint's mean is, not what another training seed would reach.
        """
        return mean_interval(self.team_returns) if len(self.team_returns) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        interval = self.interval()
        return {
            "env": self.env,
            "seed": self.seed,
            "num_episodes": len(self.team_returns),
            "team_return_mean": self.mean,
            "interval": None if interval is None else [interval.low, interval.high],
            "normalized_score": self.normalised,
            "team_return_means": {t: float(r.mean()) for t, r in self.returns_by_team.items()},
            "agent_return_means": {a: float(r.mean()) for a, r in self.agent_returns.items()},
            "team_returns": self.team_returns.tolist(),
        }


class Film(NamedTuple):
    """Episodes as pictures, one after the other; one entry per picture.

    Attributes:
        frames: (H, W, 3), the state after each step.
        episodes: Number of the episode, from 1.
        steps: Steps of that episode so far.
        returns: Team return of that episode so far.
    """

    frames: list[NDArray[np.uint8]]
    episodes: list[int]
    steps: list[int]
    returns: list[float]


def play_checkpoint(
    checkpoint: str | Path,
    *,
    env: str | None = None,
    num_episodes: int = 500,
    seed: int = 0,
    prey: str | None = None,
    progress: Callable[[int], None] = lambda num_done: None,
) -> Played:
    """Play whole episodes with RLlib's env runner and the checkpoint's modules.

    Args:
        checkpoint: Of `Algorithm.save_to_path` (loading executes code: trust it first), or an
            exported folder.
        env: A name that RLlib knows; by default the environment that the dataset names.
        num_episodes: How many.
        seed: Start states are those of seed, seed + 1, ...; the noise is seeded too.
        prey: File of the prey that the data were made with, where it is not our own.
        progress: Receives the number of episodes played so far.

    Raises:
        ValueError: No whole checkpoint, no environment known, one with other agents, or the file
            of the data's prey is missing.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes must be at least 1, got {num_episodes}.")
    modules = load_modules(checkpoint)
    config = load_config(checkpoint)
    spec, name = config.dataset_spec, env_name(config, env)
    runner = _make_runner(config, name, seed, prey)
    try:
        _check_agents(spec, name, runner)
        for agent_id, module in modules.items():
            runner.module[agent_id].set_state(module.get_state())
        torch.manual_seed(seed)
        episodes: list[Any] = []
        while len(episodes) < num_episodes:
            count = min(EPISODES_PER_CALL, num_episodes - len(episodes))
            episodes += _sample(runner, name, count, seed + len(episodes))
            progress(len(episodes))
    finally:
        runner.stop()
    returns = {
        agent_id: np.array([_return_of(e, agent_id) for e in episodes], np.float64)
        for agent_id in spec.agent_ids
    }
    teams = config.teams or {}
    settings = {key: value for key, value in config.env_config.items() if key != FIRST_SEED}
    return Played(
        name,
        seed,
        returns,
        team_rewards(spec, returns),
        scale_of(spec, name, settings),
        {team: team_rewards(spec, returns, members) for team, members in teams.items()},
        modules,
        settings,
        spec,
    )


def env_name(config: OfflineConfig, env: str | None = None) -> str:
    """Return the environment to play in: the given one, else the dataset's, else the config's.

    Raises:
        ValueError: None of them names one.
    """
    name = env or config.dataset_spec.env or config.env
    if name is None:
        raise ValueError(
            f"dataset {config.dataset_spec.dataset_id!r} names no environment; name one "
            f"(--env, or env=...), such as {' or '.join(envs.names())}."
        )
    return str(name)


def render_episodes(
    modules: Mapping[str, RLModule],
    env: str,
    seeds: Sequence[int],
    *,
    spec: DatasetSpec | None = None,
    **settings: Any,
) -> Film:
    """Play one episode from each seed's start state and return it as pictures.

    Of a long episode every second, third, ... step and the last one are drawn.

    Args:
        modules: By agent id.
        env: A name of `rllib_om2p.envs`.
        seeds: Start states; the first also seeds the noise.
        spec: Whose agents and convention the team returns follow; the environment's if None.
        settings: Of the environment, as given to `envs.make`.
    """
    world = envs.make(env, render_mode="rgb_array", **settings)
    policy = JointPolicy(modules, seed=seeds[0])
    info = envs.info(env, **settings)
    every = math.ceil(info.time_limit / MAX_FRAMES)
    film = Film([], [], [], [])
    for episode, seed in enumerate(seeds, start=1):
        obs, _ = world.reset(seed=seed)
        team_return = 0.0
        for step in itertools.count():
            if step % every == 0 or not world.agents:
                film.frames.append(np.ascontiguousarray(world.render()))
                film.episodes.append(episode)
                film.steps.append(step)
                film.returns.append(team_return)
            if not world.agents:
                break
            obs, rewards, *_ = world.step(policy(obs))
            if spec is not None:
                team_return += episode_team_return(spec, rewards)
            else:
                ordered = np.array([rewards[agent] for agent in info.agent_ids])
                team_return += float(info.team_rewards(ordered))
    world.close()
    return film


def _make_runner(
    config: OfflineConfig, name: str, seed: int, prey: str | None = None
) -> MultiAgentEnvRunner:
    require_environment(name)
    # As in training, if that was in this environment; of the dataset what that left open, and the
    # prey, whose file may lie elsewhere now.
    settings = dict(config.env_config) if name == config.env else {}
    if name == config.dataset_spec.env:
        of_data = dataset_settings(config.dataset_spec, prey)
        settings = of_data | settings
        if "prey" in of_data:
            settings["prey"] = of_data["prey"]
    if name in envs.names():
        settings[FIRST_SEED] = seed
    config.env_config = settings
    config.environment(name)
    # The check resets the environment, and a seed in the config would choose the first start state.
    config.environment(disable_env_checking=True).debugging(seed=None)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=1)
    return MultiAgentEnvRunner(config=config)


def _sample(runner: MultiAgentEnvRunner, name: str, count: int, seed: int) -> list[Any]:
    """Play `count` episodes, the first from the start state of `seed`; perhaps fewer."""
    if name in envs.names():
        # These take the next seed at every reset themselves.
        return list(runner.sample(num_episodes=count, explore=False))
    # RLlib seeds the first reset of a call only (env/multi_agent_env_runner.py:612, 2.60.0).
    runner._seed = seed
    return list(runner.sample(num_episodes=1, explore=False))


def _return_of(episode: MultiAgentEpisode, agent_id: str) -> float:
    """Return what an agent earned in an episode; nothing where it never came."""
    own = [e for agent, e in episode.agent_episodes.items() if str(agent) == agent_id]
    return float(own[0].get_return()) if own else 0.0


def _check_agents(spec: DatasetSpec, name: str, runner: MultiAgentEnvRunner) -> None:
    env = runner.env.envs[0].unwrapped
    expected = {
        agent.name: describe_spaces(observation_space(spec, agent), action_space(agent))
        for agent in spec.agents
    }
    found = {
        str(agent): describe_spaces(env.get_observation_space(agent), env.get_action_space(agent))
        for agent in env.possible_agents
    }
    if found != expected:
        raise ValueError(
            f"the checkpoint's agents have {expected}, those of environment {name!r} {found}; "
            f"evaluate in the environment of dataset {spec.dataset_id!r}."
        )
    for agent in env.possible_agents:
        own = action_space(spec.agents[spec.agent_ids.index(str(agent))])
        check_action_box(str(agent), own, env.get_action_space(agent))
