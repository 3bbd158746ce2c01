"""Conservative penalties on action values: how far other actions stand above the data's.

Knows no network: proposals are actions with the density that they were drawn from, and values come
from the caller. The penalty estimates log of the integral of exp Q over the box [-1, 1]^A by
importance sampling, so it must know every proposal's exact density. Axes: group G, batch B,
candidates M, features A.

Source: CQL (arXiv 2006.04779) eq. 4 and appendix F.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rllib_om2p.ops.shapes import check_same


class Proposal(NamedTuple):
    """Actions, and the density that they were drawn from.

    Attributes:
        actions: In [-1, 1], (G, B, M, A).
        log_density: Of each action, (G, B, M).
    """

    actions: Tensor
    log_density: Tensor


def uniform_proposal(uniforms: Tensor) -> Proposal:
    """Return actions uniform over the box, of numbers uniform in [0, 1), (G, B, M, A)."""
    volume = math.log(2) * uniforms.shape[-1]
    return Proposal(2 * uniforms - 1, torch.full_like(uniforms[..., 0], -volume))


def normal_proposal(uniforms: Tensor, mean: Tensor, *, std: float) -> Proposal:
    """Return actions of a normal distribution truncated to the box, by inverse CDF.

    Truncated rather than clipped: a clipped action is not of the density that it was drawn from,
    and the importance weights of the far tail would have no finite mean.

    Args:
        uniforms: In [0, 1), (G, B, M, A).
        mean: In [-1, 1], (G, B, A).
        std: Standard deviation before the truncation, above 0.

    Raises:
        ValueError: mean has another shape than one candidate.
    """
    check_same(candidate=uniforms[:, :, 0], mean=mean)
    mean = mean.unsqueeze(2)
    low, high = (-1 - mean) / std, (1 - mean) / std
    below = torch.special.ndtr(low)
    inside = torch.special.ndtr(high) - below
    # Near 1 the CDF has no finer steps: its inverse would be infinite there.
    margin = torch.finfo(uniforms.dtype).eps
    z = torch.special.ndtri((below + uniforms * inside).clamp(margin, 1 - margin))
    z = torch.maximum(torch.minimum(z, high), low)
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    log_density = -0.5 * z.square() - constant - inside.log()
    return Proposal((mean + std * z).clamp(-1, 1), log_density.sum(dim=-1))


def conservative_penalty(q: Tensor, log_density: Tensor, q_data: Tensor) -> Tensor:
    """Return log of the integral of exp Q over the box, minus the value of the data's action.

    The integral is the mean of exp(Q - log density) over the candidates; each of several proposals
    must hold equally many of them.

    Args:
        q: Values of the candidates, (K, G, B, M).
        log_density: Of the candidates under their proposals, (G, B, M).
        q_data: Values of the data's actions, (K, G, B).

    Returns:
        (K, G, B).

    Raises:
        ValueError: the shapes differ; they would broadcast.

    Source: CQL eq. 4 with H the entropy.
    """
    check_same(value=q[0], log_density=log_density)
    check_same(first_candidate=q[..., 0], q_data=q_data)
    return torch.logsumexp(q - log_density, dim=-1) - math.log(q.shape[-1]) - q_data


def penalty_of_choices(q: Tensor, q_data: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """Return log of the sum of exp Q over the legal discrete actions, minus the data's value.

    Args:
        q: Values of all actions, (K, G, B, A).
        q_data: Values of the data's actions, (K, G, B).
        action_mask: Nonzero where an action is legal, (G, B, A); all are if None, and in rows where
            none is, as of agents that are not there.

    Returns:
        (K, G, B).

    Raises:
        ValueError: the shapes differ; they would broadcast.

    Source: CQL eq. 4 with H the entropy.
    """
    check_same(first_choice=q[..., 0], q_data=q_data)
    if action_mask is not None:
        check_same(value=q[0], action_mask=action_mask)
        illegal = (action_mask == 0) & (action_mask != 0).any(dim=-1, keepdim=True)
        q = q.masked_fill(illegal, -torch.inf)
    return torch.logsumexp(q, dim=-1) - q_data
