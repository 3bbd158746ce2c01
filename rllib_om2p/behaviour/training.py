"""MATD3 in vectorised worlds: the model-free run that leaves policies and a true replay buffer.

Knows the simulator, not how datasets are written. Axes: (worlds, agents, features).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rllib_om2p.behaviour import policies
from rllib_om2p.behaviour.curves import CurvePoint, save_curve
from rllib_om2p.behaviour.matd3 import MATD3
from rllib_om2p.behaviour.policies import Policy
from rllib_om2p.behaviour.recipes import MATD3Recipe, recipe
from rllib_om2p.behaviour.replay import ReplayBuffer
from rllib_om2p.disk import local_path
from rllib_om2p.envs import registry
from rllib_om2p.envs.prey import PreySource, describe_prey
from rllib_om2p.envs.rollout import Episodes, evaluate_policy
from rllib_om2p.envs.vector_mpe import VectorMPE

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]

# Start states of the evaluations that choose the policies; datasets and results use others.
_CHECK_SEEDS_FROM = 1_000_000_000


class Replay(NamedTuple):
    """The whole episodes of a replay buffer, oldest first, and the policy of that moment."""

    episodes: Episodes
    policy: Policy


class Training:
    """One run of a recipe: the same seed gives the same run, step by step, on one machine.

    Attributes:
        prey: The policy of the prey, None in a task without one.
        curve: What `train_and_measure` measured so far.
    """

    def __init__(
        self,
        env: str,
        *,
        seed: int,
        settings: MATD3Recipe | None = None,
        prey: PreySource = None,
    ) -> None:
        self.env, self.seed = env, seed
        self.settings = settings or recipe(env)
        info = registry.info(env)
        worlds_seed, noise_seed, torch_seed, batch_seed = np.random.SeedSequence(
            seed
        ).generate_state(4)
        self.learner = MATD3(env, self.settings, torch.Generator().manual_seed(int(torch_seed)))
        self._worlds = VectorMPE(env, self.settings.num_worlds, seed=int(worlds_seed), prey=prey)
        self.prey = self._worlds.prey
        self.curve: list[CurvePoint] = []
        self._noise = np.random.default_rng(noise_seed)
        self._batches = np.random.default_rng(batch_seed)
        self._time_limit = info.time_limit
        round_steps = info.time_limit * self.settings.num_worlds
        self.buffer = ReplayBuffer(
            self.settings.buffer_steps // round_steps,
            info.time_limit,
            self.settings.num_worlds,
            obs_shape=(len(info.agents), info.agents[0].obs_dim),
        )
        self.num_steps = 0

    def train_and_measure(self, progress: Progress = logger.info) -> Policy:
        """Train until the next evaluation and return the policy with what it made there."""
        episodes = self.settings.check_episodes
        with policies.one_torch_thread():
            self.run_until_check()
            policy = self.policy()
            seeds = range(_CHECK_SEEDS_FROM, _CHECK_SEEDS_FROM + episodes)
            act = policy.noisy(np.random.default_rng(_CHECK_SEEDS_FROM))
            returns = evaluate_policy(self.env, act, seeds, prey=self.prey)
        value = float(returns.mean())
        self.curve.append(CurvePoint(self.num_steps, round(value, 2)))
        progress(
            f"model-free run: {self.num_steps} joint steps, return {value:.1f} with the "
            "collection noise"
        )
        measured = {"return": round(value, 2), "episodes": episodes}
        return Policy(policy.actor, {**policy.metadata, "measured": measured})

    def run_until_check(self) -> None:
        """Run whole rounds until the next multiple of `check_every` steps is reached."""
        every = self.settings.check_every
        goal = (self.num_steps // every + 1) * every
        while self.num_steps < goal:
            self.run_round()

    def run_round(self) -> None:
        """Run one episode in every world, with one update after each step of all worlds."""
        obs = self._worlds.reset()
        self.buffer.start_round(obs)
        for _ in range(self._time_limit):
            actions = self._explore(obs)
            obs, rewards = self._worlds.step(actions)
            self.buffer.add(actions, rewards, obs)
            self.num_steps += self.settings.num_worlds
            if self.num_steps > self.settings.uniform_steps:
                batch = self.buffer.sample(self._batches, self.settings.batch_size)
                self.learner.update(batch)

    def policy(self) -> Policy:
        """Return the present actor and where it comes from."""
        metadata = {
            "env": self.env,
            "algorithm": "MATD3, shared actor, central twin critic",
            "hyperparameters": dataclasses.asdict(self.settings),
            "network": {
                **self.learner.network,
                "hidden": list(self.settings.actor_hidden),
            },
            "seed": self.seed,
            "joint_steps": self.num_steps,
            "collection_noise": self.settings.noise_end,
        }
        if self.prey is not None:
            metadata["prey"] = describe_prey(self.prey)
        return Policy(copy.deepcopy(self.learner.actor).requires_grad_(False), metadata)

    def _explore(self, obs: NDArray[Any]) -> NDArray[Any]:
        settings = self.settings
        shape = (*obs.shape[:2], 2)
        if self.num_steps < settings.uniform_steps:
            return self._noise.uniform(-1.0, 1.0, shape).astype(np.float32)
        part = min(self.num_steps / settings.noise_steps, 1.0)
        scale = settings.noise_start + part * (settings.noise_end - settings.noise_start)
        with torch.no_grad():
            actions = self.learner.actor(torch.from_numpy(obs)).numpy()
        noise = self._noise.standard_normal(shape, dtype=np.float32)
        return np.clip(actions + np.float32(scale) * noise, -1.0, 1.0)


def make_behaviour(
    env: str,
    out: str | Path,
    *,
    seed: int = 0,
    settings: MATD3Recipe | None = None,
    prey: PreySource = None,
    progress: Progress = logger.info,
) -> dict[str, Path]:
    """Train the behaviour policies of an environment; write one file per quality and the curve.

    A quality's policy is the first one whose return, measured WITH the collection noise, is
    within the recipe's tolerance of its target.

    Args:
        env: A name with a recipe.
        out: Folder for the files.
        seed: Of everything: the same seed gives the same files on one machine.
        settings: In place of the environment's recipe.
        prey: Who moves the prey; the project's own policy if None.
        progress: Receives one line per evaluation.

    Returns:
        The file of each quality.

    Raises:
        ValueError: The run ended before every target was reached.
    """
    training = Training(env, seed=seed, settings=settings, prey=prey)
    folder = local_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    for quality, policy in _reached(training, list(training.settings.targets), progress):
        files[quality] = folder / policies.file_name(f"{env}/{quality}")
        policies.save_policy(files[quality], policy.actor, policy.metadata)
        progress(f"wrote {files[quality]}")
    curve = save_curve(folder, env, seed, training.curve, training.settings.targets)
    progress(f"wrote {curve}")
    return files


def require_room(buffer_steps: int, steps: int) -> None:
    """Refuse to ask a replay buffer for more than it can hold, before it is filled.

    Raises:
        ValueError: It is asked for more.
    """
    if steps > buffer_steps:
        raise ValueError(
            f"The replay buffer holds {buffer_steps} joint steps, got steps={steps}; ask for fewer."
        )


def replay_of(
    env: str,
    quality: str,
    *,
    num_steps: int,
    seed: int = 0,
    settings: MATD3Recipe | None = None,
    prey: PreySource = None,
    progress: Progress = logger.info,
) -> Replay:
    """Train up to a quality and return what the replay buffer holds at that moment.

    With the seed of `make_behaviour` this repeats its run. A run that reaches the quality before
    it has made `num_steps` joint steps goes on until it has.

    Raises:
        ValueError: The buffer, which holds whole rounds, has no room for `num_steps`, or the run
            ended before the target was reached.
    """
    training = Training(env, seed=seed, settings=settings, prey=prey)
    require_room(training.buffer.room, num_steps)
    _, policy = next(_reached(training, [quality], progress))
    while training.num_steps < num_steps:
        policy = training.train_and_measure(progress)
    return Replay(training.buffer.episodes(), policy)


def _reached(
    training: Training, qualities: Sequence[str], progress: Progress
) -> Iterator[tuple[str, Policy]]:
    """Train, and yield each quality with its policy when its target is reached."""
    settings = training.settings
    wanted = {quality: settings.targets[quality] for quality in qualities}
    while wanted and training.num_steps < settings.total_steps:
        policy = training.train_and_measure(progress)
        value = policy.metadata["measured"]["return"]
        for quality, target in list(wanted.items()):
            if abs(value - target) <= settings.tolerance * abs(target):
                del wanted[quality]
                yield quality, Policy(policy.actor, {**policy.metadata, "quality": quality})
    if wanted:
        raise ValueError(
            f"No policy came within {settings.tolerance:.0%} of {wanted} in "
            f"{training.num_steps} steps; train longer or evaluate more often."
        )
