"""What may be asked of `rollout`: defaults, names, and checks before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rllib_om2p.behaviour.components import check_quality, dataset_id
from rllib_om2p.behaviour.masac_recipes import MASAC_RECIPES, MASACRecipe
from rllib_om2p.behaviour.recipes import RECIPES, REPLAY_STEPS, MATD3Recipe
from rllib_om2p.behaviour.rollout_particles import Prey
from rllib_om2p.envs import registry
from rllib_om2p.envs.prey import PREY_AS_AGENT, PreySource, load_prey

Recipe = TypeVar("Recipe", MATD3Recipe, MASACRecipe)


def dataset_name(
    env: str,
    quality: str,
    *,
    observations: str | None = None,
    continuous_actions: bool = True,
    prey: Prey = None,
    **others: Any,
) -> str:
    """Return the dataset_id that `make_dataset` writes with these settings."""
    return dataset_id(env, quality, settings_of(observations, continuous_actions, prey))


def default_steps(env: str, quality: str) -> int:
    """Return the joint steps of a dataset when none are asked for."""
    if quality != "medium-replay":
        return 100_000
    if env in MASAC_RECIPES:
        return MASAC_RECIPES[env].replay_steps
    return REPLAY_STEPS.get(env, 100_000)


def default_expert_fraction(env: str) -> float:
    """Return the fraction of expert transitions in medium-expert when none is asked for.

    For particles that of the papers' released code, for robots that of OMIGA's datasets.
    """
    return 0.1 if env in RECIPES else 0.5


def is_by_teams(env: str, env_kwargs: Mapping[str, Any]) -> bool:
    """Return whether teams play, agent by agent, and no recipe's policies with arrays."""
    return not (env in MASAC_RECIPES or env in RECIPES) or bool(
        env_kwargs.keys() & {"continuous_actions", "prey"}
    )


def settings_of(
    observations: str | None, continuous_actions: bool, prey: PreySource
) -> dict[str, Any]:
    """Return the settings that differ from the environment's own; not who moves the prey."""
    kwargs: dict[str, Any] = {}
    if observations is not None:
        kwargs["observations"] = observations
    if not continuous_actions:
        kwargs["continuous_actions"] = False
    if prey == PREY_AS_AGENT:
        kwargs["prey"] = PREY_AS_AGENT
    return kwargs


def check_settings(
    env: str,
    quality: str,
    env_kwargs: Mapping[str, Any],
    *,
    prey: PreySource,
    workers: int,
    expert_fraction: float | None,
    policy_folder: str | Path | None,
    settings: MATD3Recipe | MASACRecipe | None = None,
) -> None:
    """Raise a ValueError for a quality or a setting that the environment does not have.

    A setting that another quality or another environment would use is refused as well.
    """
    registry.info(env, **env_kwargs)
    check_quality(quality)
    load_prey(env, prey)
    if expert_fraction is not None and quality != "medium-expert":
        raise ValueError(
            f"expert_fraction belongs to medium-expert, got expert_fraction={expert_fraction} "
            f"with quality={quality!r}; leave it out."
        )
    _check_policy_folder(env, quality, policy_folder)
    if settings is not None and quality != "medium-replay":
        raise ValueError(
            f"settings is the recipe of medium-replay's run, got settings={settings!r} with "
            f"quality={quality!r}; leave it out."
        )
    if env in MASAC_RECIPES:
        checked_recipe(env, settings, MASACRecipe)
    else:
        checked_recipe(env, settings, MATD3Recipe)
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}.")
    if workers and env not in MASAC_RECIPES:
        raise ValueError(f"{env} is played in this process, got workers={workers}; leave it out.")


def _check_policy_folder(env: str, quality: str, folder: str | Path | None) -> None:
    unused = {
        "random": "nobody's policy acts",
        "medium-replay": "the policies of its own run act",
    }
    why = unused.get(quality)
    if env not in MASAC_RECIPES and env not in RECIPES:
        why = "a scripted team acts"
    if folder is not None and why is not None:
        raise ValueError(
            f"policy_folder (--policies) has no effect on {quality} of {env}, where {why}; got "
            f"{str(folder)!r}; leave it out."
        )


def checked_recipe(env: str, settings: object, kind: type[Recipe]) -> Recipe | None:
    """Return the settings of an environment's run.

    Raises:
        ValueError: They are no recipe of its algorithm.
    """
    if settings is None or isinstance(settings, kind):
        return settings
    raise ValueError(
        f"settings of {env} must be a {kind.__name__}, got {settings!r}; begin with the "
        "environment's own recipe and dataclasses.replace what differs."
    )


def check_steps(env: str, steps: int) -> None:
    """Raise a ValueError for steps that are no whole episodes."""
    info = registry.info(env)
    length = 1 if info.can_terminate else info.time_limit
    if steps < length or steps % length:
        raise ValueError(
            f"steps must be whole episodes, a positive multiple of {length}, got {steps}; the "
            f"next one is {-(-max(steps, 1) // length) * length}."
        )
