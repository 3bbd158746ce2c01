"""Temporal-difference learning of critics under their actors' own actions, and what goes with it.

Axes are (group, batch, feature), critics' values (member, agent, batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from rllib_om2p.core.agent_groups import GroupBatch, JointBatch
from rllib_om2p.core.shared_noise import shared_normal
from rllib_om2p.nets.mixers import vdn
from rllib_om2p.ops.averages import batch_mean
from rllib_om2p.ops.bellman import Aggregate, aggregate, td_loss, td_target

if TYPE_CHECKING:
    from rllib_om2p.core.actor_critic import ActorCritic

Critic = Literal["own", "vdn"]
NextActions = Callable[[int, GroupBatch, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class CriticLoss:
    """Temporal-difference loss of the critics [OM2P eq. 7].

    Attributes:
        networks: The algorithm's networks.
        gamma: Discount.
        aggregate: How the target ensemble becomes one value.
        critic: "own": each agent's rewards and value; "vdn": the team's reward and the sum of
            the agents' values.
        teams: Each team's agents, as positions in the concatenation of the groups.
        next_actions: `(group_index, group, draws)` to the actions at the next observation that the
            target is made of; the actors' own if None.
        shared_noise: Whether a team's agents act by the same noise.
        mix: How "vdn" makes a team's value of its agents'; see `nets.mixers`.
    """

    networks: ActorCritic
    gamma: float
    aggregate: Aggregate
    critic: Critic
    teams: Sequence[Sequence[int]]
    next_actions: NextActions | None = None
    shared_noise: bool = False
    mix: Callable[[Sequence[Tensor], Sequence[Sequence[int]]], Tensor] = vdn

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return the noise of the next actions, (G, B, A) per group."""
        if self.shared_noise:
            return shared_normal(batch, self.teams, generator)
        return tuple(normal_like(group.actions, generator) for group in batch.groups)

    def __call__(
        self, batch: JointBatch, draws: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses, (N,) or () for the teams, and the mean values."""
        with torch.no_grad():
            next_q = self.next_values(batch, draws)
        q = [
            critic(group.obs, group.actions)
            for critic, group in zip(self.networks.critics, batch.groups, strict=True)
        ]
        if self.critic == "vdn":
            return self._team_loss(batch, q, next_q)
        losses = [
            td_loss(
                values,
                td_target(
                    group.rewards,
                    aggregate(next_values, self.aggregate),
                    group.terminateds,
                    gamma=self.gamma,
                ),
                group.alive,
            )
            for values, next_values, group in zip(q, next_q, batch.groups, strict=True)
        ]
        means = [batch_mean(v.mean(0), g.alive) for v, g in zip(q, batch.groups, strict=True)]
        return torch.cat(losses), {"q": torch.cat(means).detach()}

    def next_values(self, batch: JointBatch, draws: Sequence[Tensor]) -> list[Tensor]:
        """Return each group's values of the next observation, (K, G, B), without gradient."""
        return [
            target(group.next_obs, self._next_actions(index, group, noise))
            for index, (target, group, noise) in enumerate(
                zip(self.networks.target_critics, batch.groups, draws, strict=True)
            )
        ]

    def _next_actions(self, index: int, group: GroupBatch, noise: Tensor) -> Tensor:
        if self.next_actions is not None:
            return self.next_actions(index, group, noise)
        return self.networks.act(index, group.next_obs, noise, group.next_action_mask)

    def _team_loss(
        self, batch: JointBatch, q: Sequence[Tensor], next_q: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # An absent agent has no value, and one whose episode ends here has none afterwards.
        now = [of_present(v, g.alive) for v, g in zip(q, batch.groups, strict=True)]
        after = [
            of_present(v * (1 - g.terminateds), _has_future(g))
            for v, g in zip(next_q, batch.groups, strict=True)
        ]
        next_team = aggregate(self.mix(after, self.teams), self.aggregate)
        target = td_target(batch.team_rewards, next_team, gamma=self.gamma)
        team = self.mix(now, self.teams)
        return td_loss(team, target).sum(), {"q": team.mean().detach()}


def of_present(values: Tensor, alive: Tensor | None) -> Tensor:
    """Return values (..., G, B) that are 0 where an agent is absent; `alive` is (G, B) or None."""
    return values if alive is None else values * alive


def _has_future(group: GroupBatch) -> Tensor | None:
    """Return 1 where an agent's next observation is its own, (G, B); None if they all are.

    It is whether the agent acts on there or was cut off and sees its last one.
    """
    if group.alive is None or group.next_alive is None:
        return None
    return torch.maximum(group.alive, group.next_alive)


def unit_magnitude(
    values: Tensor, critic: Critic, teams: Sequence[Sequence[int]], alive: Tensor | None = None
) -> Tensor:
    """Return the policies' values (N, B) divided by their mean magnitude over the batch.

    With "vdn" only the teams' sums mean anything; each agent gets an equal share of its team's.

    Args:
        values: Of all agents, (N, B).
        critic: What they are.
        teams: Each team's agents, as rows of `values`.
        alive: Presence of the agents, (N, B), or None; those who are absent have no value.
    """
    present = of_present(values.detach(), alive)
    if critic == "own":
        magnitude = batch_mean(present.abs(), alive)
    else:
        sums = vdn([present[None]], teams)[0].abs()
        anyone = None if alive is None else vdn([alive[None]], teams)[0].clamp(max=1)
        means = batch_mean(sums, anyone)
        shares = [mean / len(team) for mean, team in zip(means.unbind(), teams, strict=True)]
        share = {agent: shares[m] for m, team in enumerate(teams) for agent in team}
        magnitude = torch.stack([share[agent] for agent in range(len(values))])
    return values / magnitude[:, None].clamp(min=torch.finfo(values.dtype).eps)


def normal_like(actions: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise of the actions' shape, from the learner's generator."""
    return torch.randn(
        actions.shape, generator=generator, device=actions.device, dtype=actions.dtype
    )
