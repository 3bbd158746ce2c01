"""MA-TD3+BC's actor loss, as a pure function of networks and batch.

Shapes are (group, batch, feature). Sums over agents, means over the batch.

Source: TD3+BC (arXiv 2106.06860) eq. 3, 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rllib_om2p.core.agent_groups import JointBatch
from rllib_om2p.core.critic_loss import Critic, unit_magnitude
from rllib_om2p.core.deterministic import DeterministicActorCritic
from rllib_om2p.ops.averages import batch_mean, mean_square


@dataclass(frozen=True, kw_only=True)
class ActorLoss:
    """Distance to the data's actions minus alpha times the first critic's value.

    Attributes:
        networks: The algorithm's networks.
        alpha: Weight of the value, which is divided by its mean magnitude over the batch.
        critic: What the values are; "vdn" normalises by those of the teams.
        teams: Each team's agents, as positions in the concatenation of the groups.
    """

    networks: DeterministicActorCritic
    alpha: float
    critic: Critic
    teams: Sequence[Sequence[int]]

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[()]:
        """Return nothing: the loss has no randomness."""
        return ()

    def __call__(self, batch: JointBatch, draws: tuple[()]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each agent's loss, (N,), and its parts."""
        nets, distances, q_values = self.networks, [], []
        for actor, critic, group in zip(nets.actors, nets.critics, batch.groups, strict=True):
            actions = actor(group.obs)
            distances.append(mean_square(actions, group.actions, group.alive))
            q_values.append(critic(group.obs, actions, members=1)[0])
        values = torch.cat(q_values)
        bc_loss = torch.cat(distances)
        judged = unit_magnitude(values, self.critic, self.teams, batch.alive)
        return bc_loss - self.alpha * batch_mean(judged, batch.alive), {
            "bc_loss": bc_loss.detach(),
            "q_policy": batch_mean(values, batch.alive).detach(),
        }
