"""Mixers: from agents' values to one team value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def vdn(q: Sequence[Tensor]) -> Tensor:
    """Return the team value, the sum over all agents of all groups.

    Args:
        q: Values of every group, each (K, G_i, B).

    Returns:
        Team values, (K, B).

    Raises:
        ValueError: the groups differ in members or batch.

    Source: value decomposition networks, arXiv 1706.05296.
    """
    ends = {(values.ndim, values.shape[0], values.shape[-1]) for values in q}
    if len(ends) != 1 or q[0].ndim != 3:
        shapes = [tuple(values.shape) for values in q]
        raise ValueError(f"every group must be (num_critics, agents, batch), got {shapes}.")
    return torch.cat(tuple(q), dim=1).sum(dim=1)
