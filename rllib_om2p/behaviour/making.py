"""Behaviour policies by one call for every environment; knows which recipe is whose."""

from __future__ import annotations

import logging
from pathlib import Path

from rllib_om2p.behaviour import training
from rllib_om2p.behaviour.masac_recipes import MASAC_RECIPES, MASACRecipe
from rllib_om2p.behaviour.recipes import MATD3Recipe
from rllib_om2p.behaviour.requests import checked_recipe
from rllib_om2p.behaviour.training import Progress
from rllib_om2p.envs import registry
from rllib_om2p.envs.prey import PREY_AS_AGENT, PreySource, load_prey

logger = logging.getLogger(__name__)


def make_behaviour(
    env: str,
    out: str | Path,
    *,
    seed: int = 0,
    settings: MATD3Recipe | MASACRecipe | None = None,
    prey: PreySource = None,
    minutes: float | None = None,
    progress: Progress = logger.info,
) -> dict[str, Path]:
    """Train an environment's behaviour policies; write one file per quality and the curve.

    Particles: MATD3, minutes; a quality's policy is the first within the recipe's tolerance of its
    target. Robots: MASAC, minutes to hours; it is the one that comes closest, and a run that was
    interrupted goes on when the call is repeated.

    Args:
        env: A name with a recipe.
        out: Folder for the files.
        seed: Of everything: the same seed gives the same files on one machine.
        settings: In place of the environment's recipe.
        prey: Who moves the prey; the project's own policy if None.
        minutes: For robots: stop after this time and keep the state for the next call.
        progress: Receives one line per evaluation.

    Returns:
        The file of each quality.

    Raises:
        ValueError: Unknown environment, a setting that it does not have, another algorithm's
            recipe, or, for particles, a run that ended before every target was reached.
    """
    registry.info(env)
    if prey == PREY_AS_AGENT:
        raise ValueError(
            f"behaviour policies of {env} are the predators', got prey={prey!r}; leave it out. "
            "make-prey trains the prey's, and make-dataset --prey agent records both."
        )
    load_prey(env, prey)
    if env in MASAC_RECIPES:
        from rllib_om2p.behaviour.masac_run import make_masac_behaviour  # needs mujoco

        own = checked_recipe(env, settings, MASACRecipe)
        return make_masac_behaviour(
            env, out, seed=seed, minutes=minutes, settings=own, progress=progress
        )
    if minutes is not None:
        raise ValueError(f"{env} is trained in one go, got minutes={minutes:g}; leave it out.")
    recipe = checked_recipe(env, settings, MATD3Recipe)
    return training.make_behaviour(
        env, out, seed=seed, settings=recipe, prey=prey, progress=progress
    )
