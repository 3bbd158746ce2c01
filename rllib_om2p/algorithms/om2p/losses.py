"""OM2P's actor loss, as a pure function of networks, batch and draws.

Shapes are (group, batch, feature). Sums over agents, means over the batch: each agent is trained as
if it were alone, except for the team value of `critic="vdn"`.

Source: OM2P eq. 2, 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from rllib_om2p.algorithms.om2p.networks import OM2PNetworks
from rllib_om2p.core.advantage import advantage_of_data
from rllib_om2p.core.agent_groups import GroupBatch, JointBatch
from rllib_om2p.core.critic_loss import Critic, normal_like, unit_magnitude
from rllib_om2p.core.matching import MatchingDraws, MeanFlowMatching
from rllib_om2p.core.shared_noise import shared_normal
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.advantage import advantage_weights, effective_fraction
from rllib_om2p.ops.averages import batch_mean
from rllib_om2p.ops.mean_flow import adaptive_mean_flow_loss, end_of_path, mean_flow_loss

ValueFrom = Literal["noise", "path"]


class ActorDraws(NamedTuple):
    """One group's randomness of the actor loss.

    Attributes:
        matching: Noise and times of the matching loss.
        action_noise: x_0 of the action that the critic judges, (G, B, A); None where it judges
            jumps from the points of the matching loss.
        baseline_noise: x_0 of the actions that the data's are compared with, (G, B, A); None where
            the data's weigh alike.
    """

    matching: MatchingDraws
    action_noise: Tensor | None
    baseline_noise: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ActorLoss:
    """Mean-flow matching minus the critic's value of the one-step action [OM2P eq. 6].

    Attributes:
        networks: The algorithm's networks.
        eta: Weight of the value; 0 is behaviour cloning. Where the networks adapt it, what they
            start from.
        bc_weight: Weight of the matching loss; 0 is the value alone.
        normalize_q: Divide the value by its mean magnitude over the batch.
        critic: What the values are; "vdn" normalises by those of the teams.
        teams: Each team's agents, as positions in the concatenation of the groups.
        matching: The matching loss.
        adaptive_power: p of the matching loss's adaptive weight; 0 for none.
        adaptive_constant: c of that weight.
        shared_noise: Whether a team's agents act by the same noise.
        value_from: Where the jumps begin whose ends the critic judges.
        advantage_temperature: Of the transitions' weights in the matching loss; None for equal
            ones.
    """

    networks: OM2PNetworks
    eta: float
    bc_weight: float
    normalize_q: bool
    critic: Critic
    teams: Sequence[Sequence[int]]
    matching: MeanFlowMatching
    adaptive_power: float = 0.0
    adaptive_constant: float = 1.0
    shared_noise: bool = False
    value_from: ValueFrom = "noise"
    advantage_temperature: float | None = None

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[ActorDraws, ...]:
        """Return each group's noise and times."""
        judges_noise = self.value_from == "noise"
        shared = None
        if judges_noise and self.shared_noise:
            shared = shared_normal(batch, self.teams, generator)

        def action_noise(index: int) -> Tensor | None:
            if not judges_noise:
                return None
            if shared is not None:
                return shared[index]
            return normal_like(batch.groups[index].actions, generator)

        def baseline_noise(index: int) -> Tensor | None:
            if self.advantage_temperature is None:
                return None
            return normal_like(batch.groups[index].actions, generator)

        return tuple(
            ActorDraws(
                self.matching.draw(group.actions, generator),
                action_noise(index),
                baseline_noise(index),
            )
            for index, group in enumerate(batch.groups)
        )

    def __call__(
        self, batch: JointBatch, draws: Sequence[ActorDraws]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each agent's loss, (N,), and its parts."""
        losses: Tensor | float = 0.0
        eta: Tensor | float = self.eta
        metrics: dict[str, Tensor] = {}
        if self.bc_weight > 0:
            weights = None
            if self.advantage_temperature is not None:
                weights = self._weights(batch, draws, self.advantage_temperature)
                metrics["effective_fraction"] = torch.cat(
                    [
                        effective_fraction(own, group.alive)
                        for own, group in zip(weights, batch.groups, strict=True)
                    ]
                )
            loss, bc_loss = self._matching_loss(self.networks.actors, batch, draws, weights)
            losses = losses + self.bc_weight * loss
            metrics["bc_loss"] = bc_loss
            if self.networks.adaptive_eta is not None:
                reference = self._matching_loss(self.networks.adaptive_eta.references, batch, draws)
                eta = self.networks.adaptive_eta.eta
                adapting = self.networks.adaptive_eta.loss(bc_loss, *reference)
                # Gradients only: the loss that is shown stays the actors' own.
                losses = losses + adapting - adapting.detach()
                metrics |= {"eta": eta, "bc_loss_reference": reference[1]}
        if self.eta > 0:
            values = torch.cat(
                [
                    self._values_of_policy(index, group, group_draws)
                    for index, (group, group_draws) in enumerate(
                        zip(batch.groups, draws, strict=True)
                    )
                ]
            )
            judged = values
            if self.normalize_q:
                judged = unit_magnitude(values, self.critic, self.teams, batch.alive)
            losses = losses - eta * batch_mean(judged, batch.alive)
            metrics["q_policy"] = batch_mean(values, batch.alive).detach()
        assert isinstance(losses, Tensor)
        return losses, metrics

    def _weights(
        self, batch: JointBatch, draws: Sequence[ActorDraws], temperature: float
    ) -> list[Tensor]:
        """Return each group's weights of the transitions, (G, B)."""
        weights = []
        for index, (group, group_draws) in enumerate(zip(batch.groups, draws, strict=True)):
            assert group_draws.baseline_noise is not None
            advantages = advantage_of_data(self.networks, index, group, group_draws.baseline_noise)
            weights.append(advantage_weights(advantages, group.alive, temperature=temperature))
        return weights

    def _matching_loss(
        self,
        actors: nn.ModuleList,
        batch: JointBatch,
        draws: Sequence[ActorDraws],
        weights: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the matching losses, (N,), and their plain squared errors without gradient.

        Weights, (G, B) per group, are of the losses alone; without any all who are present count.
        """
        losses, errors = [], []
        for index, (actor, group, group_draws) in enumerate(
            zip(actors, batch.groups, draws, strict=True)
        ):
            assert isinstance(actor, VelocityNet)
            u, target = self.matching.regression(
                actor, group.obs, group.actions, group_draws.matching
            )
            error = mean_flow_loss(u, target, group.alive)
            errors.append(error.detach())
            own_weights = group.alive if weights is None else weights[index]
            if self.adaptive_power > 0:
                error = adaptive_mean_flow_loss(
                    u,
                    target,
                    own_weights,
                    power=self.adaptive_power,
                    constant=self.adaptive_constant,
                )
            elif weights is not None:
                error = mean_flow_loss(u, target, own_weights)
            losses.append(error)
        return torch.cat(losses), torch.cat(errors)

    def _values_of_policy(self, index: int, group: GroupBatch, draws: ActorDraws) -> Tensor:
        """Return the values of a group's actions, mean over the ensemble, (G, B)."""
        if draws.action_noise is not None:
            actions = self.networks.propose(index, group.obs, draws.action_noise)
        else:
            z, r, _ = self.matching.points(group.actions, draws.matching)
            actor, clip = self.networks.actors[index], not self.networks.groups[index].is_discrete
            actions = end_of_path(lambda z, r, t: actor(group.obs, z, r, t), z, r, clip=clip)
        return self.networks.judge(index, group.obs, actions, group.action_mask)
