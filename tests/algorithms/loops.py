"""Two groups of agents with random batches, and their networks one by one, for loops over agents.

The oracles of the losses: an algorithm's stacked loss must equal a loop that takes one agent's
slices at a time and calls nothing of this package. And for hand numbers agents of one observation
and one action, whose networks are weighted sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from rllib_om2p.core.agent_groups import AgentGroup, GroupBatch, JointBatch, RowLayout
from rllib_om2p.data.schema import AgentSpec, DatasetSpec

SHAPES = ((3, 5, 2), (2, 4, 1))  # two groups: agents, obs, actions
BATCH = 16


def make_groups() -> list[AgentGroup]:
    """Return the groups of `SHAPES`."""
    groups = []
    for size, obs_dim, action_dim in SHAPES:
        box = ((-1.0,) * action_dim, (1.0,) * action_dim)
        agents = tuple(AgentSpec(f"a{obs_dim}{i}", obs_dim, action_dim, *box) for i in range(size))
        groups.append(AgentGroup(agents, tuple(range(size))))
    return groups


def make_layout() -> RowLayout:
    """Return the layout of the groups' dataset, with all agents in one team."""
    agents = tuple(agent for group in make_groups() for agent in group.agents)
    return RowLayout.of(DatasetSpec(dataset_id="two-groups", agents=agents))


def make_batch(seed: int = 1) -> JointBatch:
    """Return a batch of random numbers; some episodes end."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    groups = tuple(
        GroupBatch(
            obs=normal(size, BATCH, obs_dim),
            actions=normal(size, BATCH, action_dim).clamp(-1, 1),
            next_obs=normal(size, BATCH, obs_dim),
            rewards=normal(size, BATCH),
            terminateds=(normal(size, BATCH) > 0.8).float(),
        )
        for size, obs_dim, action_dim in SHAPES
    )
    return JointBatch(groups, normal(1, BATCH))


def scalar_layout(num_agents: int = 1) -> RowLayout:
    """Return the layout of agents with one observation and one action in [-1, 1], one team."""
    agents = tuple(AgentSpec.box(f"a{i}", 1, 1) for i in range(num_agents))
    return RowLayout.of(DatasetSpec(dataset_id="scalars", agents=agents))


def scalar_batch(
    obs: Sequence[Sequence[float]],
    actions: Sequence[Sequence[float]],
    *,
    next_obs: Sequence[Sequence[float]] | None = None,
    rewards: Sequence[Sequence[float]] | None = None,
    terminateds: Sequence[Sequence[float]] | None = None,
) -> JointBatch:
    """Return a batch for `scalar_layout` of numbers (G, B); those not given are 0.

    The team's reward is the agents' mean.
    """
    zeros = torch.zeros_like(torch.tensor(obs))
    following, earned, ended = (
        zeros if numbers is None else torch.tensor(numbers)
        for numbers in (next_obs, rewards, terminateds)
    )
    part = GroupBatch(scalars(obs), scalars(actions), following[..., None], earned, ended)
    return JointBatch((part,), earned.mean(0, keepdim=True))


def scalars(numbers: Sequence[Sequence[float]]) -> torch.Tensor:
    """Return numbers (G, B) as tensors of one feature, (G, B, 1)."""
    return torch.tensor(numbers)[..., None]


def set_sums(stack: nn.Module, *slices: Sequence[float]) -> None:
    """Make each slice of a `StackedMLP` without hidden layers a weighted sum.

    Args:
        stack: With one output.
        *slices: One per slice: the weights of its inputs, then the bias.
    """
    rows = torch.tensor(slices)
    with torch.no_grad():
        stack.weights[0].copy_(rows[:, :-1, None])
        stack.biases[0].copy_(rows[:, -1:, None])


class Plain(nn.Module):
    """One agent's MLP of torch.nn parts, with the weights of one slice of a stack."""

    def __init__(self, stack: nn.Module, index: int) -> None:
        """Take the weights of slice `index` of a `StackedMLP`."""
        super().__init__()
        self.weights = [w[index] for w in stack.weights]
        self.biases = [b[index, 0] for b in stack.biases]
        self.norms = [
            (s[index, 0], h[index, 0]) for s, h in zip(stack.scales, stack.shifts, strict=True)
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the network's output."""
        layers = zip(self.weights[:-1], self.biases[:-1], self.norms, strict=True)
        for weight, bias, (scale, shift) in layers:
            x = functional.gelu(x @ weight + bias, approximate="tanh")
            x = functional.layer_norm(x, x.shape[-1:], scale, shift)
        return x @ self.weights[-1] + self.biases[-1]


def plain_critic(ensemble: nn.Module, agent: int, obs: torch.Tensor, actions: torch.Tensor):
    """Return the values of one agent's ensemble, (K, B)."""
    return torch.stack(
        [
            Plain(ensemble.mlp, k * ensemble.num_agents + agent)(torch.cat([obs, actions], -1))[
                :, 0
            ]
            for k in range(ensemble.num_critics)
        ]
    )
