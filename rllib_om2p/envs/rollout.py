"""Whole episodes of many worlds under one policy; must not know RLlib, torch or the data.

Axes: (episodes, steps, agents, features).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.envs import registry
from rllib_om2p.envs.prey import PreySource
from rllib_om2p.envs.vector_mpe import VectorMPE

ActFn = Callable[[NDArray[Any]], NDArray[Any]]
"""Maps observations (N, agents, obs_dim), float32, to actions (N, agents, action_dim)."""


class Episodes(NamedTuple):
    """Episodes of equal length T, recorded from E worlds."""

    obs: NDArray[Any]  # (E, T + 1, agents, obs_dim) float32
    actions: NDArray[Any]  # (E, T, agents, action_dim) float32, as applied
    rewards: NDArray[Any]  # (E, T, agents) float64


def rollout(
    env: str,
    act_fn: ActFn,
    *,
    seeds: Sequence[int] | NDArray[Any],
    prey: PreySource = None,
    max_worlds: int = 1024,
) -> Episodes:
    """Return one episode from the start state of each seed.

    Args:
        env: A name with a vectorised simulator.
        act_fn: The policy; actions are clipped to [-1, 1] before they act and are recorded so.
        seeds: Start states, those of the PettingZoo environment reset with these seeds.
        prey: Who moves the prey; the project's own policy if None.
        max_worlds: Worlds stepped together. A policy that draws noise sees another stream for
            another number.
    """
    if len(seeds) == 0:
        raise ValueError("seeds is empty; give at least one start state.")
    parts = [
        _rollout_together(env, act_fn, seeds[first : first + max_worlds], prey)
        for first in range(0, len(seeds), max_worlds)
    ]
    return Episodes(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def evaluate_policy(
    env: str,
    act_fn: ActFn,
    seeds: Sequence[int] | NDArray[Any],
    *,
    prey: PreySource = None,
    max_worlds: int = 1024,
) -> NDArray[Any]:
    """Return the team returns, (len(seeds),), of one episode from each seed's start state."""
    episodes = rollout(env, act_fn, seeds=seeds, prey=prey, max_worlds=max_worlds)
    return registry.info(env).team_rewards(episodes.rewards).sum(axis=1)


def _rollout_together(
    env: str, act_fn: ActFn, seeds: Sequence[int] | NDArray[Any], prey: PreySource
) -> Episodes:
    env_info = registry.info(env)
    num_steps, num_agents = env_info.time_limit, len(env_info.agents)
    worlds = VectorMPE(env, len(seeds), prey=prey)
    # Steps come first while recording, so that each step is one contiguous write.
    obs = np.empty((num_steps + 1, len(seeds), num_agents, worlds.task.obs_dim), np.float32)
    actions = np.empty((num_steps, len(seeds), num_agents, 2), np.float32)
    rewards = np.empty((num_steps, len(seeds), num_agents))
    obs[0] = worlds.reset(seeds)
    for step in range(num_steps):
        np.clip(act_fn(obs[step]), -1.0, 1.0, out=actions[step], casting="same_kind")
        obs[step + 1], rewards[step] = worlds.step(actions[step])
    return Episodes(*(np.swapaxes(field, 0, 1) for field in (obs, actions, rewards)))
