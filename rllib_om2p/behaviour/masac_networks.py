"""The networks of the MASAC recipe: stacked tanh-Gaussian actors and central twin critics.

Each agent reads its own features of the global state: those of its observation, or all of them.
Kept apart from `nets`, as `networks`: these must go on reading the policies that are stored.
Axes: (agents or critics, batch, features).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[Any]
StateActFn = Callable[[Array], Array]
"""Maps states (N, S) to joint actions (N, all agents' features in order)."""

_LOG_SD_RANGE = (-5.0, 2.0)


class Sample(NamedTuple):
    """Actions drawn from the actors and what they cost in entropy."""

    actions: Tensor  # (B, agents * action_dim), in (-1, 1)
    log_prob: Tensor  # (B,), of the joint action


class _Stack(nn.Module):
    """MLPs of one shape with ReLU layers, computed together."""

    def __init__(self, num_stacks: int, in_dim: int, hidden: Sequence[int], out_dim: int) -> None:
        super().__init__()
        sizes = (in_dim, *hidden, out_dim)
        shapes = list(zip(sizes, sizes[1:], strict=False))
        self.weights = nn.ParameterList(torch.zeros(num_stacks, *shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.zeros(num_stacks, 1, out) for _, out in shapes)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw torch's default initial weights of linear layers."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound, generator=generator)
            nn.init.uniform_(bias, -bound, bound, generator=generator)

    def forward(self, h: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if layer < last:
                h = functional.relu(h)
        return h


class TanhGaussianTeam(nn.Module):
    """One stochastic policy per agent; agents have equally many features and action features."""

    def __init__(
        self, features: Sequence[Sequence[int]], action_dim: int, hidden: Sequence[int]
    ) -> None:
        """Build the actors.

        Args:
            features: Per agent the indices of the state's features that it reads.
            action_dim: Action features of one agent.
            hidden: Sizes of the hidden layers.
        """
        super().__init__()
        self.num_agents, self.action_dim = len(features), action_dim
        self._features = torch.tensor([list(own) for own in features])
        self.mlp = _Stack(self.num_agents, len(features[0]), hidden, 2 * action_dim)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log standard deviations before the tanh, (agents, B, action_dim)."""
        own = states[:, self._features].transpose(0, 1)
        mean, raw = self.mlp(own).chunk(2, dim=-1)
        low, high = _LOG_SD_RANGE
        return mean, low + 0.5 * (high - low) * (torch.tanh(raw) + 1)

    def sample(self, states: Tensor, noise: Tensor) -> Sample:
        """Return the joint actions that standard normal `noise` (agents, B, action_dim) draws."""
        mean, log_sd = self(states)
        before = mean + log_sd.exp() * noise
        # log N - log(1 - tanh^2), the second in a form that does not overflow.
        log_prob = -0.5 * noise.square() - log_sd - 0.5 * math.log(2 * math.pi)
        squash = 2 * (math.log(2) - before - functional.softplus(-2 * before))
        actions = torch.tanh(before).transpose(0, 1).flatten(1)
        return Sample(actions, (log_prob - squash).sum(dim=(0, -1)))


class TwinStateCritic(nn.Module):
    """Two values of (state, joint action)."""

    def __init__(self, state_dim: int, joint_action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.mlp = _Stack(2, state_dim + joint_action_dim, hidden, 1)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return both values, (2, B), of states (B, S) and joint actions (B, A)."""
        joint = torch.cat((states, actions), dim=-1).expand(2, -1, -1)
        values: Tensor = self.mlp(joint).squeeze(-1)
        return values


def stochastic(actor: TanhGaussianTeam, generator: np.random.Generator) -> StateActFn:
    """Return the actors' draws as a function of states; the noise comes from `generator`."""
    num_agents = actor.num_agents

    def act(states: Array) -> Array:
        shape = (num_agents, len(states), actor.action_dim)
        noise = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
        with torch.no_grad():
            return actor.sample(torch.from_numpy(states), noise).actions.numpy()

    return act
