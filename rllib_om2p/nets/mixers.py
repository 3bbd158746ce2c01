"""Mixers: from agents' values to the values of their teams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def vdn(q: Sequence[Tensor], teams: Sequence[Sequence[int]]) -> Tensor:
    """Return each team's value, the sum over its agents.

    Args:
        q: Values of every group, each (K, G_i, B).
        teams: Each team's agents, as positions in the concatenation of the groups.

    Returns:
        Team values, (K, M, B).

    Raises:
        ValueError: the groups differ in members or batch.

    Source: value decomposition networks, arXiv 1706.05296.
    """
    ends = {(values.ndim, values.shape[0], values.shape[-1]) for values in q}
    if len(ends) != 1 or q[0].ndim != 3:
        shapes = [tuple(values.shape) for values in q]
        raise ValueError(f"every group must be (num_critics, agents, batch), got {shapes}.")
    values = torch.cat(tuple(q), dim=1)
    if [len(team) for team in teams] == [values.shape[1]]:
        return values.sum(dim=1, keepdim=True)
    # Not by an index, which would be copied to the device each time.
    agents = values.unbind(1)
    members = [torch.stack([agents[agent] for agent in team], dim=1) for team in teams]
    return torch.stack([values.sum(dim=1) for values in members], dim=1)


def mean(q: Sequence[Tensor], teams: Sequence[Sequence[int]]) -> Tensor:
    """Return each team's value as the mean over its agents, (K, M, B); else as `vdn`.

    Each agent's value is then of the size of its team's, whatever the number of agents.
    """
    sums = vdn(q, teams)
    return torch.stack([sums[:, m] / len(team) for m, team in enumerate(teams)], dim=1)
