"""Two groups of agents with random batches, and their networks one by one, for loops over agents.

The oracles of the losses: an algorithm's stacked loss must equal a loop that takes one agent's
slices at a time and calls nothing of this package.
"""

from __future__ import annotations

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
