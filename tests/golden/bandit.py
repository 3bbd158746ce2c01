"""A bandit of two modes whose critic is the action itself, and OM2P's actor loss trained on it.

Five networks with independent weights and data are trained side by side as five agents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rllib_om2p.algorithms.om2p import OM2PConfig
from rllib_om2p.algorithms.om2p.losses import ActorLoss
from rllib_om2p.core.agent_groups import AgentGroup, GroupBatch, JointBatch
from rllib_om2p.core.matching import MeanFlowMatching
from rllib_om2p.data.schema import AgentSpec
from rllib_om2p.ops.times import time_table

NUM_SEEDS = 5


class Identity(nn.Module):
    """A critic whose value of an action is the action."""

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        return actions.sum(-1)[None]


@dataclass(frozen=True)
class Bandit:
    """Actions at a low and a high mode, with noise.

    Attributes:
        low: Of the worse mode.
        high: Of the better mode.
        high_share: How many actions are at the better mode.
    """

    low: float
    high: float
    high_share: float = 0.5

    def make_batch(self, size: int, generator: torch.Generator) -> JointBatch:
        shape = (NUM_SEEDS, size, 1)
        is_high = torch.rand(shape, generator=generator) < self.high_share
        mode = torch.where(is_high, self.high, self.low)
        actions = mode + 0.1 * torch.randn(shape, generator=generator)
        obs, flat = torch.zeros(shape), torch.zeros(shape[:2])
        group = GroupBatch(obs, actions, obs, flat, flat)
        return JointBatch((group,), torch.zeros(1))

    def train(self, num_updates: int, **settings: object) -> tuple[Tensor, Tensor]:
        """Return each network's matching loss, (NUM_SEEDS,), and 8192 one-step actions of each.

        Args:
            num_updates: Of the actors.
            settings: Of the actor's loss.
        """
        generator = torch.Generator().manual_seed(0)
        specs = tuple(AgentSpec(f"a{i}", 1, 1, (-1.0,), (1.0,)) for i in range(NUM_SEEDS))
        config = OM2PConfig().training(actor_hidden=(32, 32), eta=0.0)
        networks = config.build_networks([AgentGroup(specs, tuple(range(NUM_SEEDS)))], generator)
        networks.critics = nn.ModuleList([Identity()])
        loss = ActorLoss(
            networks=networks,
            bc_weight=1.0,
            normalize_q=False,
            critic="own",
            teams=[range(NUM_SEEDS)],
            matching=MeanFlowMatching(derivative="tangent", time_table=time_table(config.xi)),
            **settings,
        )
        optimizer = torch.optim.Adam(networks.actors.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, num_updates)
        for _ in range(num_updates):
            batch = self.make_batch(256, generator)
            optimizer.zero_grad()
            loss(batch, loss.draw(batch, generator))[0].sum().backward()
            optimizer.step()
            schedule.step()
        batch = self.make_batch(8192, generator)
        noise = torch.randn(batch.groups[0].actions.shape, generator=generator)
        with torch.no_grad():
            _, metrics = loss(batch, loss.draw(batch, generator))
            actions = networks.propose(0, batch.groups[0].obs, noise)
        return metrics["bc_loss"], actions[..., 0]
