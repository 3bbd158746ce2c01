"""Conservative critics for the algorithms on TD3: what MA-CQL and OMAR share.

To the temporal-difference loss comes a penalty on values of actions that are not the data's. Axes
are (group, batch, feature); candidates stand before the features.

Source: CQL (arXiv 2006.04779), in the form of OMAR (arXiv 2111.11188).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_om2p.core.actor_critic import ActorCritic
from rllib_om2p.core.agent_groups import GroupBatch, JointBatch, RowLayout
from rllib_om2p.core.critic_loss import CriticLoss, of_present
from rllib_om2p.core.deterministic import DeterministicConfig
from rllib_om2p.core.phases import Phase
from rllib_om2p.nets.critics import values_of_candidates
from rllib_om2p.ops.averages import batch_mean
from rllib_om2p.ops.conservative import conservative_penalty, normal_proposal, uniform_proposal

if TYPE_CHECKING:
    from typing import Self

NUM_PROPOSALS = 3


class ConservativeConfig(DeterministicConfig):
    """Settings of algorithms with conservative critics and deterministic actors."""

    def __init__(self, algo_class: type | None = None) -> None:
        """Set the defaults of OMAR's code."""
        super().__init__(algo_class=algo_class)
        self.alpha = 1.0
        self.num_sampled_actions = 10
        self.sample_noise = 0.2

    @override(DeterministicConfig)
    def training(
        self,
        *,
        alpha: float | None = NotProvided,
        num_sampled_actions: int | None = NotProvided,
        sample_noise: float | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set what conservative critics need.

        Args:
            alpha: Weight of the penalty against the mean squared temporal difference (CQL eq. 4;
                OMAR has 0.5 to 5 by data set, for raw rewards; default 1).
            num_sampled_actions: Actions per observation of each of the three proposals: uniform,
                around the policy's action, around its action at the next observation (default 10).
            sample_noise: Standard deviation around the policy's actions (default 0.2).
            **kwargs: See `DeterministicConfig.training`.
        """
        super().training(**kwargs)
        self._assign(
            alpha=alpha, num_sampled_actions=num_sampled_actions, sample_noise=sample_noise
        )
        return self

    @override(DeterministicConfig)
    def validate(self) -> None:
        """Check the settings of the penalty.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_positive("alpha", "num_sampled_actions", "sample_noise")

    def critic_phase(self, networks: ActorCritic, layout: RowLayout) -> Phase:
        """Return the critics' phase with the penalty."""
        loss = ConservativeCriticLoss(
            temporal=self.build_critic_loss(networks, layout),
            alpha=self.alpha,
            num_actions=self.num_sampled_actions,
            std=self.sample_noise,
        )
        return Phase("critic", list(networks.critics), loss.draw, loss)


class CriticDraws(NamedTuple):
    """The randomness of the critics' loss.

    Attributes:
        temporal: Of the temporal-difference loss.
        uniforms: Of the proposals, (NUM_PROPOSALS, G, B, M, A) per group.
    """

    temporal: tuple[Tensor, ...]
    uniforms: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class ConservativeCriticLoss:
    """Temporal differences plus alpha times each agent's conservative penalty.

    With a team's critic each agent's own value is penalised, the others' held at the data: in a sum
    of values that is the counterfactual penalty on the team's value (arXiv 2309.12696).

    Attributes:
        temporal: The temporal-difference loss.
        alpha: Weight of the penalty.
        num_actions: M, of each proposal.
        std: Standard deviation around the policy's actions.
    """

    temporal: CriticLoss
    alpha: float
    num_actions: int
    std: float

    def draw(self, batch: JointBatch, generator: torch.Generator) -> CriticDraws:
        """Return the noise of the next actions and the numbers of the proposals."""
        temporal = self.temporal.draw(batch, generator)
        uniforms = []
        for group in batch.groups:
            num_agents, size, dim = group.actions.shape
            shape = (NUM_PROPOSALS, num_agents, size, self.num_actions, dim)
            device = group.actions.device
            uniforms.append(torch.rand(shape, generator=generator, device=device))
        return CriticDraws(temporal, tuple(uniforms))

    def __call__(self, batch: JointBatch, draws: CriticDraws) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses, (N,) or () for the teams, and their parts."""
        losses, metrics = self.temporal(batch, draws.temporal)
        penalties = torch.cat(
            [
                self._penalty(index, group, uniforms)
                for index, (group, uniforms) in enumerate(
                    zip(batch.groups, draws.uniforms, strict=True)
                )
            ]
        )
        added = penalties if losses.ndim else penalties.sum()
        return losses + self.alpha * added, {**metrics, "penalty": penalties.detach()}

    def _penalty(self, index: int, group: GroupBatch, uniforms: Tensor) -> Tensor:
        nets = self.temporal.networks
        actor, critic = nets.actors[index], nets.critics[index]
        with torch.no_grad():
            proposals = (
                uniform_proposal(uniforms[0]),
                normal_proposal(uniforms[1], actor(group.obs), std=self.std),
                normal_proposal(uniforms[2], actor(group.next_obs), std=self.std),
            )
            candidates = torch.cat([proposal.actions for proposal in proposals], dim=2)
            log_density = torch.cat([proposal.log_density for proposal in proposals], dim=2)
        penalty = conservative_penalty(
            values_of_candidates(critic, group.obs, candidates),
            log_density,
            critic(group.obs, group.actions),
        )
        means = penalty.mean(dim=0)
        if self.temporal.critic == "vdn":  # whose temporal difference is a mean over all rows
            return of_present(means, group.alive).mean(dim=-1)
        return batch_mean(means, group.alive)
