"""Runs of MASAC from beginning to end, or to the next interruption; knows no dataset format.

A run keeps its state in a hidden folder and saves it now and then, so that the same call continues
what was interrupted, and makes the steps that an uninterrupted run would have made. The state is a
pickle: go on only with runs of your own.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rllib_om2p.behaviour import policies
from rllib_om2p.behaviour.curves import CurvePoint, save_curve
from rllib_om2p.behaviour.masac_recipes import MASACRecipe
from rllib_om2p.behaviour.masac_replay import StateEpisode
from rllib_om2p.behaviour.masac_training import STATE_NAME, MASACTraining
from rllib_om2p.behaviour.policies import Policy
from rllib_om2p.behaviour.training import Progress, require_room
from rllib_om2p.disk import local_path

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SAVES = 180.0


class StateReplay(NamedTuple):
    """The newest whole episodes of a replay buffer, oldest first, and the policy of that moment."""

    episodes: list[StateEpisode]
    policy: Policy
    num_held: int  # whole episodes in the buffer


def make_masac_behaviour(
    env: str,
    out: str | Path,
    *,
    seed: int = 0,
    minutes: float | None = None,
    settings: MASACRecipe | None = None,
    progress: Progress = logger.info,
) -> dict[str, Path]:
    """Train the behaviour policies of a robot; write one file per quality and the learning curve.

    A quality's policy is the one whose return, measured with the collection noise, comes closest
    to its target; its file is replaced while the run finds better ones.

    Args:
        env: A name with a recipe.
        out: Folder for the files; the state of an unfinished run lies in a hidden folder there.
        seed: Of everything: the same seed gives the same files on one machine.
        minutes: Stop after this time and keep the state; the next call goes on. None runs to the
            end, which is every target reached or the recipe's last step.
        settings: In place of the environment's recipe.
        progress: Receives one line per evaluation.

    Returns:
        The file of each quality that has one.

    Raises:
        ValueError: The hidden folder holds a run of another recipe.
    """
    out = local_path(out)
    folder = out / f".training-{env.replace('/', '-')}-{seed}"
    training = MASACTraining(env, seed=seed, settings=settings)
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    written: dict[str, int] = {}

    def write_new() -> None:
        for quality, kept in training.kept.items():
            if written.get(quality) != kept["joint_steps"]:
                written[quality] = kept["joint_steps"]
                policy = training.policy(quality)
                files[quality] = out / policies.file_name(f"{env}/{quality}")
                policies.save_policy(files[quality], policy.actor, policy.metadata)

    for _ in _checks(training, folder, minutes, progress):
        write_new()
    write_new()  # What a call that was killed had found.
    points = [CurvePoint(point["joint_steps"], point["return"]) for point in training.curve]
    save_curve(out, env, seed, points, training.settings.targets)
    if _is_over(training):
        shutil.rmtree(folder)
        for quality in training.open_targets():
            progress(f"{quality}: the target {training.settings.targets[quality]} was not reached")
    else:
        progress(f"stopped after {minutes:g} minutes; the same command goes on from {folder}")
    return files


def masac_replay_of(
    env: str,
    quality: str,
    steps: int,
    *,
    folder: Path,
    seed: int = 0,
    settings: MASACRecipe | None = None,
    progress: Progress = logger.info,
) -> StateReplay:
    """Train up to a quality and return the newest steps of the replay buffer at that moment.

    The moment is when the search for the quality's policy ends or, in recipes with a
    `replay_return`, when the newest steps have that mean return. With the seed of
    `make_masac_behaviour` this repeats its run.

    Args:
        env: A name with a recipe.
        quality: One of the recipe's targets.
        steps: Joint steps to return, about.
        folder: Where the run's state lies; an interrupted call continues there.
        seed: Of everything.
        settings: In place of the environment's recipe.
        progress: Receives one line per evaluation.

    Raises:
        ValueError: The run ended before the target was reached, or the buffer holds fewer steps.
    """
    training = MASACTraining(env, seed=seed, settings=settings)
    require_room(training.settings.buffer_steps, steps)
    for _ in _checks(training, folder, None, progress):
        if _replay_is_due(training, quality, steps):
            # A dataset may be interrupted while it is written; the same call then takes it up here.
            training.save(folder)
            break
    if not _replay_is_due(training, quality, steps):
        wanted = training.settings.replay_return
        missed = (
            f"No policy came within {training.settings.tolerance:.0%} of {quality}"
            if wanted is None
            else f"The newest {steps} steps never had a mean return of {wanted:g}"
        )
        raise ValueError(
            f"{missed} in {training.num_steps} steps; train longer or evaluate more often."
        )
    held = list(training.buffer.episodes())
    return StateReplay(_newest(held, steps), training.policy(quality), len(held))


def _replay_is_due(training: MASACTraining, quality: str, steps: int) -> bool:
    wanted = training.settings.replay_return
    if wanted is None:
        return quality not in training.open_targets()
    held = list(training.buffer.episodes())
    if sum(len(episode.rewards) for episode in held) < steps:
        return False
    returns = [episode.rewards.sum() for episode in _newest(held, steps)]
    return float(np.mean(returns)) >= wanted


def _newest(episodes: list[StateEpisode], steps: int) -> list[StateEpisode]:
    """Return the fewest newest episodes that together hold the steps.

    Raises:
        ValueError: All together have fewer.
    """
    held = np.cumsum([len(episode.rewards) for episode in reversed(episodes)])
    if not len(held) or held[-1] < steps:
        raise ValueError(
            f"The replay buffer holds {held[-1] if len(held) else 0} joint steps of whole "
            f"episodes, got steps={steps}; ask for fewer."
        )
    return episodes[len(episodes) - 1 - int(np.searchsorted(held, steps)) :]


def _checks(
    training: MASACTraining, folder: Path, minutes: float | None, progress: Progress
) -> Iterator[None]:
    """Train from check to check, also from a saved state on, until the run or the time is over.

    Whoever saved the state right after a check may have stopped there: that check comes again.
    """
    if (folder / STATE_NAME).exists():
        training.load(folder)
        progress(f"going on after {training.num_steps} joint steps, from {folder}")
        if training.is_checked:
            yield
    start = last_save = time.monotonic()

    def autosave() -> None:
        nonlocal last_save
        if time.monotonic() - last_save > _SECONDS_BETWEEN_SAVES:
            training.save(folder)
            last_save = time.monotonic()

    with policies.one_torch_thread():
        while not _is_over(training):
            if minutes is not None and time.monotonic() - start > 60 * minutes:
                break
            training.run_until_check(autosave)
            point = training.check()
            kept = ", ".join(
                f"{quality} {entry['measured']['return']:.0f}"
                for quality, entry in training.kept.items()
            )
            progress(
                f"{training.env}: {training.num_steps} joint steps, return {point['return']:.1f} "
                f"with the collection noise; kept: {kept or 'none'}"
            )
            yield
        training.save(folder)


def _is_over(training: MASACTraining) -> bool:
    return not training.open_targets() or training.num_steps >= training.settings.total_steps
