"""Environments by name, for people (`make`), for RLlib (`register`) and for cards (`info`).

A name and its `EnvInfo` are known without any simulator installed; mpe2, PettingZoo and RLlib are
imported only when an environment is made or registered. The environments themselves stand in
`entries`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rllib_om2p.envs.entries import DESCRIBING_SETTINGS, ENTRIES, Entry
from rllib_om2p.envs.info import EnvInfo

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv
    from ray.rllib.env.multi_agent_env import MultiAgentEnv

FIRST_SEED = "first_seed"
"""Key of RLlib's `env_config` that fixes the start states; see `register`."""


def names() -> tuple[str, ...]:
    """Return the registered names."""
    return tuple(ENTRIES)


def info(name: str, **settings: Any) -> EnvInfo:
    """Return what is known about an environment without making it.

    Args:
        name: A registered name.
        settings: As given to `make`. What changes what is known: `observations` of a robot,
            `continuous_actions` and `prey` of a particle task, and the time limit, `max_cycles`
            of a particle task and `max_episode_steps` of the others. There are no references with
            another time limit than the papers', another prey, other dynamics or other rewards.

    Raises:
        ValueError: The name is not registered; the text lists near ones. Or it has no such
            setting, or one that leaves too little known, such as more agents.
    """
    entry = _entry(name)
    # What another environment has may be None here: "not given".
    told = {
        key: value
        for key, value in settings.items()
        if value is not None or key not in DESCRIBING_SETTINGS
    }
    for key in sorted(told.keys() - entry.known):
        near = difflib.get_close_matches(key, entry.known, n=1)
        suggestion = f"did you mean {near[0]}?" if near else f"known: {sorted(entry.known)}."
        raise ValueError(f"{name} has no {key}={told[key]!r}; leave it out, or {suggestion}")
    describing = {key: told[key] for key in told.keys() & entry.settings}
    known = entry.describe(**describing) if describing else entry.info
    scale = told.keys() & entry.scale.keys()
    if any(_plain(told[key]) != entry.scale[key] for key in scale):
        return dataclasses.replace(known, references={})
    return known


def make(name: str, **kwargs: Any) -> ParallelEnv:
    """Return a PettingZoo ParallelEnv; its `unwrapped` is the simulator's own environment.

    Args:
        name: A registered name, such as "mpe/simple_spread".
        kwargs: Passed to the environment, such as `render_mode="rgb_array"`.

    Raises:
        ValueError: The name is not registered; the text lists near ones.
    """
    return _entry(name).create(**kwargs)


def register() -> None:
    """Give RLlib every name, so that `config.environment(name, env_config=kwargs)` works.

    The key "first_seed" fixes the start states: the k-th reset without a seed of its own uses
    first_seed + k. All environments of one `env_config` start alike, so let one play at a time.
    """
    from ray.tune.registry import register_env

    for name in ENTRIES:
        register_env(name, functools.partial(_create_for_rllib, name))


def _create_for_rllib(name: str, config: Mapping[str, Any]) -> MultiAgentEnv:
    from rllib_om2p.envs.rllib_env import RLlibParallelEnv

    settings = dict(config)
    first_seed = settings.pop(FIRST_SEED, None)
    return RLlibParallelEnv(make(name, **settings), first_seed=first_seed)


def _plain(value: Any) -> Any:
    """Return a list as the tuple that it was before it stood in a card."""
    return tuple(value) if isinstance(value, list) else value


def _entry(name: str) -> Entry:
    if name not in ENTRIES:
        near: list[str] = []
        for similarity in (0.85, 0.4):  # a slip of the finger, else whatever is alike
            near = near or difflib.get_close_matches(str(name), ENTRIES, n=3, cutoff=similarity)
        suggestion = f"did you mean {' or '.join(near)}?" if near else f"known: {[*ENTRIES]}."
        raise ValueError(f"No environment is named {name!r}; {suggestion}")
    return ENTRIES[name]
