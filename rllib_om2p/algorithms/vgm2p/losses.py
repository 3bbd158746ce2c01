"""VGM2P's actor loss, as a pure function of networks, batch and draws.

Behaviour is cloned under a label c that the critics give: 1 where the data's action is worth at
least what the policy would do. Nothing else of the critics reaches the actor.
Shapes are (group, batch, feature). Flow time 0 is noise; the paper's k is 1 minus ours.

Source: VGM2P eq. 11, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rllib_om2p.algorithms.vgm2p.networks import (
    VGM2PNetworks,
    with_good_label,
    with_labels,
    without_label,
)
from rllib_om2p.core.advantage import advantage_of_data
from rllib_om2p.core.agent_groups import GroupBatch, JointBatch
from rllib_om2p.core.critic_loss import normal_like
from rllib_om2p.core.matching import MatchingDraws, MeanFlowMatching
from rllib_om2p.nets.sharing import SharedNet
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.averages import batch_mean

Guidance = Literal["advantage", "label_dropout"]
GUIDANCES: tuple[Guidance, ...] = ("advantage", "label_dropout")


class ActorDraws(NamedTuple):
    """One group's randomness of the actor loss.

    Attributes:
        matching: Noise and times of the matching loss.
        baseline_noise: x_0 of the actions that the data's are compared with, (G, K * B, A).
        is_dropped: Where the label is left out, (G, B, 1) bool; None if nowhere.
    """

    matching: MatchingDraws
    baseline_noise: Tensor
    is_dropped: Tensor | None


@dataclass(frozen=True, kw_only=True)
class ActorLoss:
    """Mean-flow matching under labels, along a guided velocity [VGM2P eq. 11].

    Attributes:
        networks: The algorithm's networks.
        matching: The matching loss.
        omega: Weight of the data's velocity; the reference's is 1 - omega.
        guidance: What the reference is labelled: "advantage": good, as the paper does;
            "label_dropout": nothing, as classifier-free guidance does.
        guide_others: Whether the velocity of actions that are not good is guided too.
        label_dropout: Part of the batch whose labels are left out, with "label_dropout".
        num_baseline_actions: K, how many of the policy's actions the data's is compared with.
    """

    networks: VGM2PNetworks
    matching: MeanFlowMatching
    omega: float
    guidance: Guidance
    guide_others: bool
    label_dropout: float
    num_baseline_actions: int

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[ActorDraws, ...]:
        """Return each group's noise, times and dropped labels."""
        draws = []
        for group in batch.groups:
            is_dropped = None
            if self.guidance == "label_dropout":
                shape, device = (*group.actions.shape[:2], 1), group.actions.device
                is_dropped = torch.rand(shape, generator=generator, device=device)
                is_dropped = is_dropped < self.label_dropout
            wide = group.actions.repeat(1, self.num_baseline_actions, 1)
            draws.append(
                ActorDraws(
                    matching=self.matching.draw(group.actions, generator),
                    baseline_noise=normal_like(wide, generator),
                    is_dropped=is_dropped,
                )
            )
        return tuple(draws)

    def __call__(
        self, batch: JointBatch, draws: Sequence[ActorDraws]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each agent's loss, (N,), its mean advantage and its part of good actions."""
        losses, advantages = [], []
        for index, (group, group_draws) in enumerate(zip(batch.groups, draws, strict=True)):
            advantage = advantage_of_data(self.networks, index, group, group_draws.baseline_noise)
            is_good = (advantage >= 0)[..., None]
            losses.append(self.matching_loss(index, group, is_good, group_draws))
            advantages.append(advantage)
        advantage = torch.cat(advantages)
        metrics = {
            "advantage": batch_mean(advantage, batch.alive),
            "good_fraction": batch_mean((advantage >= 0).to(advantage.dtype), batch.alive),
        }
        return torch.cat(losses), metrics

    def matching_loss(
        self, index: int, group: GroupBatch, is_good: Tensor, draws: ActorDraws
    ) -> Tensor:
        """Return each agent's matching loss under labels, (G,).

        The path's velocity v becomes omega v + (1 - omega) u(z, r, r | reference). It stays v where
        the label is dropped, so that the reference is the velocity of all data, and at actions that
        are not good unless `guide_others`.

        Args:
            index: Which group.
            group: Its part of the batch.
            is_good: c, (G, B, 1) bool.
            draws: The group's draws.
        """
        actor, obs, is_dropped = self.networks.actors[index], group.obs, draws.is_dropped
        assert isinstance(actor, VelocityNet | SharedNet)
        reference = with_good_label(obs) if is_dropped is None else without_label(obs)
        is_free = torch.zeros_like(is_good) if is_dropped is None else is_dropped
        if not self.guide_others:
            is_free = is_free | ~is_good

        def guide(z: Tensor, r: Tensor, velocity: Tensor) -> Tensor:
            with torch.no_grad():
                guided = self.omega * velocity + (1 - self.omega) * actor(reference, z, r, r)
            return torch.where(is_free, velocity, guided)

        labelled = with_labels(obs, is_good, is_dropped)
        return self.matching(
            actor, labelled, group.actions, draws.matching, group.alive, guide=guide
        )
