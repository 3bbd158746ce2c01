"""Discrete actions as points of the action box: 1 where chosen and -1 elsewhere.

A policy answers with a point near that box; the action is the largest feature that is legal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from rllib_om2p.ops.shapes import check_same

if TYPE_CHECKING:
    from torch import Tensor


def choose(actions: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """Return the index of the largest legal feature, (..., A) -> (...) int64.

    Args:
        actions: (..., A).
        action_mask: Same shape, nonzero where an action is legal; all are if None. Where none is,
            the index is that of the largest feature.

    Raises:
        ValueError: the shapes differ.
    """
    if action_mask is not None:
        check_same(actions=actions, action_mask=action_mask)
        legal = action_mask != 0
        # A row without any legal action must still have a largest feature.
        actions = actions.masked_fill(~legal & legal.any(-1, keepdim=True), -torch.inf)
    return actions.argmax(dim=-1)


def one_hot(indices: Tensor, num_actions: int) -> Tensor:
    """Return actions as points of the box, (...) -> (..., A): 1 where chosen and -1 elsewhere."""
    chosen = functional.one_hot(indices, num_actions)
    return 2.0 * chosen.to(torch.get_default_dtype()) - 1.0


def snap(actions: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """Return the corner of the box that `choose` means, without gradient.

    Args:
        actions: (..., A) in [-1, 1].
        action_mask: See `choose`.
    """
    return one_hot(choose(actions, action_mask), actions.shape[-1]).to(actions.dtype)


def corners(num_actions: int, *, like: Tensor) -> Tensor:
    """Return all discrete actions as points of the box, (A, A), of a tensor's type and place."""
    return one_hot(torch.arange(num_actions, device=like.device), num_actions).to(like.dtype)


def value_of_choice(values: Tensor, actions: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """Return the value of the action that `choose` means, (...), with a gradient in the actions.

    A critic learns values at corners of the box only, so that its own slope there means nothing.
    The gradient is that of the linear function through the values of the legal corners: half of
    what each is better than their mean. Illegal features have none, nor do the values.

    Args:
        values: Of every corner, (..., A).
        actions: (..., A), the policy's points.
        action_mask: See `choose`.
    """
    check_same(values=values, actions=actions)
    values = values.detach()
    legal = torch.ones_like(values) if action_mask is None else (action_mask != 0).to(values)
    mean = (values * legal).sum(-1, keepdim=True) / legal.sum(-1, keepdim=True).clamp(min=1)
    slope = 0.5 * (values - mean) * legal
    index = choose(actions, action_mask).unsqueeze(-1)
    chosen = values.gather(-1, index).squeeze(-1)
    return chosen + (slope * (actions - actions.detach())).sum(-1)
