"""Which environments RLlib can make here by a name: ours, and what a program registered itself."""

from __future__ import annotations

import gymnasium as gym
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_om2p import envs


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
