"""The networks of the behaviour recipe; knows neither training nor files.

They are kept apart from `nets`, whose networks serve the offline algorithms and may change: these
must go on reading the policies that are stored. Axes: (batch, agents, features).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Actor(nn.Module):
    """One policy for every agent: (obs, one-hot agent) -> ReLU layers -> tanh."""

    def __init__(
        self, num_agents: int, obs_dim: int, action_dim: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_agents = num_agents
        self.layers = mlp(obs_dim + num_agents, hidden, action_dim)

    def logits(self, obs: Tensor) -> Tensor:
        """Return the actions before the tanh, (B, agents, action_dim), of (B, agents, obs_dim)."""
        identity = torch.eye(self.num_agents, dtype=obs.dtype).expand(len(obs), -1, -1)
        logits: Tensor = self.layers(torch.cat((obs, identity), dim=-1))
        return logits

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions (B, agents, action_dim) of observations (B, agents, obs_dim)."""
        return torch.tanh(self.logits(obs))


class TwinCritic(nn.Module):
    """Two central values of everyone's observations and actions, with ReLU layers."""

    def __init__(
        self, num_agents: int, obs_dim: int, action_dim: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        joint_dim = num_agents * (obs_dim + action_dim)
        self.first = mlp(joint_dim, hidden, 1)
        self.second = mlp(joint_dim, hidden, 1)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return both values, (2, B)."""
        joint = _joint(obs, actions)
        return torch.stack((self.first(joint), self.second(joint))).squeeze(-1)

    def first_value(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return the first value alone, (B,), which the actor climbs."""
        value: Tensor = self.first(_joint(obs, actions)).squeeze(-1)
        return value


def mlp(in_dim: int, hidden: Sequence[int], out_dim: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    sizes = (in_dim, *hidden)
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out_dim))


def initialise(net: nn.Module, generator: torch.Generator) -> None:
    """Draw torch's default initial weights from `generator` in place of the global one."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def _joint(obs: Tensor, actions: Tensor) -> Tensor:
    return torch.cat((obs.flatten(1), actions.flatten(1)), dim=-1)
