"""MATD3 in vectorised worlds: the model-free run that leaves policies and a true replay buffer.

One shared actor on (obs, one-hot agent), one central twin critic on all observations and actions,
the team's reward. Fujimoto et al. 2018 (TD3) with the joint critic of Lowe et al. 2017 (MADDPG).
Knows the simulator, not how datasets are written. Axes: (batch, agents, features).
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
from torch import Tensor, nn

from rllib_om2p.behaviour import policies
from rllib_om2p.behaviour.curves import CurvePoint, save_curve
from rllib_om2p.behaviour.networks import Actor, TwinCritic, initialise
from rllib_om2p.behaviour.policies import Policy
from rllib_om2p.behaviour.recipes import MATD3Recipe, recipe
from rllib_om2p.behaviour.replay import Batch, ReplayBuffer
from rllib_om2p.envs import registry
from rllib_om2p.envs.prey import PreySource, describe_prey
from rllib_om2p.envs.rollout import Episodes, evaluate_policy
from rllib_om2p.envs.vector_mpe import VectorMPE
from rllib_om2p.ops.bellman import aggregate, polyak_update, td_loss, td_target

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]

# Start states of the evaluations that choose the policies; datasets and results use others.
_CHECK_SEEDS_FROM = 1_000_000_000


class Replay(NamedTuple):
    """The whole episodes of a replay buffer, oldest first, and the policy of that moment."""

    episodes: Episodes
    policy: Policy


class MATD3:
    """The networks, their optimisers and one update."""

    def __init__(self, env: str, settings: MATD3Recipe, generator: torch.Generator) -> None:
        info = registry.info(env)
        first = info.agents[0]
        self.settings = settings
        self.network = {
            "num_agents": len(info.agents),
            "obs_dim": first.obs_dim,
            "action_dim": first.action_dim,
        }
        self.actor = Actor(**self.network, hidden=settings.actor_hidden)
        self.critic = TwinCritic(**self.network, hidden=settings.critic_hidden)
        for net in (self.actor, self.critic):
            initialise(net, generator)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self._actor_adam = _adam(self.actor, settings)
        self._critic_adam = _adam(self.critic, settings)
        self._generator = generator
        self._team_rewards = info.team_rewards
        self._num_updates = 0

    def update(self, batch: Batch) -> None:
        """Take one critic step and, every `policy_delay` times, one actor step and Polyak."""
        rewards = self._team_rewards(batch.rewards) * self.settings.reward_scale
        obs, actions, next_obs = (
            torch.from_numpy(field) for field in (batch.obs, batch.actions, batch.next_obs)
        )
        self._update_critic(obs, actions, torch.from_numpy(rewards), next_obs)
        self._num_updates += 1
        if self._num_updates % self.settings.policy_delay == 0:
            self._update_actor(obs)
            for target, source in (
                (self.target_actor, self.actor),
                (self.target_critic, self.critic),
            ):
                polyak_update([*target.parameters()], [*source.parameters()], self.settings.tau)

    def _update_critic(
        self, obs: Tensor, actions: Tensor, rewards: Tensor, next_obs: Tensor
    ) -> None:
        settings = self.settings
        with torch.no_grad():
            next_actions = self.target_actor(next_obs)
            noise = torch.randn(next_actions.shape, generator=self._generator)
            noise = noise * settings.target_noise
            noise.clamp_(-settings.target_noise_clip, settings.target_noise_clip)
            next_actions = (next_actions + noise).clamp_(-1.0, 1.0)
            next_q = aggregate(self.target_critic(next_obs, next_actions), "min")
            # No task here terminates; the time limit bootstraps.
            never = torch.zeros_like(next_q)
            target = td_target(rewards, next_q, never, gamma=settings.gamma)
        loss = td_loss(self.critic(obs, actions), target)
        _descend(loss, self.critic, self._critic_adam, settings.max_grad_norm)

    def _update_actor(self, obs: Tensor) -> None:
        logits = self.actor.logits(obs)
        loss = -self.critic.first_value(obs, torch.tanh(logits)).mean()
        # On the logits, as in MADDPG: it keeps the tanh from saturating early.
        loss = loss + self.settings.action_penalty * logits.square().mean()
        _descend(loss, self.actor, self._actor_adam, self.settings.max_grad_norm)


class Training:
    """One run of a recipe: the same seed gives the same run, step by step, on one machine.

    Attributes:
        prey: The policy of the prey, None in a task without one.
        curve: What `_check` measured so far.
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
    Path(out).mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    for quality, policy in _reached(training, list(training.settings.targets), progress):
        files[quality] = Path(out) / policies.file_name(f"{env}/{quality}")
        policies.save_policy(files[quality], policy.actor, policy.metadata)
        progress(f"wrote {files[quality]}")
    curve = save_curve(Path(out), env, seed, training.curve, training.settings.targets)
    progress(f"wrote {curve}")
    return files


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
        ValueError: The buffer holds fewer than `num_steps`, or the run ended before the target was
            reached.
    """
    training = Training(env, seed=seed, settings=settings, prey=prey)
    if num_steps > training.settings.buffer_steps:
        raise ValueError(
            f"The replay buffer holds {training.settings.buffer_steps} joint steps, got steps="
            f"{num_steps}; ask for fewer."
        )
    _, policy = next(_reached(training, [quality], progress))
    while training.num_steps < num_steps:
        policy = _check(training, progress)
    return Replay(training.buffer.episodes(), policy)


def _reached(
    training: Training, qualities: Sequence[str], progress: Progress
) -> Iterator[tuple[str, Policy]]:
    """Train, and yield each quality with its policy when its target is reached."""
    settings = training.settings
    wanted = {quality: settings.targets[quality] for quality in qualities}
    while wanted and training.num_steps < settings.total_steps:
        policy = _check(training, progress)
        value = policy.metadata["measured"]["return"]
        for quality, target in list(wanted.items()):
            if abs(value - target) <= settings.tolerance * target:
                del wanted[quality]
                yield quality, Policy(policy.actor, {**policy.metadata, "quality": quality})
    if wanted:
        raise ValueError(
            f"No policy came within {settings.tolerance:.0%} of {wanted} in "
            f"{training.num_steps} steps; train longer or evaluate more often."
        )


def _check(training: Training, progress: Progress) -> Policy:
    """Train until the next evaluation and return the policy, measured."""
    with policies.one_torch_thread():
        training.run_until_check()
        policy = training.policy()
        value = _measure(policy, training.settings.check_episodes, training.prey)
    training.curve.append(CurvePoint(training.num_steps, round(value, 2)))
    progress(
        f"model-free run: {training.num_steps} joint steps, return {value:.1f} with the "
        "collection noise"
    )
    measured = {"return": round(value, 2), "episodes": training.settings.check_episodes}
    return Policy(policy.actor, {**policy.metadata, "measured": measured})


def _measure(policy: Policy, num_episodes: int, prey: PreySource) -> float:
    seeds = range(_CHECK_SEEDS_FROM, _CHECK_SEEDS_FROM + num_episodes)
    act = policy.noisy(np.random.default_rng(_CHECK_SEEDS_FROM))
    return float(evaluate_policy(policy.metadata["env"], act, seeds, prey=prey).mean())


def _descend(loss: Tensor, net: nn.Module, adam: torch.optim.Adam, max_norm: float) -> None:
    adam.zero_grad()
    loss.backward(inputs=list(net.parameters()))
    nn.utils.clip_grad_norm_(net.parameters(), max_norm)
    adam.step()


def _adam(net: nn.Module, settings: MATD3Recipe) -> torch.optim.Adam:
    return torch.optim.Adam(net.parameters(), lr=settings.learning_rate, fused=True)
