"""OMAR's actor loss, as a pure function of networks, batch and draws; the critics' is in core.

Source: OMAR (arXiv 2111.11188).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rllib_om2p.core.agent_groups import JointBatch
from rllib_om2p.core.deterministic import DeterministicActorCritic
from rllib_om2p.nets.critics import CriticEnsemble, values_of_candidates
from rllib_om2p.ops.averages import batch_mean, mean_square
from rllib_om2p.ops.zeroth_order import Found, better, search


@dataclass(frozen=True, kw_only=True)
class ActorLoss:
    """Distance to the best action that is known, against the first critic's value.

    Attributes:
        networks: The algorithm's networks.
        coefficient: c of (1 - c) (-Q) + c (distance), in [0, 1].
        num_rounds: R of the search.
        num_candidates: M of each round.
        std: Standard deviation of the first round.
        num_elites: What the rounds are fitted to; None for softmax weights.
    """

    networks: DeterministicActorCritic
    coefficient: float
    num_rounds: int
    num_candidates: int
    std: float
    num_elites: int | None

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return each group's noise of the search, (R, G, B, M, A)."""
        draws = []
        for group in batch.groups:
            num_agents, size, dim = group.actions.shape
            shape = (self.num_rounds, num_agents, size, self.num_candidates, dim)
            draws.append(torch.randn(shape, generator=generator, device=group.actions.device))
        return tuple(draws)

    def __call__(
        self, batch: JointBatch, draws: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each agent's loss, (N,), and its parts."""
        nets, distances, q_values = self.networks, [], []
        for actor, critic, group, noise in zip(
            nets.actors, nets.critics, batch.groups, draws, strict=True
        ):
            assert isinstance(critic, CriticEnsemble)
            actions = actor(group.obs)
            values = critic(group.obs, actions, members=1)[0]
            best = self._best(critic, group.obs, Found(actions.detach(), values.detach()), noise)
            distances.append(mean_square(actions, best, group.alive))
            q_values.append(values)
        distance = torch.cat(distances)
        value = batch_mean(torch.cat(q_values), batch.alive)
        losses = self.coefficient * distance - (1 - self.coefficient) * value
        return losses, {"mimic_loss": distance.detach(), "q_policy": value.detach()}

    @torch.no_grad()
    def _best(self, critic: CriticEnsemble, obs: Tensor, policy: Found, noise: Tensor) -> Tensor:
        """Return the better of the policy's actions and those of the search, (G, B, A)."""
        first = partial(critic, members=1)
        found = search(
            lambda candidates: values_of_candidates(first, obs, candidates)[0],
            noise,
            std=self.std,
            num_elites=self.num_elites,
        )
        return better(policy, found).actions
