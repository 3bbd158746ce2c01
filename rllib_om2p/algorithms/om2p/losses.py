"""OM2P's two losses, as pure functions of networks, batch and draws.

Shapes are (group, batch, feature). Sums over agents, means over the batch: each agent is trained as
if it were alone, except for the team value of `critic="vdn"`.

Source: OM2P eq. 2, 6, 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rllib_om2p.algorithms.om2p.networks import OM2PNetworks
from rllib_om2p.core.agent_groups import JointBatch
from rllib_om2p.nets.mixers import vdn
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.bellman import Aggregate, aggregate, td_loss, td_target
from rllib_om2p.ops.mean_flow import (
    conditional_velocity,
    finite_difference,
    interpolate,
    mean_flow_loss,
    mean_flow_target,
)
from rllib_om2p.ops.times import sample_times

Derivative = Literal["finite_difference", "tangent", "none"]
Critic = Literal["own", "vdn"]


class ActorDraws(NamedTuple):
    """One group's randomness of the actor loss.

    Attributes:
        path_noise: x_0 of the matching loss, (G, B, A).
        action_noise: x_0 of the action that the critic judges, (G, B, A).
        uniforms: For the flow times, (2, G, B, 1).
        instant: Where the jump is empty, (G, B, 1), or None.
    """

    path_noise: Tensor
    action_noise: Tensor
    uniforms: Tensor
    instant: Tensor | None


@dataclass(frozen=True)
class CriticLoss:
    """Temporal-difference loss of the critics [OM2P eq. 7].

    Attributes:
        networks: The algorithm's networks.
        gamma: Discount.
        aggregate: How the target ensemble becomes one value.
        critic: "own": each agent's rewards and value; "vdn": the team's reward and the sum of
            the agents' values.
    """

    networks: OM2PNetworks
    gamma: float
    aggregate: Aggregate
    critic: Critic

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return the noise of the next actions, (G, B, A) per group."""
        return tuple(_normal_like(group.actions, generator) for group in batch.groups)

    def __call__(
        self, batch: JointBatch, draws: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses, (N,) or () for the team, and the mean values."""
        nets = self.networks
        with torch.no_grad():
            next_q = [
                target(group.next_obs, nets.one_step(index, group.next_obs, noise))
                for index, (target, group, noise) in enumerate(
                    zip(nets.target_critics, batch.groups, draws, strict=True)
                )
            ]
        q = [
            critic(group.obs, group.actions)
            for critic, group in zip(nets.critics, batch.groups, strict=True)
        ]
        if self.critic == "vdn":
            target = td_target(
                batch.team_rewards,
                aggregate(vdn(next_q), self.aggregate),
                batch.team_terminateds,
                gamma=self.gamma,
            )
            team = vdn(q)
            return td_loss(team, target), {"q": team.mean().detach()}
        losses = [
            td_loss(
                values,
                td_target(
                    group.rewards,
                    aggregate(next_values, self.aggregate),
                    group.terminateds,
                    gamma=self.gamma,
                ),
            )
            for values, next_values, group in zip(q, next_q, batch.groups, strict=True)
        ]
        means = torch.cat([values.mean(dim=(0, 2)) for values in q])
        return torch.cat(losses), {"q": means.detach()}


@dataclass(frozen=True)
class ActorLoss:
    """Mean-flow matching minus the critic's value of the one-step action [OM2P eq. 6].

    Attributes:
        networks: The algorithm's networks.
        eta: Weight of the value; 0 is behaviour cloning.
        bc_weight: Weight of the matching loss; 0 is the value alone.
        normalize_q: Divide the value by its mean magnitude over the batch.
        critic: "vdn" normalises by the team value's magnitude per agent.
        derivative: How du/dr is computed.
        step: Step of the finite difference.
        time_table: Inverse CDF of the flow times, (P,).
        instant_fraction: Part of the batch with an empty jump.
    """

    networks: OM2PNetworks
    eta: float
    bc_weight: float
    normalize_q: bool
    critic: Critic
    derivative: Derivative
    step: float
    time_table: Tensor
    instant_fraction: float

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[ActorDraws, ...]:
        """Return each group's noise and times."""
        draws = []
        for group in batch.groups:
            shape = (*group.actions.shape[:2], 1)
            device = group.actions.device
            uniforms = torch.rand((2, *shape), generator=generator, device=device)
            instant = None
            if self.instant_fraction > 0:
                instant = torch.rand(shape, generator=generator, device=device)
                instant = instant < self.instant_fraction
            draws.append(
                ActorDraws(
                    path_noise=_normal_like(group.actions, generator),
                    action_noise=_normal_like(group.actions, generator),
                    uniforms=uniforms,
                    instant=instant,
                )
            )
        return tuple(draws)

    def __call__(
        self, batch: JointBatch, draws: Sequence[ActorDraws]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each agent's loss, (N,), and its parts."""
        bc_losses, q_values = [], []
        for index, (group, group_draws) in enumerate(zip(batch.groups, draws, strict=True)):
            if self.bc_weight > 0:
                bc_losses.append(self._matching_loss(index, group.obs, group.actions, group_draws))
            if self.eta > 0:
                actions = self.networks.one_step(index, group.obs, group_draws.action_noise)
                critic = self.networks.critics[index]
                q_values.append(critic(group.obs, actions).mean(0))
        losses: Tensor | float = 0.0
        metrics = {}
        if bc_losses:
            bc_loss = torch.cat(bc_losses)
            losses = losses + self.bc_weight * bc_loss
            metrics["bc_loss"] = bc_loss.detach()
        if q_values:
            values = torch.cat(q_values)
            losses = losses - self.eta * self._scaled(values).mean(1)
            metrics["q_policy"] = values.mean(1).detach()
        assert isinstance(losses, Tensor)
        return losses, metrics

    def _matching_loss(self, index: int, obs: Tensor, actions: Tensor, draws: ActorDraws) -> Tensor:
        actor = self.networks.actors[index]
        assert isinstance(actor, VelocityNet)
        r, t = sample_times(draws.uniforms, self.time_table, instant=draws.instant)
        z = interpolate(draws.path_noise, actions, r)
        velocity = conditional_velocity(draws.path_noise, actions)
        if self.derivative == "tangent":
            u, derivative = actor.forward_with_tangent(
                obs, z, r, t, dz=velocity, dr=torch.ones_like(r)
            )
        else:
            u = actor(obs, z, r, t)
            derivative = torch.zeros_like(u)
        if self.derivative == "finite_difference":
            derivative = finite_difference(
                lambda z, r, t: actor(obs, z, r, t),
                z,
                velocity,
                r,
                t,
                step=self.step,
                value=u.detach(),
            )
        return mean_flow_loss(u, mean_flow_target(velocity, derivative, r, t))

    def _scaled(self, q: Tensor) -> Tensor:
        if not self.normalize_q:
            return q
        if self.critic == "vdn":
            # Only the sum of the agents' values means anything; each gets an equal share of it.
            magnitude = q.detach().sum(0).abs().mean() / q.shape[0]
        else:
            magnitude = q.detach().abs().mean(1, keepdim=True)
        return q / magnitude.clamp(min=torch.finfo(q.dtype).eps)


def _normal_like(actions: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(
        actions.shape, generator=generator, device=actions.device, dtype=actions.dtype
    )
