"""Recording: any RLlib multi-agent algorithm's env runners write our datasets while they sample.

RLlib itself refuses to record multi-agent episodes (env/env_runner_group.py:151, 2.60.0), and its
episode objects hold what the policy chose, after connectors, in fragments. So each runner's
environments are wrapped when they are made (`on_environment_created`), and every finished episode
goes to a journal of the runner's own at once. `Recorder.finish` makes one dataset of the journals.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from ray._common.deprecation import DEPRECATED_VALUE
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_om2p import envs
from rllib_om2p.core.environments import card_settings
from rllib_om2p.core.recording_env import (
    RecordingEnv,
    agent_order,
    agent_spec,
    has_action_mask,
)
from rllib_om2p.data.journal import SUFFIX, Journal, JournalWriter
from rllib_om2p.data.schema import CARD_NAME, DataError, DatasetSpec, Episode
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.disk import local_path
from rllib_om2p.envs.registry import FIRST_SEED
from rllib_om2p.evaluation.provenance import versions
from rllib_om2p.team_return import TeamReturn

logger = logging.getLogger(__name__)

RECORDING = ".recording"
Runners = Literal["training", "evaluation"]
Config = TypeVar("Config", bound=AlgorithmConfig)

_TOLD_ELSEWHERE = ("env", "seed", "input", "num_env_runners")
_PACKAGES = ("rllib-om2p", "ray", "torch", "numpy", "gymnasium", "pettingzoo", "mpe2")


class Recorder:
    """Records what an algorithm's env runners play, as a dataset.

    ```python
    recorder = Recorder("data/ppo")
    algo = recorder.attach(PPOConfig().environment("mpe/simple_spread")...).build_algo()
    ...
    algo.stop()
    recorder.finish()
    ```

    Whole episodes are on disk as soon as they end: when a runner or the whole program dies,
    `Recorder(directory).finish()` makes a dataset of what was played. Env runners on other
    machines must see `directory` under the same path.

    Args:
        directory: Where the dataset goes.
        env: The environment's name for the dataset; by default the config's, if that is a name.
        agents: Ids of the agents in their order; by default that of our environments, or the one
            in which the environment lists its `possible_agents`.
        team_return: How the agents' rewards form the team's; by default our environment's, else
            the mean over agents.
        time_limit: Steps after which the environment truncates; by default our environment's.
        dataset_id: Name of the dataset; by default "ENV/ALGORITHM".
        runners: "training" (default) or "evaluation": whose episodes are recorded.
        overwrite: Replace a dataset, or an unfinished recording, that is already there.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        env: str | None = None,
        agents: Sequence[Any] | None = None,
        team_return: TeamReturn | None = None,
        time_limit: int | None = None,
        dataset_id: str | None = None,
        runners: Runners = "training",
        overwrite: bool = False,
    ) -> None:
        if runners not in ("training", "evaluation"):
            raise ValueError(f"runners must be 'training' or 'evaluation', got {runners!r}.")
        self.directory = local_path(directory).resolve()
        self._folder = self.directory / RECORDING
        self._overwrite = overwrite
        self._start = _StartRecording(
            str(self._folder),
            runners,
            env,
            None if agents is None else tuple(agents),
            team_return,
            time_limit,
            dataset_id,
        )

    def attach(self, config: Config) -> Config:
        """Have the config's env runners record, beside the callbacks that it has; return it.

        Attach last: a later `config.callbacks(on_environment_created=...)` would replace it.

        Raises:
            ValueError: The config is of RLlib's old API stack or not multi-agent.
            DataError: The directory holds a dataset or an unfinished recording.
        """
        if not config.enable_env_runner_and_connector_v2:
            raise ValueError(
                "recording needs RLlib's new API stack; remove config.api_stack("
                "enable_env_runner_and_connector_v2=False)."
            )
        self._check_directory()
        hooks = {
            "on_environment_created": self._start,
            "on_evaluate_start": functools.partial(_pause, True),
            "on_evaluate_end": functools.partial(_pause, False),
        }
        for name, hook in hooks.items():
            present = getattr(config, f"callbacks_{name}") or []
            others = list(present) if isinstance(present, list | tuple) else [present]
            hooks[name] = [*others, hook]
        config.callbacks(**hooks)
        return config

    def finish(self) -> Path:
        """Make the dataset of all whole episodes recorded so far, and return its directory.

        Call it when nothing samples any more (after `algo.stop()`).

        Episodes with a value that is not finite are left out, and a warning counts them.

        Raises:
            DataError: Nothing was recorded, the runners disagree about agents or settings, or the
                directory holds a dataset already.
        """
        journals = [Journal(path) for path in self._journals() if path.stat().st_size]
        are_whole, has_alive = [], False
        for episode in itertools.chain(*journals):
            are_whole.append(_is_finite(episode))
            has_alive |= bool(episode.alive)
        num_episodes = sum(are_whole)
        if num_episodes < len(are_whole):
            logger.warning(
                "%s: %d of %d episodes hold a value that is not finite and are left out; look at "
                "what the environment returns.",
                self.directory,
                len(are_whole) - num_episodes,
                len(are_whole),
            )
        if are_whole and not num_episodes:
            raise DataError(f"{self.directory}: no episode without such a value was recorded.")
        if not num_episodes:
            raise DataError(
                f"{self.directory}: no whole episode was recorded; attach the recorder to the "
                "config before the algorithm is built, after all other callbacks, and sample at "
                "least one episode to its end."
            )
        spec = _common_spec(journals)
        team_return = self._start.team_return or spec.team_return
        spec = replace(spec, has_alive=has_alive, team_return=team_return)
        with DatasetWriter(self.directory, spec, overwrite=self._overwrite) as writer:
            for episode in _episodes(journals, spec):
                writer.write_episode(episode)
        shutil.rmtree(self._folder)
        logger.info("%s: %d episodes of %d journals.", self.directory, num_episodes, len(journals))
        return self.directory

    def _journals(self) -> list[Path]:
        """Return the journals by runner, then by time."""
        return sorted(self._folder.glob(f"*{SUFFIX}"))

    def _check_directory(self) -> None:
        if self._overwrite:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        if (self.directory / CARD_NAME).exists():
            raise DataError(
                f"{self.directory} already holds a dataset; choose another directory or pass "
                "overwrite=True."
            )
        if self._journals():
            raise DataError(
                f"{self.directory} holds an unfinished recording; make a dataset of it with "
                f"Recorder({str(self.directory)!r}).finish(), or pass overwrite=True."
            )


@dataclass(frozen=True)
class _StartRecording:
    """RLlib's callback `on_environment_created`: wraps the new environments. Goes to the runners.

    Args: those of `Recorder`, with the folder of the journals.
    """

    folder: str
    runners: Runners
    env: str | None
    agents: tuple[Any, ...] | None
    team_return: TeamReturn | None
    time_limit: int | None
    dataset_id: str | None

    def __call__(self, *, env_runner: Any, env: Any, **kwargs: Any) -> None:
        config: AlgorithmConfig = env_runner.config
        if config.in_evaluation != (self.runners == "evaluation"):
            return
        order = self._order(config, env.envs[0].unwrapped)
        agents = {agent: agent_spec(env.envs[0].unwrapped, agent) for agent in order}
        discrete = [agent for agent in order if agents[agent].num_actions is not None]
        masked = [agent for agent in discrete if has_action_mask(env.envs[0].unwrapped, agent)]
        if masked and masked != discrete:
            raise DataError(
                f"of the agents with discrete actions, {discrete}, only {masked} are told which "
                "are legal; give each a mask, of ones where all are."
            )
        is_masked = bool(masked)
        spec = replace(self._spec(config, tuple(agents.values())), has_action_masks=is_masked)
        # The name sorts by runner and time; a runner that is restarted begins another journal.
        name = f"runner-{env_runner.worker_index or 0:04d}-{time.time_ns()}-{os.getpid()}{SUFFIX}"
        journal = JournalWriter(Path(self.folder) / name, spec.to_dict())
        env.envs = [RecordingEnv(one, agents, journal.append) for one in env.envs]

    def _order(self, config: AlgorithmConfig, env: Any) -> list[Any]:
        declared = agent_order(env)
        name = self.env or config.env
        if self.agents is not None:
            order = list(self.agents)
        elif name in envs.names():
            order = list(self._info(config, str(name)).agent_ids)
        else:
            order = declared
        if set(order) != set(declared) or len(set(order)) != len(order):
            raise DataError(
                f"the recorder's agents are {order}, the environment's are {declared}; name each "
                "of them once: Recorder(..., agents=[...])."
            )
        return order

    def _info(self, config: AlgorithmConfig, name: str) -> envs.EnvInfo:
        """Return what is known of the environment with the settings that it is made with."""
        return envs.info(
            name, **(card_settings(name, config.env_config) if name == config.env else {})
        )

    def _spec(self, config: AlgorithmConfig, agents: tuple[Any, ...]) -> DatasetSpec:
        env = self.env or (config.env if isinstance(config.env, str) else None)
        info = self._info(config, str(env)) if env in envs.names() else None
        settings = card_settings(env, config.env_config)
        seeds = {"algorithm": config.seed}
        if env in envs.names() and FIRST_SEED in config.env_config:
            seeds[FIRST_SEED] = config.env_config[FIRST_SEED]
        team_return = self.team_return or (info.team_return if info else "mean over agents")
        time_limit = self.time_limit or (info.time_limit if info else None)
        # Returns that are formed in another way, or of other episodes, are on another scale.
        is_known = info and (team_return, time_limit) == (info.team_return, info.time_limit)
        algorithm = getattr(config.algo_class, "__name__", "unknown")
        return DatasetSpec(
            dataset_id=self.dataset_id or f"{env or 'environment'}/{algorithm}",
            quality="recorded",
            env=env,
            env_kwargs=settings,
            agents=agents,
            team_return=team_return,
            time_limit=time_limit,
            behaviour={
                "algorithm": algorithm,
                "hyperparameters": _hyperparameters(config),
                "recorded": f"{self.runners} env runners, whole episodes",
            },
            seeds=seeds,
            references=dict(info.references) if info and is_known else {},
            package_versions=versions(_PACKAGES),
        )


def _pause(is_paused: bool, *, algorithm: Any, **kwargs: Any) -> None:
    """Leave evaluation episodes out where the training env runner plays them."""
    if algorithm.eval_env_runner_group is None and algorithm.env_runner is not None:
        for one in getattr(algorithm.env_runner.env, "envs", None) or []:
            if isinstance(one, RecordingEnv):
                one.is_paused = is_paused


def _common_spec(journals: Sequence[Journal]) -> DatasetSpec:
    """Return what the runners say; the first one decides the agents' order."""
    specs = [DatasetSpec.from_dict(journal.header) for journal in journals]
    for journal, spec in zip(journals, specs, strict=True):
        for name in ("env", "env_kwargs", "behaviour", "seeds", "team_return"):
            ours, theirs = getattr(specs[0], name), getattr(spec, name)
            if ours != theirs:
                raise DataError(
                    f"{journals[0].path} and {journal.path} are recordings of different "
                    f"algorithms: {name} is {ours} in the one and {theirs} in the other; give "
                    "each algorithm (each trial of Tune) a Recorder with its own directory."
                )
        if {a.name: a for a in spec.agents} != {a.name: a for a in specs[0].agents}:
            raise DataError(
                f"{journals[0].path} and {journal.path} have different agents or spaces; every "
                "env runner must make the same environment."
            )
    return specs[0]


def _episodes(journals: Sequence[Journal], spec: DatasetSpec) -> Iterator[Episode]:
    for journal in journals:
        for episode in filter(_is_finite, journal):
            if spec.has_alive and episode.alive is None:
                always = dict.fromkeys(spec.agent_ids, np.ones(len(episode) + 1, bool))
                episode = replace(episode, alive=always)
            yield episode


def _is_finite(episode: Episode) -> bool:
    arrays = (*episode.obs.values(), *episode.actions.values(), *episode.rewards.values())
    return all(np.isfinite(array).all() for array in arrays)


def _hyperparameters(config: AlgorithmConfig) -> dict[str, Any]:
    """Return the settings that make this algorithm differ from a plain `AlgorithmConfig`."""
    plain = AlgorithmConfig().to_dict()
    kinds = (bool, int, float, str, type(None))
    settings = {}
    for name, value in config.to_dict().items():
        value = _plain(value)
        values = value if isinstance(value, list | tuple) else [value]
        is_plain = all(isinstance(one, kinds) for one in values) and value != DEPRECATED_VALUE
        is_told = name.startswith("_") or name in _TOLD_ELSEWHERE
        if is_plain and not is_told and (name not in plain or plain[name] != value):
            settings[name] = value
    return settings


def _plain(value: Any) -> Any:
    """Return a number as JSON knows it: NumPy's as Python's, what is not finite as text."""
    if type(value) in (list, tuple):
        return type(value)(_plain(one) for one in value)
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
