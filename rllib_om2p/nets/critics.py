"""Ensembles of action-value networks, one ensemble per agent, stacked; knows no loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rllib_om2p.nets.mlp import StackedMLP
from rllib_om2p.ops.discrete import corners
from rllib_om2p.ops.shapes import check_stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class CriticEnsemble(nn.Module):
    """`num_critics` value MLPs per agent on the concatenated (obs, actions).

    They are one `mlp` of num_critics * num_agents stacks; member k of agent g is slice
    k * num_agents + g.
    """

    def __init__(
        self,
        num_agents: int,
        num_critics: int,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        *,
        layer_norm: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the stack `mlp`; see `StackedMLP` for its parameters."""
        super().__init__()
        self.num_agents, self.num_critics = num_agents, num_critics
        self.obs_dim, self.action_dim = obs_dim, action_dim
        self.mlp = StackedMLP(
            num_critics * num_agents,
            obs_dim + action_dim,
            hidden,
            1,
            layer_norm=layer_norm,
            generator=generator,
        )

    def forward(self, obs: Tensor, actions: Tensor, *, members: int | None = None) -> Tensor:
        """Return the members' values.

        Args:
            obs: Normalised observations, (G, B, O).
            actions: Actions in [-1, 1], (G, B, A).
            members: K, only the first so many; all if None.

        Returns:
            Values, (K, G, B).
        """
        check_stacked("obs", obs, self.num_agents, self.obs_dim)
        check_stacked("actions", actions, self.num_agents, self.action_dim)
        members = self.num_critics if members is None else members
        x = torch.cat((obs, actions), dim=-1).repeat(members, 1, 1)
        values: Tensor = self.mlp(x, num_stacks=members * self.num_agents)
        return values.view(members, self.num_agents, -1)


def values_of_candidates(
    critic: Callable[[Tensor, Tensor], Tensor], obs: Tensor, candidates: Tensor
) -> Tensor:
    """Return the values of several actions at each observation, (K, G, B, M).

    Args:
        critic: Called with (G, B', O) and (G, B', A), returns (K, G, B'): a `CriticEnsemble`, some
            members of one, or one that agents share.
        obs: Normalised observations, (G, B, O).
        candidates: Actions in [-1, 1], (G, B, M, A).
    """
    num_candidates = candidates.shape[2]
    wide = obs.repeat_interleave(num_candidates, dim=1)
    values = critic(wide, candidates.flatten(1, 2))
    return values.view(*values.shape[:2], -1, num_candidates)


def values_of_choices(
    critic: Callable[[Tensor, Tensor], Tensor], obs: Tensor, num_actions: int
) -> Tensor:
    """Return the values of all discrete actions at each observation, (K, G, B, num_actions).

    Args:
        critic: See `values_of_candidates`.
        obs: Normalised observations, (G, B, O).
        num_actions: How many there are.
    """
    every = corners(num_actions, like=obs)
    return values_of_candidates(critic, obs, every.expand(*obs.shape[:2], *every.shape))
