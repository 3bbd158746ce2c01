"""Conservative critics, for any actor: temporal differences and a penalty.

The penalty is on values of actions that are not the data's. Axes are (group, batch, feature);
candidates stand before the features.

Source: CQL (arXiv 2006.04779), in the form of OMAR (arXiv 2111.11188).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rllib_om2p.core.agent_groups import GroupBatch, JointBatch
from rllib_om2p.core.critic_loss import CriticLoss, of_present
from rllib_om2p.nets.critics import values_of_candidates, values_of_choices
from rllib_om2p.ops.averages import batch_mean
from rllib_om2p.ops.conservative import (
    Proposal,
    conservative_penalty,
    normal_proposal,
    penalty_of_choices,
    uniform_proposal,
)

NUM_PROPOSALS = 3


class CriticDraws(NamedTuple):
    """The randomness of the critics' loss.

    Attributes:
        temporal: Of the temporal-difference loss.
        uniforms: Of the proposals, (NUM_PROPOSALS, G, B, M, A) per group; None where actions are
            discrete and all of them are asked for.
    """

    temporal: tuple[Tensor, ...]
    uniforms: tuple[Tensor | None, ...]


@dataclass(frozen=True, kw_only=True)
class ConservativeCriticLoss:
    """Temporal differences plus a weight times each agent's conservative penalty.

    Two of the three proposals lie around what the policy makes of the temporal difference's noise,
    at the observation and at the next one. With a team's critic each agent's own value is
    penalised, the others' held at the data: in a sum of values that is the counterfactual penalty
    on the team's value (arXiv 2309.12696), whose agents' weights add up to 1 where ours are 1 each:
    a weight here is N times theirs.

    Attributes:
        temporal: The temporal-difference loss.
        weight: Of the penalty.
        num_actions: M, of each proposal.
        std: Standard deviation around the policy's actions.
    """

    temporal: CriticLoss
    weight: float
    num_actions: int
    std: float

    def draw(self, batch: JointBatch, generator: torch.Generator) -> CriticDraws:
        """Return the noise of the next actions and the numbers of the proposals."""
        temporal = self.temporal.draw(batch, generator)
        uniforms: list[Tensor | None] = []
        for index, group in enumerate(batch.groups):
            if self._is_discrete(index):
                uniforms.append(None)
                continue
            num_agents, size, dim = group.actions.shape
            shape = (NUM_PROPOSALS, num_agents, size, self.num_actions, dim)
            device = group.actions.device
            uniforms.append(torch.rand(shape, generator=generator, device=device))
        return CriticDraws(temporal, tuple(uniforms))

    def __call__(self, batch: JointBatch, draws: CriticDraws) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses, (N,) or () for the teams, and their parts."""
        losses, metrics = self.temporal(batch, draws.temporal)
        parts = zip(batch.groups, draws.temporal, draws.uniforms, strict=True)
        penalties = torch.cat([self._penalty(index, *part) for index, part in enumerate(parts)])
        added = penalties.sum() if self.temporal.critic == "vdn" else penalties
        return losses + self.weight * added, {**metrics, "penalty": penalties.detach()}

    def _is_discrete(self, index: int) -> bool:
        return self.temporal.networks.groups[index].is_discrete

    def _penalty(
        self, index: int, group: GroupBatch, noise: Tensor, uniforms: Tensor | None
    ) -> Tensor:
        """Return each agent's penalty, (G,)."""
        critic = self.temporal.networks.critics[index]
        q_data = critic(group.obs, group.actions)
        if uniforms is None:
            values = values_of_choices(critic, group.obs, group.actions.shape[-1])
            penalty = penalty_of_choices(values, q_data, group.action_mask)
        else:
            candidates = self._candidates(index, group, noise, uniforms)
            values = values_of_candidates(critic, group.obs, candidates.actions)
            penalty = conservative_penalty(values, candidates.log_density, q_data)
        means = penalty.mean(dim=0)
        if self.temporal.critic == "vdn":  # whose temporal difference is a mean over all rows
            return of_present(means, group.alive).mean(dim=-1)
        return batch_mean(means, group.alive)

    @torch.no_grad()
    def _candidates(
        self, index: int, group: GroupBatch, noise: Tensor, uniforms: Tensor
    ) -> Proposal:
        """Return the actions of all proposals, (G, B, NUM_PROPOSALS M, A), and their densities."""
        networks = self.temporal.networks
        proposals = (
            uniform_proposal(uniforms[0]),
            normal_proposal(uniforms[1], networks.propose(index, group.obs, noise), std=self.std),
            normal_proposal(
                uniforms[2], networks.propose(index, group.next_obs, noise), std=self.std
            ),
        )
        return Proposal(
            torch.cat([proposal.actions for proposal in proposals], dim=2),
            torch.cat([proposal.log_density for proposal in proposals], dim=2),
        )
