"""Who acts in which episode of a dataset, and what its card says of them; knows no simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.behaviour import policies
from rllib_om2p.behaviour.policies import Policy
from rllib_om2p.data.schema import AgentSpec, DatasetSpec
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.envs import registry
from rllib_om2p.envs.prey import (
    PREY_AS_AGENT,
    PreySource,
    cite_prey,
    describe_prey,
    load_prey,
)
from rllib_om2p.evaluation.provenance import versions

QUALITIES = ("random", "medium-replay", "medium", "medium-expert", "expert")

_PACKAGES = (
    "rllib-om2p",
    "numpy",
    "torch",
    "mpe2",
    "pettingzoo",
    "gymnasium",
    "gymnasium-robotics",
    "mujoco",
)
_FAMILY_PACKAGES: Mapping[str, tuple[str, ...]] = {"lbf": ("lbforaging",)}


class Component(NamedTuple):
    """One policy of a behaviour and its share of the steps; no policy means uniform actions."""

    quality: str
    fraction: float
    policy: Policy | None


class Part(NamedTuple):
    """Some episodes of a dataset in the making."""

    num_steps: int
    write: Callable[[DatasetWriter], None]


class Source(NamedTuple):
    """What a dataset says about itself, and its episodes from the given one on, in order."""

    spec: DatasetSpec
    parts: Callable[[int], Iterator[Part]]


def find_components(
    env: str, quality: str, expert_fraction: float, folder: str | Path | None
) -> tuple[Component, ...]:
    """Return the policies behind a quality.

    Args:
        env: A registered name.
        quality: One of `QUALITIES` but medium-replay, which no single policy makes.
        expert_fraction: Fraction of expert transitions in medium-expert.
        folder: Where `make_behaviour` wrote; the project's own policies if None.

    Raises:
        ValueError: Something is unknown, or the fraction is outside (0, 1).
    """
    registry.info(env)
    parts = shares(quality, expert_fraction)
    if quality == "random":
        return (Component("random", 1.0, None),)
    return tuple(
        Component(name, share, policies.load_policy(policies.path(f"{env}/{name}", folder)))
        for name, share in parts.items()
    )


def shares(quality: str, expert_fraction: float) -> dict[str, float]:
    """Return the qualities that a quality is made of and their fractions of the steps.

    Raises:
        ValueError: The quality is unknown, or the fraction is outside (0, 1).
    """
    check_quality(quality)
    if quality != "medium-expert":
        return {quality: 1.0}
    if not 0.0 < expert_fraction < 1.0:
        raise ValueError(
            f"expert_fraction must lie between 0 and 1, got {expert_fraction}; use the quality "
            "medium or expert for one policy alone."
        )
    return {"medium": 1.0 - expert_fraction, "expert": expert_fraction}


def check_quality(quality: str) -> None:
    """Raise a ValueError for a quality that there is not."""
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {QUALITIES}, got {quality!r}.")


def dataset_id(env: str, quality: str, env_kwargs: Mapping[str, Any]) -> str:
    """Return the name of a dataset: environment, quality and what its agents are."""
    kinds = {
        "discrete": env_kwargs.get("continuous_actions") is False,
        "prey-agent": env_kwargs.get("prey") == PREY_AS_AGENT,
        **{seen: env_kwargs.get("observations") == seen for seen in ("local", "full")},
    }
    return "-".join([f"{env}/{quality}", *(kind for kind, holds in kinds.items() if holds)])


def assign(
    fractions: Sequence[float], num_episodes: int, generator: np.random.Generator
) -> NDArray[Any]:
    """Return which component acts in each episode: exact shares in a random order."""
    ends = np.round(np.cumsum(fractions) * num_episodes).astype(int)
    ids = np.searchsorted(ends, np.arange(num_episodes), side="right")
    return generator.permutation(ids)


def dataset_spec(
    env: str,
    quality: str,
    *,
    seeds: Mapping[str, int],
    behaviour: Mapping[str, Any],
    fractions: Mapping[str, float] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
) -> DatasetSpec:
    """Return what the card says.

    Args:
        env: A registered name.
        quality: Of the behaviour.
        seeds: That made the data.
        behaviour: What is known of each policy, by its quality.
        fractions: Of the steps, by quality, in a mixture.
        env_kwargs: Settings of the environment.
        others: What else belongs to the behaviour, such as an opponent.
    """
    env_kwargs = dict(env_kwargs or {})
    info = registry.info(env, **env_kwargs)
    mixture = dict(fractions) if fractions and len(fractions) > 1 else {}
    return DatasetSpec(
        dataset_id=dataset_id(env, quality, env_kwargs),
        quality=quality,
        env=env,
        env_kwargs=env_kwargs,
        agents=tuple(
            AgentSpec(a.name, a.obs_dim, a.action_dim, a.action_low, a.action_high, a.num_actions)
            for a in info.agents
        ),
        team_return=info.team_return,
        time_limit=info.time_limit,
        state_dim=info.state_dim,
        behaviour={"policies": list(behaviour), **behaviour, **(others or {})},
        seeds=dict(seeds),
        references=dict(info.references),
        mixture=mixture,
        package_versions=versions((*_PACKAGES, *_FAMILY_PACKAGES.get(env.partition("/")[0], ()))),
        has_action_masks=info.has_action_masks,
        has_behaviour_id=bool(mixture),
    )


def prey_settings(env: str, prey: PreySource) -> dict[str, Any]:
    """Return what a card keeps among the environment's settings of who moves the prey."""
    if prey is None:
        return {}
    return {"prey": prey if prey == PREY_AS_AGENT else cite_prey(env, prey)}


def opponents(env: str, prey: PreySource) -> dict[str, Any]:
    """Return what a card says about a prey that is part of the environment."""
    acting = load_prey(env, prey)
    return {} if acting is None else {"prey": describe_prey(acting)}


def describe(policy: Policy | None) -> dict[str, Any]:
    """Return what a card says about a policy."""
    if policy is None:
        return {"algorithm": "uniform random actions"}
    return {**policy.metadata, "weights_sha256": policies.weights_hash(policy.actor)}
