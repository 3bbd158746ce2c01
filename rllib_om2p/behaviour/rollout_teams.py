"""Episodes of teams in any environment for datasets, agent by agent; must not know RLlib.

For what the arrays of `rollout_particles` cannot hold: discrete actions, agents that see different
things, legal actions, episodes of different lengths.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.behaviour import policies
from rllib_om2p.behaviour.components import (
    Part,
    Source,
    assign,
    dataset_spec,
    opponents,
    prey_settings,
    shares,
)
from rllib_om2p.behaviour.foraging import RANDOM_SHARES, ForagingTeam
from rllib_om2p.behaviour.teams import ParticleTeam, TeamBehaviour, UniformTeam
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.envs import registry
from rllib_om2p.envs.info import EnvInfo
from rllib_om2p.envs.prey import PREY, PreySource, load_prey
from rllib_om2p.envs.worlds import evaluate_team, make_worlds, worlds_together

Array = NDArray[Any]

# Episodes that measure how long a component's are, where they end early.
_LENGTH_EPISODES = 50


class TeamComponent(NamedTuple):
    """One team of a behaviour and its share of the steps."""

    quality: str
    fraction: float
    team: TeamBehaviour


def find_teams(
    env: str,
    quality: str,
    expert_fraction: float,
    folder: str | Path | None,
    env_kwargs: Mapping[str, Any],
) -> tuple[TeamComponent, ...]:
    """Return the teams behind a quality.

    Args:
        env: A registered name.
        quality: One of `QUALITIES` but medium-replay.
        expert_fraction: Fraction of expert transitions in medium-expert.
        folder: Where `make_behaviour` wrote; the project's own policies if None.
        env_kwargs: Settings of the environment.

    Raises:
        ValueError: Something is unknown, the fraction is outside (0, 1), or there is no such
            quality, since nobody learns here.
    """
    info = registry.info(env, **env_kwargs)
    if quality == "medium-replay":
        raise ValueError(
            f"There is no medium-replay of {env} with {dict(env_kwargs) or 'a scripted team'}: no "
            "training run fills a replay buffer; make random, medium, medium-expert or expert."
        )

    def team(part: str) -> TeamBehaviour:
        if part == "random":
            return UniformTeam(info)
        if env.startswith("lbf/"):
            return ForagingTeam(_num_foods(info), RANDOM_SHARES[part])
        policy = policies.load_policy(policies.path(f"{env}/{part}", folder))
        prey = load_prey(env) if PREY in info.agent_ids else None
        is_continuous = info.agents[0].num_actions is None
        return ParticleTeam(policy, prey, continuous_actions=is_continuous)

    parts = shares(quality, expert_fraction)
    return tuple(TeamComponent(part, share, team(part)) for part, share in parts.items())


def rollout_source(
    env: str,
    quality: str,
    components: Sequence[TeamComponent],
    steps: int,
    *,
    seed: int,
    env_kwargs: Mapping[str, Any],
    prey: PreySource,
) -> Source:
    """Return rollouts of the components: the steps, or about those where episodes end early."""
    spec = dataset_spec(
        env,
        quality,
        seeds={"rollout": seed},
        behaviour={component.quality: component.team.describe() for component in components},
        fractions={component.quality: component.fraction for component in components},
        env_kwargs={**env_kwargs, **prey_settings(env, prey)},
        others=opponents(env, prey),
    )
    settings = _with_prey(env_kwargs, prey)
    info = registry.info(env, **settings)
    per_step = _episodes_per_step(env, components, seed, settings)
    num_episodes = max(1, round(steps * sum(per_step)))
    generator = np.random.default_rng([seed, 0])
    ids = _assign(per_step, num_episodes, generator)
    starts = generator.integers(2**31, size=num_episodes)
    at_once = worlds_together(env)

    def parts(first: int) -> Iterator[Part]:
        for begin in range(first, num_episodes, at_once):
            block = slice(begin, begin + at_once)
            act = _team_act(components, ids[block], np.random.default_rng([seed, 1, begin]))
            yield _part(_play(env, info, act, starts[block], settings), ids[block])

    return Source(spec, parts)


def roll_returns(
    env: str,
    components: Sequence[TeamComponent],
    starts: Sequence[int] | Array,
    *,
    noise_seed: int,
    env_kwargs: Mapping[str, Any],
    prey: PreySource,
) -> Array:
    """Return the components' team returns from the start states of the seeds."""
    settings = _with_prey(env_kwargs, prey)
    generator = np.random.default_rng([noise_seed, 2])
    ids = np.zeros(len(starts), np.int64)
    if len(components) > 1:
        per_step = _episodes_per_step(env, components, noise_seed, settings)
        ids = _assign(per_step, len(starts), generator)
    act = _team_act(components, ids, generator)
    with policies.one_torch_thread():
        return evaluate_team(env, act, starts, max_worlds=len(starts), **settings)


def _with_prey(env_kwargs: Mapping[str, Any], prey: PreySource) -> dict[str, Any]:
    """Return the settings that worlds are made with: the prey itself, not what a card says."""
    return dict(env_kwargs) if prey is None else {**env_kwargs, "prey": prey}


class _Played(NamedTuple):
    """Episodes of N worlds, stepped until the last is over; T steps."""

    obs: dict[str, list[Any]]  # per agent T + 1 observations of N worlds
    actions: dict[str, list[Array]]  # per agent T
    rewards: Array  # (T, N, agents)
    terminateds: Array  # (T, N, agents)
    lengths: Array  # (N,) steps until the episode was over


def _play(
    env: str,
    info: EnvInfo,
    act: Callable[[Mapping[str, Any]], Mapping[str, Array]],
    starts: Array,
    env_kwargs: Mapping[str, Any],
) -> _Played:
    worlds = make_worlds(env, len(starts), **env_kwargs)
    seen, over = worlds.reset(starts), np.zeros(len(starts), bool)
    obs: dict[str, list[Any]] = {name: [seen[name]] for name in info.agent_ids}
    actions: dict[str, list[Array]] = {name: [] for name in info.agent_ids}
    rewards, terminateds = [], []
    lengths = np.zeros(len(starts), np.int64)
    with policies.one_torch_thread():
        while not over.all():
            acted = act(seen)
            lengths += ~over
            seen, earned, over, ended = worlds.step(acted)
            rewards.append(earned)
            terminateds.append(ended)
            for name in info.agent_ids:
                obs[name].append(seen[name])
                actions[name].append(acted[name])
    return _Played(obs, actions, np.array(rewards), np.array(terminateds), lengths)


def _part(played: _Played, behaviour_ids: Array) -> Part:
    def write(writer: DatasetWriter) -> None:
        # Neighbours of equal length are one batch: all of them where nothing ends early.
        first = 0
        for length, group in itertools.groupby(played.lengths):
            stop = first + len([*group])
            _write_batch(writer, played, slice(first, stop), int(length), behaviour_ids)
            first = stop

    return Part(int(played.lengths.sum()), write)


def _write_batch(
    writer: DatasetWriter, played: _Played, who: slice, length: int, behaviour_ids: Array
) -> None:
    """Write the episodes of some worlds, all of the same length."""
    spec = writer.spec

    def episodes(steps: Sequence[Any]) -> Array:
        return np.stack([step[who] for step in steps], axis=1)  # (worlds, steps, ...)

    def seen(name: str, part: str) -> Array:
        views = played.obs[name][: length + 1]
        return episodes([view[part] if isinstance(view, Mapping) else view for view in views])

    def by_agent(array: Array) -> dict[str, Array]:
        own = np.moveaxis(array[:length, who], 0, 1)
        return {name: own[..., index] for index, name in enumerate(spec.agent_ids)}

    terminateds = by_agent(played.terminateds)
    is_terminated = np.logical_or.reduce([flags.any(axis=1) for flags in terminateds.values()])
    masks = {a.name: seen(a.name, "action_mask") > 0 for a in spec.agents if spec.has_action_masks}
    writer.write_batch(
        {name: seen(name, "observations") for name in spec.agent_ids},
        {name: episodes(played.actions[name][:length]) for name in spec.agent_ids},
        by_agent(played.rewards),
        terminateds,
        truncated=~is_terminated,
        action_masks=masks or None,
        behaviour_id=behaviour_ids[who] if spec.has_behaviour_id else None,
    )


def _team_act(
    components: Sequence[TeamComponent], ids: Array, generator: np.random.Generator
) -> Callable[[Mapping[str, Any]], dict[str, Array]]:
    """Return the policy of worlds in which the component `ids` (N,) act."""
    acting = [(component.team, np.flatnonzero(ids == i)) for i, component in enumerate(components)]

    def act(obs: Mapping[str, Any]) -> dict[str, Array]:
        actions: dict[str, Array] = {}
        for team, mine in acting:
            if not len(mine):
                continue
            for name, own in team.act(_of_worlds(obs, mine), generator).items():
                everyone = actions.setdefault(name, np.zeros((len(ids), *own.shape[1:]), own.dtype))
                everyone[mine] = own
        return actions

    return act


def _of_worlds(obs: Mapping[str, Any], mine: Array) -> dict[str, Any]:
    return {
        name: _of_worlds(seen, mine) if isinstance(seen, Mapping) else seen[mine]
        for name, seen in obs.items()
    }


def _episodes_per_step(
    env: str, components: Sequence[TeamComponent], seed: int, env_kwargs: Mapping[str, Any]
) -> list[float]:
    """Return each component's episodes per joint step of the dataset."""
    info = registry.info(env, **env_kwargs)
    if not info.can_terminate:
        return [component.fraction / info.time_limit for component in components]
    found = []
    for index, component in enumerate(components):
        generator = np.random.default_rng([seed, 3, index])
        starts = generator.integers(2**31, size=_LENGTH_EPISODES)
        act = _team_act([component], np.zeros(len(starts), int), generator)
        played = _play(env, info, act, starts, env_kwargs)
        found.append(component.fraction / float(played.lengths.mean()))
    return found


def _assign(per_step: Sequence[float], num_episodes: int, generator: np.random.Generator) -> Array:
    return assign([share / sum(per_step) for share in per_step], num_episodes, generator)


def _num_foods(info: EnvInfo) -> int:
    """Return the foods that a forager's observation tells of: three numbers each, as of agents."""
    return info.agents[0].obs_dim // 3 - len(info.agents)
