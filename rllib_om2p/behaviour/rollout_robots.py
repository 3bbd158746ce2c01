"""Datasets of robots: how many episodes of which policy, in blocks, or the end of a replay buffer.

Episodes of a robot that can fall have no fixed length. Their number is planned with each policy's
mean length, so that the plan, and with it the work of every block, is known before the first step;
a dataset has about the joint steps that were asked for, and the card counts them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.behaviour.components import (
    Component,
    Part,
    Source,
    assign,
    dataset_spec,
    describe,
)
from rllib_om2p.behaviour.masac_recipes import MASACRecipe, masac_recipe
from rllib_om2p.behaviour.masac_run import masac_replay_of
from rllib_om2p.behaviour.rollout_blocks import (
    BLOCK,
    Block,
    plan_blocks,
    play_blocks,
    replayed,
    team_returns,
)
from rllib_om2p.behaviour.training import Progress
from rllib_om2p.data.schema import Episode
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.envs import registry

Array = NDArray[Any]


def replay_source(
    env: str,
    steps: int,
    *,
    folder: Path,
    seed: int,
    settings: MASACRecipe | None,
    env_kwargs: Mapping[str, Any],
    progress: Progress,
) -> Source:
    """Train up to medium level and return the newest episodes of the replay buffer.

    Raises:
        ValueError: The buffer holds fewer steps, or the level was not reached.
    """
    replay = masac_replay_of(
        env, "medium", steps, folder=folder, seed=seed, settings=settings, progress=progress
    )
    newest = replay.episodes
    wanted = (settings or masac_recipe(env)).replay_return
    described = {
        **describe(replay.policy),
        "kind": "newest episodes of the replay buffer of a run up to medium level"
        if wanted is None
        else f"newest episodes of a run's replay buffer once their mean return was {wanted:g}",
        "buffer_episodes": replay.num_held,
    }
    spec = dataset_spec(
        env,
        "medium-replay",
        # Which episodes are the newest depends on how many are asked for.
        seeds={"training": seed, "planned_episodes": len(newest)},
        behaviour={"medium-replay": described},
        env_kwargs=env_kwargs,
    )

    def parts(first: int) -> Iterator[Part]:
        for start in range(first, len(newest), BLOCK):
            yield _part(replayed(_task(env), newest[start : start + BLOCK], env_kwargs))

    return Source(spec, parts)


def rollout_source(
    env: str,
    quality: str,
    components: Sequence[Component],
    steps: int,
    *,
    seed: int,
    env_kwargs: Mapping[str, Any],
    workers: int,
) -> Source:
    """Return rollouts of the components, by that many Ray tasks at a time."""
    shares = _episode_shares(env, components)
    num_episodes = max(1, round(steps * sum(shares)))
    spec = dataset_spec(
        env,
        quality,
        # A plan of another length is another plan.
        seeds={"rollout": seed, "planned_episodes": num_episodes},
        behaviour={component.quality: describe(component.policy) for component in components},
        fractions={component.quality: component.fraction for component in components},
        env_kwargs=env_kwargs,
    )
    generator = np.random.default_rng([seed, 0])
    starts = generator.integers(2**31, size=num_episodes)
    blocks = _blocks(env, components, env_kwargs, starts, (seed, 1), generator)

    def parts(first: int) -> Iterator[Part]:
        begun, inside = divmod(first, BLOCK)
        for episodes in play_blocks(blocks[begun:], workers):
            yield _part(episodes[inside:])
            inside = 0

    return Source(spec, parts)


def roll_returns(
    env: str,
    components: Sequence[Component],
    starts: Sequence[int] | Array,
    *,
    noise_seed: int,
    env_kwargs: Mapping[str, Any],
    workers: int,
) -> Array:
    """Return the components' team returns from the start states of the seeds."""
    generator = np.random.default_rng([noise_seed, 2])
    blocks = _blocks(env, components, env_kwargs, starts, (noise_seed, 3), generator)
    return team_returns(blocks, workers)


def _blocks(
    env: str,
    components: Sequence[Component],
    env_kwargs: Mapping[str, Any],
    starts: Sequence[int] | Array,
    seed: Sequence[int],
    generator: np.random.Generator,
) -> list[Block]:
    shares = np.array(_episode_shares(env, components))
    ids = assign(shares / shares.sum(), len(starts), generator)
    acting = [component.policy for component in components]
    return plan_blocks(_task(env), env_kwargs, acting, ids, np.asarray(starts), seed=seed)


def _episode_shares(env: str, components: Sequence[Component]) -> list[float]:
    """Return each component's episodes per joint step of the dataset."""
    info, settings = registry.info(env), masac_recipe(env)
    shares = []
    for component in components:
        length = float(info.time_limit)
        if info.can_terminate:
            known = component.policy
            length = known.metadata["measured"]["length"] if known else settings.random_length
        shares.append(component.fraction / length)
    return shares


def _part(episodes: Sequence[Episode]) -> Part:
    def write(writer: DatasetWriter) -> None:
        for episode in episodes:
            known = episode.behaviour_id if writer.spec.has_behaviour_id else None
            writer.write_episode(dataclasses.replace(episode, behaviour_id=known))

    return Part(sum(len(episode) for episode in episodes), write)


def _task(env: str) -> str:
    return env.partition("/")[2]
