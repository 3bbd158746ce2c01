"""Behaviour cloning's stacked policies, its loss, and the per-agent RLModule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rllib_om2p.algorithms.bc.policies import Policy, make_policy
from rllib_om2p.core.agent_groups import JointBatch
from rllib_om2p.core.phases import Networks
from rllib_om2p.core.rl_module import AgentModule


class BCNetworks(Networks):
    """One stack of policies per group.

    Attributes:
        actors: The stacks.
    """

    def __init__(self, actors: Sequence[nn.Module]) -> None:
        """Keep the stacks."""
        super().__init__()
        self.actors = nn.ModuleList(actors)

    def policy_stacks(self) -> Sequence[Mapping[str, nn.Module]]:
        """Return what the agents' modules are views of."""
        return [{"actor": actor} for actor in self.actors]


@dataclass(frozen=True)
class BCLoss:
    """Each agent's cloning loss.

    Attributes:
        networks: The stacks.
        policies: What each group's stack is.
    """

    networks: BCNetworks
    policies: Sequence[Policy]

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[Any, ...]:
        """Return what each group's loss draws."""
        pairs = zip(self.policies, batch.groups, strict=True)
        return tuple(policy.draw(group.actions, generator) for policy, group in pairs)

    def __call__(self, batch: JointBatch, draws: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each agent's loss, (N,)."""
        parts = zip(self.policies, self.networks.actors, batch.groups, draws, strict=True)
        losses = [policy.loss(actor, group, drawn) for policy, actor, group, drawn in parts]
        return torch.cat(losses), {}


class BCModule(AgentModule):
    """One agent's cloned policy."""

    def build_networks(self) -> None:
        """Create the policy's network."""
        config = self.model_config
        self.policy = make_policy(
            config["policy"], is_discrete=self.is_discrete, num_steps=config["sampling_steps"]
        )
        self.actor = self.build_actor(self.policy.net)

    def act(self, obs: Tensor, noise: Tensor | None, action_mask: Tensor | None = None) -> Tensor:
        """Return points (1, B, A) of normalised observations (1, B, O).

        Args:
            obs: Normalised observations, (1, B, O).
            noise: Standard normal, (B, A); drawn if None.
            action_mask: Not needed: the answer is a point for every action.
        """
        noise = self.noise_or_drawn(noise, obs.shape[1], self.action_dim)
        return self.policy.sample(self.actor, obs, noise.unsqueeze(0), clip=not self.is_discrete)
