"""Episodes of the particle tasks for datasets, by the vectorised simulator; must not know RLlib.

Axes: (episodes, steps, agents, features).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.behaviour import policies, training
from rllib_om2p.behaviour.components import (
    Component,
    Part,
    Source,
    assign,
    dataset_spec,
    describe,
    opponents,
    prey_settings,
)
from rllib_om2p.behaviour.recipes import MATD3Recipe
from rllib_om2p.behaviour.training import Progress
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.envs.prey import PreySource
from rllib_om2p.envs.rollout import ActFn, Episodes, evaluate_policy, rollout

Prey = str | os.PathLike[str] | None
"""File of a prey; None for the project's own."""

# Worlds stepped together; part of the recipe, since the noise is drawn per step of all worlds.
_WORLDS = 1_000


def replay_source(
    env: str,
    steps: int,
    num_episodes: int,
    *,
    seed: int,
    settings: MATD3Recipe | None,
    prey: Prey,
    progress: Progress,
) -> Source:
    """Train up to medium level and return the newest episodes of the replay buffer."""
    replay = training.replay_of(
        env, "medium", num_steps=steps, seed=seed, settings=settings, prey=prey, progress=progress
    )
    described = {
        **describe(replay.policy),
        "kind": "newest episodes of the replay buffer of a run up to medium level",
        "buffer_episodes": len(replay.episodes.rewards),
    }
    spec = dataset_spec(
        env,
        "medium-replay",
        seeds={"training": seed},
        behaviour={"medium-replay": described},
        env_kwargs=prey_settings(env, prey),
        others=opponents(env, prey),
    )
    newest = Episodes(*(field[-num_episodes:] for field in replay.episodes))
    part = _part(newest, np.zeros(num_episodes, np.int64))
    return Source(spec, lambda first: iter([part]))


def rollout_source(
    env: str,
    quality: str,
    components: Sequence[Component],
    num_episodes: int,
    *,
    seed: int,
    prey: Prey,
) -> Source:
    """Return rollouts of the components."""
    spec = dataset_spec(
        env,
        quality,
        seeds={"rollout": seed},
        behaviour={component.quality: describe(component.policy) for component in components},
        fractions={component.quality: component.fraction for component in components},
        env_kwargs=prey_settings(env, prey),
        others=opponents(env, prey),
    )
    return Source(spec, lambda first: _roll(env, components, num_episodes, seed, prey))


def roll_returns(
    env: str,
    components: Sequence[Component],
    starts: Sequence[int] | NDArray[Any],
    *,
    noise_seed: int,
    prey: PreySource,
) -> NDArray[Any]:
    """Return the components' team returns from the start states of the seeds."""
    generator = np.random.default_rng([noise_seed, 1])
    ids = assign([component.fraction for component in components], len(starts), generator)
    with policies.one_torch_thread():
        return evaluate_policy(
            env, _act_fn(components, ids, generator), starts, prey=prey, max_worlds=len(starts)
        )


def _act_fn(
    components: Sequence[Component], ids: NDArray[Any], generator: np.random.Generator
) -> ActFn:
    """Return the policy of worlds in which the component `ids` (N,) act."""
    acting = [
        (component.policy.noisy(generator) if component.policy else None, ids == index)
        for index, component in enumerate(components)
    ]

    def act(obs: NDArray[Any]) -> NDArray[Any]:
        actions = np.empty((*obs.shape[:2], 2), np.float32)
        for policy, mine in acting:
            if policy is None:
                actions[mine] = generator.uniform(-1.0, 1.0, actions[mine].shape)
            elif mine.any():
                actions[mine] = policy(obs[mine])
        return actions

    return act


def _roll(
    env: str, components: Sequence[Component], num_episodes: int, seed: int, prey: PreySource
) -> Iterator[Part]:
    """Yield the episodes of a dataset in parts."""
    generator = np.random.default_rng([seed, 0])
    ids = assign([component.fraction for component in components], num_episodes, generator)
    starts = generator.integers(2**62, size=num_episodes)
    for first in range(0, num_episodes, _WORLDS):
        part = slice(first, first + _WORLDS)
        with policies.one_torch_thread():
            act_fn = _act_fn(components, ids[part], generator)
            episodes = rollout(env, act_fn, seeds=starts[part], prey=prey, max_worlds=_WORLDS)
        yield _part(episodes, ids[part])


def _part(episodes: Episodes, behaviour_ids: NDArray[Any]) -> Part:
    num_episodes, num_steps = episodes.rewards.shape[:2]

    def write(writer: DatasetWriter) -> None:
        names = writer.spec.agent_ids
        never = np.zeros((num_episodes, num_steps), bool)
        writer.write_batch(
            {name: episodes.obs[:, :, i] for i, name in enumerate(names)},
            {name: episodes.actions[:, :, i] for i, name in enumerate(names)},
            {name: episodes.rewards[:, :, i] for i, name in enumerate(names)},
            dict.fromkeys(names, never),
            truncated=np.ones(num_episodes, bool),
            behaviour_id=behaviour_ids if writer.spec.has_behaviour_id else None,
        )

    return Part(num_episodes * num_steps, write)
