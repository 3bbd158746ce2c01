"""Critics that ask for no action but the data's: `critic_loss="expectile"`.

A state value V(o) is an upper expectile of Qbar(o, a) over the data's actions, and Q's target is
r + gamma V(o'). Own values are learnt agent by agent; with `critic="vdn"` the sums over a team are.
Axes are (group, batch), values of an ensemble (member, group, batch).

Source: implicit Q-learning, arXiv 2110.06169 eq. 5, 6; for teams with the sum of value
decomposition networks, arXiv 1706.05296 (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rllib_om2p.algorithms.om2p.networks import OM2PNetworks
from rllib_om2p.core.agent_groups import JointBatch
from rllib_om2p.core.critic_loss import Critic, CriticLoss, of_present
from rllib_om2p.core.phases import Phase
from rllib_om2p.nets.mixers import vdn
from rllib_om2p.ops.averages import batch_mean
from rllib_om2p.ops.bellman import Aggregate, aggregate, expectile_loss


@dataclass(frozen=True, kw_only=True)
class ValueLoss:
    """Expectile regression of the state values on the target critics.

    Attributes:
        networks: The algorithm's networks; they have `values`.
        expectile: tau in (0, 1).
        aggregate: How the target ensemble becomes one value.
        critic: "own" or "vdn"; see `CriticLoss`.
        teams: Each team's agents, as positions in the concatenation of the groups.
    """

    networks: OM2PNetworks
    expectile: float
    aggregate: Aggregate
    critic: Critic
    teams: Sequence[Sequence[int]]

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[()]:
        """Return nothing: the data's actions need no noise."""
        return ()

    def __call__(self, batch: JointBatch, draws: tuple[()]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses, (N,) or () for the teams, and the mean values."""
        nets = self.networks
        with torch.no_grad():
            q = [
                target(group.obs, group.actions)
                for target, group in zip(nets.target_critics, batch.groups, strict=True)
            ]
        values = [nets.value(index, group.obs) for index, group in enumerate(batch.groups)]
        if self.critic == "vdn":
            present = [group.alive for group in batch.groups]
            team_q = vdn([of_present(x, a) for x, a in zip(q, present, strict=True)], self.teams)
            team = vdn([of_present(x, a) for x, a in zip(values, present, strict=True)], self.teams)
            losses = expectile_loss(team[0], aggregate(team_q, self.aggregate), self.expectile)
            return losses.sum(), {"value": team.mean().detach()}
        losses = torch.cat(
            [
                expectile_loss(v[0], aggregate(x, self.aggregate), self.expectile, group.alive)
                for v, x, group in zip(values, q, batch.groups, strict=True)
            ]
        )
        means = [batch_mean(v[0], g.alive) for v, g in zip(values, batch.groups, strict=True)]
        return losses, {"value": torch.cat(means).detach()}


@dataclass(frozen=True, kw_only=True)
class ExpectileCriticLoss(CriticLoss):
    """Temporal-difference loss whose target is the state value; it asks for no next action."""

    networks: OM2PNetworks

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return nothing: there are no next actions."""
        return ()

    def next_values(self, batch: JointBatch, draws: Sequence[Tensor]) -> list[Tensor]:
        """Return each group's state values of the next observation, (1, G, B)."""
        groups = enumerate(batch.groups)
        return [self.networks.value(index, group.next_obs) for index, group in groups]


def value_phase(networks: OM2PNetworks, critic: ExpectileCriticLoss, expectile: float) -> Phase:
    """Return the state values' phase; it comes before the critics', which ask for the values."""
    loss = ValueLoss(
        networks=networks,
        expectile=expectile,
        aggregate=critic.aggregate,
        critic=critic.critic,
        teams=critic.teams,
    )
    return Phase("value", list(networks.values), loss.draw, loss)
