"""Datasets from behaviour policies: who acts in which episode, and what the card says of it.

Knows the simulator, the policies and the writer; must not know RLlib. Axes: (episodes, steps,
agents, features).
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.behaviour import policies, training
from rllib_om2p.behaviour.policies import Policy
from rllib_om2p.behaviour.recipes import REPLAY_STEPS, MATD3Recipe
from rllib_om2p.behaviour.training import Progress, Replay
from rllib_om2p.data.schema import CARD_NAME, AgentSpec, DataError, DatasetSpec
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.envs import registry
from rllib_om2p.envs.prey import PreySource, describe_prey, load_prey
from rllib_om2p.envs.rollout import ActFn, Episodes, evaluate_policy, rollout

logger = logging.getLogger(__name__)

Prey = str | os.PathLike[str] | None
"""File of a prey; None for the project's own."""

QUALITIES = ("random", "medium-replay", "medium", "medium-expert", "expert")

EXPERT_FRACTION = 0.1
"""Fraction of expert transitions in medium-expert: that of the papers' released code."""

# Worlds stepped together; part of the recipe, since the noise is drawn per step of all worlds.
_WORLDS = 1_000

_PACKAGES = ("rllib-om2p", "numpy", "torch", "mpe2", "pettingzoo", "gymnasium")


class Component(NamedTuple):
    """One policy of a behaviour and its share of the episodes; no policy means uniform actions."""

    quality: str
    fraction: float
    policy: Policy | None


class _Source(NamedTuple):
    """What a dataset says about itself, and its episodes with the component that acted in each."""

    spec: DatasetSpec
    parts: Iterator[tuple[Episodes, NDArray[Any]]]


def default_steps(env: str, quality: str) -> int:
    """Return the joint steps of a dataset when none are asked for."""
    return REPLAY_STEPS.get(env, 100_000) if quality == "medium-replay" else 100_000


def make_dataset(
    env: str,
    quality: str,
    *,
    out: str | Path,
    steps: int | None = None,
    seed: int = 0,
    expert_fraction: float = EXPERT_FRACTION,
    policy_folder: str | Path | None = None,
    settings: MATD3Recipe | None = None,
    prey: Prey = None,
    overwrite: bool = False,
    progress: Progress = logger.info,
) -> Path:
    """Write a dataset of whole episodes; the same arguments give the same bytes on one machine.

    Args:
        env: A name with behaviour policies.
        quality: One of `QUALITIES`. "medium-replay" trains a model-free run up to medium level and
            writes the newest episodes of its replay buffer; the others roll policies out.
        out: Folder of the dataset.
        steps: Joint steps, a multiple of the environment's time limit; by default 100,000, and
            for medium-replay the length of the papers' set.
        seed: Of start states and noise; for medium-replay of the whole training run.
        expert_fraction: Fraction of expert transitions in medium-expert.
        policy_folder: Where `make_behaviour` wrote; the project's own policies if None.
        settings: Recipe of medium-replay's run in place of the environment's.
        prey: File of the prey; the project's own if None. The card names it.
        overwrite: Replace a dataset that is already there.
        progress: Receives a line now and then.

    Returns:
        The folder of the dataset.

    Raises:
        ValueError: Unknown environment or quality, steps that are no whole episodes or more than
            the replay buffer holds, or a fraction outside (0, 1).
    """
    steps = default_steps(env, quality) if steps is None else steps
    num_episodes = _count_episodes(env, steps)
    if (Path(out) / CARD_NAME).exists() and not overwrite:
        # The writer says the same, but only after a minute of training.
        raise DataError(f"{out} already holds a dataset; choose another or pass overwrite=True.")
    if quality == "medium-replay":
        replay = training.replay_of(
            env,
            "medium",
            num_steps=steps,
            seed=seed,
            settings=settings,
            prey=prey,
            progress=progress,
        )
        source = _replay_source(env, replay, num_episodes, seed, prey)
    else:
        components = _components(env, quality, expert_fraction, policy_folder)
        source = _rollout_source(env, quality, components, num_episodes, seed, prey)
    length, done = steps // num_episodes, 0
    with DatasetWriter(out, source.spec, overwrite=overwrite) as writer:
        for episodes, behaviour_ids in source.parts:
            _write(writer, episodes, behaviour_ids)
            done += len(episodes.rewards)
            progress(f"{env} {quality}: {done * length} of {steps} joint steps")
    return Path(out)


def reroll(
    env: str,
    quality: str,
    seeds: Sequence[int] | NDArray[Any],
    *,
    noise_seed: int = 0,
    expert_fraction: float = EXPERT_FRACTION,
    policy_folder: str | Path | None = None,
    prey: PreySource = None,
) -> NDArray[Any]:
    """Return the behaviour's team returns, (len(seeds),), from the start states of the seeds.

    The behaviour acts as it did for the dataset, with the collection noise; a mixture gives each
    of its policies its share of the start states.

    Raises:
        ValueError: As `make_dataset`, and for medium-replay, which no single policy made: compare
            with the dataset's mean there.
    """
    if quality == "medium-replay":
        raise ValueError(
            "medium-replay was made by every policy of a training run, so there is none to roll "
            "out again; compare with the mean return of the dataset."
        )
    components = _components(env, quality, expert_fraction, policy_folder)
    generator = np.random.default_rng([noise_seed, 1])
    ids = _assign(components, len(seeds), generator)
    with policies.one_torch_thread():
        return evaluate_policy(
            env, _act_fn(components, ids, generator), seeds, prey=prey, max_worlds=len(seeds)
        )


def _components(
    env: str, quality: str, expert_fraction: float, folder: str | Path | None
) -> tuple[Component, ...]:
    registry.info(env)
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {QUALITIES}, got {quality!r}.")
    if quality == "random":
        return (Component("random", 1.0, None),)
    shares = {quality: 1.0}
    if quality == "medium-expert":
        if not 0.0 < expert_fraction < 1.0:
            raise ValueError(
                f"expert_fraction must lie between 0 and 1, got {expert_fraction}; use the quality "
                "medium or expert for one policy alone."
            )
        shares = {"medium": 1.0 - expert_fraction, "expert": expert_fraction}
    return tuple(
        Component(name, share, policies.load_policy(policies.path(f"{env}/{name}", folder)))
        for name, share in shares.items()
    )


def _assign(
    components: Sequence[Component], num_episodes: int, generator: np.random.Generator
) -> NDArray[Any]:
    """Return which component acts in each episode: exact shares in a random order."""
    shares = np.cumsum([component.fraction for component in components])
    ends = np.round(shares * num_episodes).astype(int)
    ids = np.searchsorted(ends, np.arange(num_episodes), side="right")
    return generator.permutation(ids)


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


def _replay_source(env: str, replay: Replay, num_episodes: int, seed: int, prey: Prey) -> _Source:
    described = {
        **_describe(replay.policy),
        "kind": "newest episodes of the replay buffer of a run up to medium level",
        "buffer_episodes": len(replay.episodes.rewards),
    }
    spec = _spec(env, "medium-replay", {"training": seed}, {"medium-replay": described}, {}, prey)
    newest = Episodes(*(field[-num_episodes:] for field in replay.episodes))
    return _Source(spec, iter([(newest, np.zeros(num_episodes, np.int64))]))


def _rollout_source(
    env: str,
    quality: str,
    components: Sequence[Component],
    num_episodes: int,
    seed: int,
    prey: Prey,
) -> _Source:
    behaviour = {component.quality: _describe(component.policy) for component in components}
    mixture = {component.quality: component.fraction for component in components}
    if len(components) == 1:
        mixture = {}
    spec = _spec(env, quality, {"rollout": seed}, behaviour, mixture, prey)
    return _Source(spec, _roll(env, components, num_episodes, seed, prey))


def _roll(
    env: str, components: Sequence[Component], num_episodes: int, seed: int, prey: PreySource
) -> Iterator[tuple[Episodes, NDArray[Any]]]:
    """Yield the episodes of a dataset in parts, with the component that acted in each."""
    generator = np.random.default_rng([seed, 0])
    ids = _assign(components, num_episodes, generator)
    starts = generator.integers(2**62, size=num_episodes)
    for first in range(0, num_episodes, _WORLDS):
        part = slice(first, first + _WORLDS)
        with policies.one_torch_thread():
            act_fn = _act_fn(components, ids[part], generator)
            episodes = rollout(env, act_fn, seeds=starts[part], prey=prey, max_worlds=_WORLDS)
        yield episodes, ids[part]


def _write(writer: DatasetWriter, episodes: Episodes, behaviour_ids: NDArray[Any]) -> None:
    names = writer.spec.agent_ids
    num_episodes, num_steps = episodes.rewards.shape[:2]
    never = np.zeros((num_episodes, num_steps), bool)
    writer.write_batch(
        {name: episodes.obs[:, :, i] for i, name in enumerate(names)},
        {name: episodes.actions[:, :, i] for i, name in enumerate(names)},
        {name: episodes.rewards[:, :, i] for i, name in enumerate(names)},
        dict.fromkeys(names, never),
        truncated=np.ones(num_episodes, bool),
        behaviour_id=behaviour_ids if writer.spec.has_behaviour_id else None,
    )


def _spec(
    env: str,
    quality: str,
    seeds: Mapping[str, int],
    behaviour: Mapping[str, Any],
    mixture: Mapping[str, float],
    prey: Prey,
) -> DatasetSpec:
    info = registry.info(env)
    acting_prey = load_prey(env, prey)
    opponents = {} if acting_prey is None else {"prey": describe_prey(acting_prey)}
    return DatasetSpec(
        dataset_id=f"{env}/{quality}",
        quality=quality,
        env=env,
        env_kwargs={} if prey is None else {"prey": os.fspath(prey)},
        agents=tuple(
            AgentSpec(a.name, a.obs_dim, a.action_dim, a.action_low, a.action_high)
            for a in info.agents
        ),
        team_return=info.team_return,
        time_limit=info.time_limit,
        behaviour={"policies": list(behaviour), **behaviour, **opponents},
        seeds=dict(seeds),
        references=dict(info.references),
        mixture=dict(mixture),
        package_versions=_package_versions(),
        has_behaviour_id=bool(mixture),
    )


def _describe(policy: Policy | None) -> dict[str, Any]:
    if policy is None:
        return {"algorithm": "uniform random actions"}
    return {**policy.metadata, "weights_sha256": policies.weights_hash(policy.actor)}


def _package_versions() -> dict[str, str]:
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            logger.debug("%s is not installed; the card does not name it.", package)
    return installed


def _count_episodes(env: str, steps: int) -> int:
    length = registry.info(env).time_limit
    if steps < length or steps % length:
        raise ValueError(
            f"steps must be whole episodes, a positive multiple of {length}, got {steps}; the "
            f"next one is {-(-max(steps, 1) // length) * length}."
        )
    return steps // length
