"""Which environments RLlib can make here by a name, with what settings, and how spaces compare."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_om2p import envs
from rllib_om2p.core.rl_module import ACTION_MASK, OBSERVATIONS
from rllib_om2p.data.schema import DatasetSpec
from rllib_om2p.envs.prey import load_prey
from rllib_om2p.envs.registry import FIRST_SEED
from rllib_om2p.evaluation.scores import References


def require_environment(name: str) -> None:
    """Make sure that RLlib can make the environment called `name`; registers ours.

    Raises:
        ValueError: It is none of ours and nobody registered it in this program.
    """
    if name in envs.names():
        envs.register()
        return
    if _global_registry.contains(ENV_CREATOR, name) or name in gym.registry:
        return
    try:
        envs.info(name)
    except ValueError as error:
        raise ValueError(
            f"{error} An environment of your own works in Python, where you register it first: "
            f"ray.tune.registry.register_env({name!r}, create), see "
            "examples/your_own_environment.py; the commands know ours only."
        ) from error


def dataset_settings(
    spec: DatasetSpec, prey: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Return the settings of the environment that a dataset names.

    Args:
        spec: Of the dataset.
        prey: File of the prey that the data were made with, where it is not our own.

    Raises:
        ValueError: The data were made with another prey and its file is missing or is not the one.
    """
    settings = dict(spec.env_kwargs)
    if prey is not None:
        cited = settings.get("prey")
        file = os.fspath(prey)
        settings["prey"] = {**cited, "file": file} if isinstance(cited, Mapping) else file
    if "prey" in settings and spec.env is not None:
        # Here, since RLlib would answer with an error of its own.
        load_prey(spec.env, settings["prey"])
    return settings


def scale_of(spec: DatasetSpec, env: str | None, settings: Mapping[str, Any]) -> References | None:
    """Return the scale of normalised scores of a dataset's team, None where it is not that.

    It belongs to the dataset's environment, and of other settings than the dataset's to those that
    leave the scale as it is, as far as the environment is known.

    Args:
        spec: Of the dataset.
        env: The environment that is played.
        settings: Of that environment.
    """
    if env != spec.env:
        return None
    played = {name: value for name, value in settings.items() if name != FIRST_SEED}
    if played != dict(spec.env_kwargs) and (
        env not in envs.names() or not envs.info(env, **played).references
    ):
        return None
    return References.from_mapping(spec.references)


def describe_spaces(obs_space: Any, action_space: Any) -> str:
    """Return what must agree between dataset and environment: sizes, choices and masks."""
    mask = ""
    if isinstance(obs_space, gym.spaces.Dict) and set(obs_space) == {OBSERVATIONS, ACTION_MASK}:
        obs_space, mask = obs_space[OBSERVATIONS], " with a mask of legal actions"
    text = f"obs {getattr(obs_space, 'shape', obs_space)}{mask}, action "
    if isinstance(action_space, gym.spaces.Discrete):
        return f"{text}one of {action_space.n}"
    return f"{text}{getattr(action_space, 'shape', action_space)}"
