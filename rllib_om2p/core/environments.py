"""Which environments RLlib can make here by a name, with what settings, and how spaces compare."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_om2p import envs
from rllib_om2p.core.rl_module import ACTION_MASK, OBSERVATIONS
from rllib_om2p.data.checks import ACTION_TOLERANCE
from rllib_om2p.data.schema import DatasetSpec
from rllib_om2p.envs.prey import PREY_AS_AGENT, cite_prey, load_prey
from rllib_om2p.envs.registry import FIRST_SEED
from rllib_om2p.evaluation.scores import References

logger = logging.getLogger(__name__)


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


def card_settings(env: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment's settings as a card keeps them: no start states, no local paths."""
    kept = dict(settings)
    if env not in envs.names():
        return kept
    kept.pop(FIRST_SEED, None)
    if kept.get("prey") not in (None, PREY_AS_AGENT):
        kept["prey"] = cite_prey(env, kept["prey"])
    return kept


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
        first = f" from {action_space.start}" if action_space.start != 0 else ""
        return f"{text}one of {action_space.n}{first}"
    return f"{text}{getattr(action_space, 'shape', action_space)}"


def check_action_box(agent_id: str, of_data: Any, of_env: Any) -> None:
    """Compare the box of an agent's actions in the data with the environment's; other spaces pass.

    Raises:
        ValueError: The policy would take actions that the environment does not.
    """
    if not isinstance(of_data, gym.spaces.Box) or not isinstance(of_env, gym.spaces.Box):
        return
    slack = ACTION_TOLERANCE * (of_data.high - of_data.low)
    ours, theirs = _interval(of_data), _interval(of_env)
    # The data's are float32: far from zero an environment's own float64 would differ.
    low, high = (np.asarray(end, np.float32) for end in (of_env.low, of_env.high))
    if (of_data.low < low - slack).any() or (of_data.high > high + slack).any():
        raise ValueError(
            f"agent {agent_id!r}: the data's actions lie in {ours}, the environment takes "
            f"{theirs}; evaluate in the dataset's environment, or import the data with their box."
        )
    is_same = all(
        np.allclose(own, other, rtol=0, atol=slack)
        for own, other in ((of_data.low, low), (of_data.high, high))
    )
    if of_env.is_bounded() and not is_same:
        logger.warning(
            "agent %r: the data's actions lie in %s, a part of the environment's %s. That is right "
            "if both are in the same units, and wrong if the recording normalised them.",
            agent_id,
            ours,
            theirs,
        )


def _interval(box: gym.spaces.Box) -> str:
    if len(set(box.low.tolist())) == len(set(box.high.tolist())) == 1:
        return f"[{box.low[0]:g}, {box.high[0]:g}]"
    return f"{box.low.tolist()} to {box.high.tolist()}"
