"""How the project's own prey is made: self-play by gradients through a differentiable simulator.

Three predators and the prey learn at the same time, each by climbing its own reward. A touch is
softened to a sigmoid of the distance, so that it has a gradient. The prey's loss for leaving the
arena is UNBOUNDED (the tasks' own is bounded by 10): else it flees for ever and is never caught.
The predators are thrown away, and the prey of World is not taught to eat. Knows the simulator, not
MATD3. Axes: (worlds, agents, features).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rllib_om2p.behaviour.networks import Actor, initialise, mlp
from rllib_om2p.behaviour.policies import one_torch_thread
from rllib_om2p.behaviour.prey_simulator import State, TorchPursuit
from rllib_om2p.envs import registry
from rllib_om2p.envs.paper_constants import ARENA, DISTANCE_WEIGHT
from rllib_om2p.envs.prey import own_prey_file, save_prey

logger = logging.getLogger(__name__)

_LAYERS = ("fc1", "fc2", "fc3")


@dataclass(frozen=True)
class PreyRecipe:
    """Self-play of three predators and a prey.

    Attributes:
        num_iterations: Gradient steps of both sides; each plays one episode in every world. The
            prey's strength grows with it.
        num_worlds: Worlds per gradient step.
        hidden: Sizes of the ReLU layers of both sides.
        learning_rate: Adam's at the start; it falls to 0 along a cosine.
        max_grad_norm: Both gradients are clipped to this norm.
        touch_width: Distance over which a touch is softened.
        boundary_weight: Prey's loss per unit of a coordinate beyond 0.9, without a bound.
        action_noise: Standard deviation of both sides' noise while they learn.
    """

    num_iterations: int
    num_worlds: int = 256
    hidden: tuple[int, int] = (64, 64)
    learning_rate: float = 3e-3
    max_grad_norm: float = 1.0
    touch_width: float = 0.05
    boundary_weight: float = 10.0
    action_noise: float = 0.1


PREY_RECIPES: Mapping[str, PreyRecipe] = {
    # Iterations at which the MATD3 recipe reaches about the return that it reaches against the
    # papers' prey (datasets/behaviour/README.md).
    "mpe/simple_tag": PreyRecipe(num_iterations=200),
    "mpe/simple_world": PreyRecipe(num_iterations=90),
}


class _Rewards(NamedTuple):
    predators: Tensor  # scalar, mean over worlds
    prey: Tensor


class SelfPlay:
    """The two sides, their optimisers and one gradient step of both."""

    def __init__(self, env: str, settings: PreyRecipe, seed: int) -> None:
        info = registry.info(env)
        starts_seed, torch_seed = np.random.SeedSequence(seed).generate_state(2)
        self.settings = settings
        self._starts = np.random.default_rng(starts_seed)
        self._generator = torch.Generator().manual_seed(int(torch_seed))
        self._simulator = TorchPursuit(env)
        self._num_steps = info.time_limit
        task = self._simulator.task
        self.prey = mlp(task.prey_obs_dim, settings.hidden, 2)
        self.predators = Actor(len(task.agents), task.obs_dim, 2, settings.hidden)
        self._sides = (self.predators, self.prey)
        for net in self._sides:
            initialise(net, self._generator)
        self._adams = [
            torch.optim.Adam(net.parameters(), settings.learning_rate, fused=True)
            for net in self._sides
        ]
        self._schedules = [
            torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.num_iterations)
            for adam in self._adams
        ]

    def iterate(self) -> tuple[float, float]:
        """Play one episode in every world, take one step of both sides; return their rewards."""
        rewards = self._play()
        # Each side's gradient is of its own reward alone, at the same moment.
        for net, reward in zip(self._sides, rewards, strict=True):
            net.zero_grad()
            (-reward).backward(inputs=list(net.parameters()), retain_graph=True)
        for net, adam, schedule in zip(self._sides, self._adams, self._schedules, strict=True):
            nn.utils.clip_grad_norm_(net.parameters(), self.settings.max_grad_norm)
            adam.step()
            schedule.step()
        return rewards.predators.item(), rewards.prey.item()

    def prey_weights(self) -> dict[str, np.ndarray]:
        """Return the prey as `envs.prey.save_prey` takes it."""
        linear = [layer for layer in self.prey if isinstance(layer, nn.Linear)]
        return {
            f"{name}.{kind}": getattr(layer, kind).detach().numpy()
            for name, layer in zip(_LAYERS, linear, strict=True)
            for kind in ("weight", "bias")
        }

    def _play(self) -> _Rewards:
        state = self._simulator.start(self._starts, self.settings.num_worlds)
        total = _Rewards(torch.zeros(()), torch.zeros(()))
        for _ in range(self._num_steps):
            seen = self._simulator.observe(state)
            actions = torch.cat(
                (self.predators(seen.predators), torch.tanh(self.prey(seen.prey))[:, None]), dim=1
            )
            noise = torch.randn(actions.shape, generator=self._generator)
            actions = (actions + self.settings.action_noise * noise).clamp(-1.0, 1.0)
            state = self._simulator.step(state, actions)
            rewards = self._rewards(state)
            total = _Rewards(total.predators + rewards.predators, total.prey + rewards.prey)
        return total

    def _rewards(self, state: State) -> _Rewards:
        """Return both sides' rewards of one step, with softened touches."""
        simulator, settings = self._simulator, self.settings
        prey = simulator.num_predators
        distances = simulator.prey_distances(state.positions)
        contact = simulator.sizes[:prey] + simulator.sizes[prey]
        touches = torch.sigmoid((contact - distances) / settings.touch_width)
        chase = simulator.task.hit * touches.sum(dim=1) - DISTANCE_WEIGHT * distances.sum(dim=1)
        beyond = (state.positions[:, prey].abs() - ARENA).relu().sum(dim=-1)
        return _Rewards(chase.mean(), (-chase - settings.boundary_weight * beyond).mean())


def make_prey(
    env: str,
    out: str | Path,
    *,
    seed: int = 0,
    settings: PreyRecipe | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Path:
    """Train a prey and write it; the same seed gives the same file on one machine.

    Args:
        env: A name with a prey.
        out: Folder of the file.
        seed: Of everything.
        settings: In place of the environment's recipe.
        progress: Receives a line now and then.

    Raises:
        ValueError: The environment has no prey.
    """
    if env not in PREY_RECIPES:
        raise ValueError(f"No prey recipe for {env!r}; there is one for {[*PREY_RECIPES]}.")
    settings = settings or PREY_RECIPES[env]
    with one_torch_thread():
        play = SelfPlay(env, settings, seed)
        for iteration in range(1, settings.num_iterations + 1):
            predators, prey = play.iterate()
            if iteration % 20 == 0 or iteration == settings.num_iterations:
                progress(
                    f"self-play: {iteration} of {settings.num_iterations}, softened return of the "
                    f"predators {predators:.1f}, of the prey {prey:.1f}"
                )
    file = own_prey_file(env, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "env": env,
        "algorithm": "self-play through a differentiable simulator",
        "hyperparameters": dataclasses.asdict(settings),
        "seed": seed,
    }
    save_prey(file, play.prey_weights(), metadata)
    return file
