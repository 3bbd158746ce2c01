"""MA-SfBC's losses: the behaviour's, and the critic's with values over candidates.

Axes are (group, batch, feature), critics' values (member, agent, batch).

Source: SfBC (arXiv 2209.14548), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rllib_om2p.algorithms.ma_sfbc.networks import SfBCNetworks
from rllib_om2p.core.agent_groups import JointBatch
from rllib_om2p.core.critic_loss import CriticLoss
from rllib_om2p.core.generative import PathDraws
from rllib_om2p.nets.critics import values_of_candidates
from rllib_om2p.ops.bellman import softmax_value


@dataclass(frozen=True)
class BehaviourLoss:
    """Each agent's diffusion model, fitted to the data's actions alone.

    Attributes:
        networks: The algorithm's networks.
    """

    networks: SfBCNetworks

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[PathDraws, ...]:
        """Return each group's noise and times."""
        diffusion = self.networks.diffusion
        return tuple(diffusion.draw(group.actions, generator) for group in batch.groups)

    def __call__(
        self, batch: JointBatch, draws: Sequence[PathDraws]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each agent's loss, (N,)."""
        nets = self.networks
        parts = zip(nets.actors, batch.groups, draws, strict=True)
        return torch.cat([nets.diffusion.loss(net, group, d) for net, group, d in parts]), {}


@dataclass(frozen=True, kw_only=True)
class InSupportCriticLoss(CriticLoss):
    """Temporal differences to V(o'), the softmax-weighted value of candidates from the behaviour.

    Attributes:
        num_candidates: M, candidates per observation.
        alpha: Inverse temperature of the softmax.
    """

    networks: SfBCNetworks
    num_candidates: int
    alpha: float

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return the noise of the next observations' candidates, (G, B, M, A) per group."""
        return tuple(
            torch.randn(
                (*group.actions.shape[:2], self.num_candidates, group.actions.shape[2]),
                generator=generator,
                device=group.actions.device,
                dtype=group.actions.dtype,
            )
            for group in batch.groups
        )

    def next_values(self, batch: JointBatch, draws: Sequence[Tensor]) -> list[Tensor]:
        """Return each group's V(o'), (K, G, B), without gradient."""
        values = []
        for index, (group, noise) in enumerate(zip(batch.groups, draws, strict=True)):
            candidates = self.networks.candidates(
                index, group.next_obs, noise, group.next_action_mask
            )
            target = self.networks.target_critics[index]
            q = values_of_candidates(target, group.next_obs, candidates)
            values.append(softmax_value(q, alpha=self.alpha))
        return values
