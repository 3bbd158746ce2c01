"""Datasets from behaviour policies, by one call for every environment; must not know RLlib.

The particle tasks are rolled out by the vectorised simulator (`rollout_particles`), the robots in
blocks over any number of processes (`rollout_robots`), and what has discrete actions or a prey that
is an agent by teams (`rollout_teams`).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from rllib_om2p.behaviour import rollout_particles, rollout_teams
from rllib_om2p.behaviour.components import (
    QUALITIES,
    Component,
    Source,
    find_components,
)
from rllib_om2p.behaviour.masac_recipes import MASAC_RECIPES, MASACRecipe
from rllib_om2p.behaviour.recipes import MATD3Recipe
from rllib_om2p.behaviour.requests import (
    check_settings,
    check_steps,
    default_expert_fraction,
    default_steps,
    is_by_teams,
    settings_of,
)
from rllib_om2p.behaviour.rollout_particles import Prey
from rllib_om2p.behaviour.training import Progress
from rllib_om2p.data.schema import CARD_NAME, DataError
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.disk import local_path
from rllib_om2p.envs import registry
from rllib_om2p.envs.prey import PreySource

__all__ = ["QUALITIES", "make_dataset", "reroll"]

logger = logging.getLogger(__name__)

_TRAINING_NAME = ".training"

# A robot's dataset is made in minutes to hours and goes on after the last whole file.
_ROBOT_SIZES = {"rows_per_file": 200_000}


class _Request(NamedTuple):
    """The arguments of `make_dataset`, defaults filled in."""

    env: str
    quality: str
    steps: int
    out: Path
    seed: int
    expert_fraction: float
    policy_folder: str | Path | None
    settings: Any
    prey: Prey
    env_kwargs: dict[str, Any]
    workers: int
    progress: Progress


def make_dataset(
    env: str,
    quality: str,
    *,
    out: str | Path,
    steps: int | None = None,
    seed: int = 0,
    expert_fraction: float | None = None,
    policy_folder: str | Path | None = None,
    settings: MATD3Recipe | MASACRecipe | None = None,
    prey: Prey = None,
    observations: str | None = None,
    continuous_actions: bool = True,
    workers: int = 0,
    overwrite: bool = False,
    progress: Progress = logger.info,
) -> Path:
    """Write a dataset of whole episodes; the same arguments give the same bytes on one machine.

    A robot's dataset that was interrupted goes on where it stopped when the call is repeated.

    Args:
        env: A name with behaviour policies.
        quality: One of `QUALITIES`. "medium-replay" trains a model-free run up to medium level and
            writes the newest episodes of its replay buffer; the others roll policies out.
        out: Folder of the dataset.
        steps: Joint steps, a multiple of the environment's time limit; where episodes can end
            early, about that many. By default 100,000, and for medium-replay the length of the
            papers' set, for robots that whose mean return is near the papers'.
        seed: Of start states and noise; for medium-replay of the whole training run.
        expert_fraction: Fraction of expert transitions in medium-expert; by default 0.1 for
            particles and 0.5 for robots, as in the papers' data, and 0.5 elsewhere.
        policy_folder: Where `make_behaviour` wrote; the project's own policies if None.
        settings: Recipe of medium-replay's run in place of the environment's.
        prey: File of the prey; the project's own if None. The card names it. "agent" records the
            project's own as an agent, with the predators' noise.
        observations: What robots' agents see, "local" or "full"; as in the papers if None.
        continuous_actions: False for a particle task whose actions are five forces: the nearest
            one to the policy's, now and then a random one.
        workers: Ray tasks that play a robot's episodes; 0 plays in this process. It does not
            change the data.
        overwrite: Replace a dataset that is already there.
        progress: Receives a line now and then.

    Returns:
        The folder of the dataset.

    Raises:
        ValueError: Unknown environment or quality, steps that are no whole episodes or more than
            the replay buffer holds, a fraction outside (0, 1), or a setting that the environment
            does not have or the quality does not use.
    """
    out = local_path(out)
    env_kwargs = settings_of(observations, continuous_actions, prey)
    check_settings(
        env,
        quality,
        env_kwargs,
        prey=prey,
        workers=workers,
        expert_fraction=expert_fraction,
        policy_folder=policy_folder,
        settings=settings,
    )
    steps = default_steps(env, quality) if steps is None else steps
    check_steps(env, steps)
    if (out / CARD_NAME).exists() and not overwrite:
        # The writer says the same, but only after a minute of training.
        raise DataError(f"{out} already holds a dataset; choose another or pass overwrite=True.")
    request = _Request(
        env,
        quality,
        steps,
        out,
        seed,
        default_expert_fraction(env) if expert_fraction is None else expert_fraction,
        policy_folder,
        settings,
        prey,
        env_kwargs,
        workers,
        progress,
    )
    is_robot = env in MASAC_RECIPES
    source = _source(request)
    sizes = _ROBOT_SIZES if is_robot else {}
    with DatasetWriter(out, source.spec, overwrite=overwrite, resume=is_robot, **sizes) as writer:
        if writer.num_episodes:
            progress(f"{env} {quality}: going on after {writer.num_episodes} episodes")
        done = 0
        for part in source.parts(writer.num_episodes):
            part.write(writer)
            done += part.num_steps
            progress(f"{env} {quality}: {done} of {steps} joint steps")
    shutil.rmtree(out / _TRAINING_NAME, ignore_errors=True)
    return out


def reroll(
    env: str,
    quality: str,
    seeds: Sequence[int] | NDArray[Any],
    *,
    noise_seed: int = 0,
    expert_fraction: float | None = None,
    policy_folder: str | Path | None = None,
    prey: PreySource = None,
    observations: str | None = None,
    continuous_actions: bool = True,
    workers: int = 0,
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
    env_kwargs = settings_of(observations, continuous_actions, prey)
    check_settings(
        env,
        quality,
        env_kwargs,
        prey=prey,
        workers=workers,
        expert_fraction=expert_fraction,
        policy_folder=policy_folder,
    )
    fraction = default_expert_fraction(env) if expert_fraction is None else expert_fraction
    if is_by_teams(env, env_kwargs):
        teams = rollout_teams.find_teams(env, quality, fraction, policy_folder, env_kwargs)
        return rollout_teams.roll_returns(
            env, teams, seeds, noise_seed=noise_seed, env_kwargs=env_kwargs, prey=prey
        )
    components = find_components(env, quality, fraction, policy_folder)
    if env in MASAC_RECIPES:
        from rllib_om2p.behaviour import rollout_robots

        return rollout_robots.roll_returns(
            env,
            components,
            seeds,
            noise_seed=noise_seed,
            env_kwargs=env_kwargs,
            workers=workers,
        )
    return rollout_particles.roll_returns(env, components, seeds, noise_seed=noise_seed, prey=prey)


def _source(request: _Request) -> Source:
    if is_by_teams(request.env, request.env_kwargs):
        return _team_source(request)
    return _robot_source(request) if request.env in MASAC_RECIPES else _particle_source(request)


def _team_source(request: _Request) -> Source:
    teams = rollout_teams.find_teams(
        request.env,
        request.quality,
        request.expert_fraction,
        request.policy_folder,
        request.env_kwargs,
    )
    return rollout_teams.rollout_source(
        request.env,
        request.quality,
        teams,
        request.steps,
        seed=request.seed,
        env_kwargs=request.env_kwargs,
        prey=request.prey,
    )


def _particle_source(request: _Request) -> Source:
    num_episodes = request.steps // registry.info(request.env).time_limit
    if request.quality == "medium-replay":
        return rollout_particles.replay_source(
            request.env,
            request.steps,
            num_episodes,
            seed=request.seed,
            settings=request.settings,
            prey=request.prey,
            progress=request.progress,
        )
    return rollout_particles.rollout_source(
        request.env,
        request.quality,
        _components(request),
        num_episodes,
        seed=request.seed,
        prey=request.prey,
    )


def _robot_source(request: _Request) -> Source:
    from rllib_om2p.behaviour import rollout_robots  # needs mujoco

    if request.quality == "medium-replay":
        return rollout_robots.replay_source(
            request.env,
            request.steps,
            folder=request.out / _TRAINING_NAME,
            seed=request.seed,
            settings=request.settings,
            env_kwargs=request.env_kwargs,
            progress=request.progress,
        )
    return rollout_robots.rollout_source(
        request.env,
        request.quality,
        _components(request),
        request.steps,
        seed=request.seed,
        env_kwargs=request.env_kwargs,
        workers=request.workers,
    )


def _components(request: _Request) -> tuple[Component, ...]:
    return find_components(
        request.env, request.quality, request.expert_fraction, request.policy_folder
    )
