"""One resumable run of MASAC in several worlds: checks, kept policies, learning curve.

Knows the simulator, not how datasets are written. A run lives in a folder of its own: `state.pt`
with all that the next step depends on (written whole or not at all), so that an interrupted run
goes on bit for bit, and per quality the policy that came closest to its target so far.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rllib_om2p.behaviour.masac import MASAC
from rllib_om2p.behaviour.masac_networks import StateActFn, TanhGaussianTeam, stochastic
from rllib_om2p.behaviour.masac_recipes import MASACRecipe, masac_recipe
from rllib_om2p.behaviour.masac_replay import StreamBuffer
from rllib_om2p.behaviour.policies import Policy
from rllib_om2p.disk import write_whole
from rllib_om2p.envs.mamujoco import ROBOTS
from rllib_om2p.envs.mamujoco_worlds import MAMuJoCoWorlds

logger = logging.getLogger(__name__)

Array = NDArray[Any]
STATE_NAME = "state.pt"

# Start states of the evaluations that choose the policies; datasets and results use others.
_CHECK_SEEDS_FROM = 1_000_000_000

# Relative distance to a target from which on a policy is measured over many episodes.
_CLOSE = 0.15


class Played(NamedTuple):
    """Whole episodes, in the order of their seeds."""

    returns: Array  # (E,), of the team
    lengths: Array  # (E,), in steps


def play(worlds: MAMuJoCoWorlds, act: StateActFn, seeds: Array) -> Played:
    """Play one episode from the start state of each seed, a whole number of times all worlds."""
    parts = []
    for first in range(0, len(seeds), len(worlds.envs)):
        states = worlds.reset(seeds[first : first + len(worlds.envs)])
        returns, lengths = np.zeros((2, len(states)))
        while worlds.live.any():
            lengths += worlds.live
            states, rewards, *_ = worlds.step(act(states))
            returns += rewards
        parts.append(Played(returns, lengths))
    return Played(*(np.concatenate(field) for field in zip(*parts, strict=True)))


class MASACTraining:
    """A run of a recipe: the same seed gives the same run, step by step, on one machine."""

    def __init__(self, env: str, *, seed: int, settings: MASACRecipe | None = None) -> None:
        self.env, self.seed = env, seed
        self.settings = settings = settings or masac_recipe(env)
        task = env.partition("/")[2]
        seeds = np.random.SeedSequence(seed).generate_state(4)
        self._starts, self._noise, self._batches = (np.random.default_rng(s) for s in seeds[:3])
        self._worlds = MAMuJoCoWorlds(task, settings.num_worlds)
        self._check_worlds = MAMuJoCoWorlds(task, settings.check_episodes)
        num_seen = ROBOTS[task].num_proprioceptive
        features = [list(map(int, f)) for f in self._worlds.local_features.values()]
        if settings.actors_see == "state":
            features = [list(range(num_seen)) for _ in features]
        joint_dim = len(self._worlds.actuators)
        self.network: dict[str, Any] = {
            "features": features,
            "action_dim": joint_dim // len(features),
            "hidden": list(settings.actor_hidden),
        }
        self.learner = MASAC(
            features,
            joint_dim // len(features),
            num_seen,
            settings=settings,
            generator=torch.Generator().manual_seed(int(seeds[3])),
        )
        self.buffer = StreamBuffer(
            settings.buffer_steps // settings.num_worlds,
            settings.num_worlds,
            state_dim=self._worlds.states.shape[1],
            action_dim=joint_dim,
        )
        self.num_steps = 0
        self.cpu_seconds = 0.0
        self.curve: list[dict[str, Any]] = []
        self.kept: dict[str, dict[str, Any]] = {}
        self._worlds.reset(self._draw_starts(settings.num_worlds))

    @property
    def is_checked(self) -> bool:
        """Whether the last step was followed by a check."""
        return bool(self.curve) and self.curve[-1]["joint_steps"] == self.num_steps

    def run_until_check(self, autosave: Callable[[], None] = lambda: None) -> None:
        """Step until the next multiple of `check_every` steps; call `autosave` between steps."""
        every = self.settings.check_every
        goal = (self.num_steps // every + 1) * every
        while self.num_steps < goal:
            self._step()
            # Never at the goal: whoever went on from there would skip its check.
            if self.num_steps < goal:
                autosave()

    def _step(self) -> None:
        start = time.process_time()
        settings, worlds = self.settings, self._worlds
        states = worlds.states.copy()
        actions = self._explore(states)
        next_states, rewards, terminateds, truncateds = worlds.step(actions)
        self.buffer.add(
            states=states,
            actions=actions,
            rewards=rewards,
            next_states=next_states,
            terminateds=terminateds,
            truncateds=truncateds,
        )
        for world in np.flatnonzero(~worlds.live):
            worlds.reset_world(int(world), int(self._draw_starts(1)[0]))
        self.num_steps += settings.num_worlds
        if self.num_steps > settings.uniform_steps:
            self.learner.update(self.buffer.sample(self._batches, settings.batch_size))
        self.cpu_seconds += time.process_time() - start

    def _explore(self, states: Array) -> Array:
        if self.num_steps < self.settings.uniform_steps:
            shape = (len(states), len(self._worlds.actuators))
            return self._noise.uniform(-1.0, 1.0, shape).astype(np.float32)
        return stochastic(self.learner.actor, self._noise)(states)

    def _draw_starts(self, count: int) -> Array:
        return self._starts.integers(2**31, size=count)

    def measure(self, num_episodes: int) -> Played:
        """Return team returns with the collection noise; the same starts and noise each time."""
        seeds = _CHECK_SEEDS_FROM + np.arange(num_episodes)
        act = stochastic(self.learner.actor, np.random.default_rng(_CHECK_SEEDS_FROM))
        return play(self._check_worlds, act, seeds)

    def check(self) -> dict[str, Any]:
        """Measure the present policy, keep it where it comes closest to a target.

        Returns:
            The new point of the learning curve.
        """
        found = self.measure(self.settings.check_episodes)
        for quality in self.open_targets():
            distance = self._distance(quality, found)
            if distance < self._kept_distance(quality):
                # Few episodes can be lucky, but far from the target that does not matter.
                close = distance < _CLOSE
                self._keep(quality, self.measure(self.settings.keep_episodes) if close else found)
        point = {
            "joint_steps": self.num_steps,
            "cpu_seconds": round(self.cpu_seconds, 1),
            "return": round(float(found.returns.mean()), 2),
            "alpha": round(float(self.learner.log_alpha.detach().exp()), 4),
        }
        self.curve.append(point)
        return point

    def open_targets(self) -> list[str]:
        """Return the qualities whose search has not ended, lowest target first.

        It ends when a policy is within the tolerance, for this quality or for a higher one.
        """
        targets = self.settings.targets
        ordered = sorted(targets, key=targets.__getitem__)
        tolerance = self.settings.tolerance
        done = [q for q in ordered if self._kept_distance(q) <= tolerance]
        return ordered[ordered.index(done[-1]) + 1 :] if done else ordered

    def policy(self, quality: str) -> Policy:
        """Return the policy that is kept for a quality, and where it comes from."""
        kept = self.kept[quality]
        actor = TanhGaussianTeam(**self.network)
        actor.load_state_dict(kept["weights"])
        metadata = {
            "env": self.env,
            "algorithm": "MASAC, one tanh-Gaussian actor per agent, central twin critic",
            "hyperparameters": dataclasses.asdict(self.settings),
            "network_class": "TanhGaussianTeam",
            "network": self.network,
            "seed": self.seed,
            "quality": quality,
            "collection_noise": "drawn from the actors' own distributions",
            **{name: value for name, value in kept.items() if name != "weights"},
        }
        return Policy(actor.requires_grad_(False), metadata)

    def _distance(self, quality: str, played: Played) -> float:
        """Return how far the mean return is from a quality's target, relative to it."""
        return abs(float(played.returns.mean()) / self.settings.targets[quality] - 1)

    def _kept_distance(self, quality: str) -> float:
        kept = self.kept.get(quality)
        if kept is None:
            return float("inf")
        return abs(kept["measured"]["return"] / self.settings.targets[quality] - 1)

    def _keep(self, quality: str, played: Played) -> None:
        if self._distance(quality, played) >= self._kept_distance(quality):
            return
        self.kept[quality] = {
            "joint_steps": self.num_steps,
            "measured": {
                "return": round(float(played.returns.mean()), 2),
                "return_sd": round(float(played.returns.std()), 2),
                "length": round(float(played.lengths.mean()), 1),
                "episodes": len(played.returns),
            },
            "weights": copy.deepcopy(self.learner.actor.state_dict()),
        }

    def save(self, folder: Path) -> None:
        """Write all that the next step depends on, whole or not at all."""
        generators = (self._starts, self._noise, self._batches)
        state = {
            "run": {"env": self.env, "seed": self.seed, **dataclasses.asdict(self.settings)},
            "learner": self.learner.state_dict(),
            "buffer": self.buffer.state_dict(),
            "worlds": self._worlds.snapshot(),
            "generators": [generator.bit_generator.state for generator in generators],
            "num_steps": self.num_steps,
            "cpu_seconds": self.cpu_seconds,
            "curve": self.curve,
            "kept": self.kept,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / STATE_NAME, lambda file: torch.save(state, file))

    def load(self, folder: Path) -> None:
        """Go on from a saved run.

        Raises:
            ValueError: The folder holds the run of another environment, seed or recipe.
        """
        state = torch.load(folder / STATE_NAME, weights_only=False)
        own = {"env": self.env, "seed": self.seed, **dataclasses.asdict(self.settings)}
        differing = _differences(own, state["run"])
        if differing:
            raise ValueError(
                f"{folder} holds another run: {differing} (given, there); choose another folder."
            )
        self.learner.load_state_dict(state["learner"])
        self.buffer.load_state_dict(state["buffer"])
        self._worlds.restore(state["worlds"])
        generators = (self._starts, self._noise, self._batches)
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        self.num_steps, self.cpu_seconds = state["num_steps"], state["cpu_seconds"]
        self.curve, self.kept = state["curve"], state["kept"]


def _differences(own: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    # A longer run, or another choice among its policies, does not change the steps made so far.
    free = {
        "total_steps",
        "targets",
        "tolerance",
        "keep_episodes",
        "replay_steps",
        "replay_return",
        "random_length",
    }
    keys = (own.keys() | saved.keys()) - free
    return {k: (own.get(k), saved.get(k)) for k in sorted(keys) if own.get(k) != saved.get(k)}
