"""Temporal-difference targets and losses, and target networks; knows no network.

Critic values are (K, G, B) over ensemble members, agents (or teams) and batch.
Flow time does not occur here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from rllib_om2p.ops.averages import batch_mean
from rllib_om2p.ops.shapes import check_same

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Aggregate = Literal["mean", "min"]


def aggregate(q: Tensor, how: Aggregate) -> Tensor:
    """Reduce the leading ensemble axis of (K, ...) by mean or minimum."""
    if how == "mean":
        return q.mean(dim=0)
    if how == "min":
        return q.amin(dim=0)
    raise ValueError(f'aggregate must be "mean" or "min", got {how!r}.')


def softmax_value(q: Tensor, *, alpha: float) -> Tensor:
    """Return the value of choosing among candidates by the softmax of alpha times their values.

    The weights are those of the ensemble's mean, so that all members value the same policy.

    Args:
        q: Values of M candidates, (K, G, B, M).
        alpha: Inverse temperature, at least 0; 0 is the mean over the candidates.

    Returns:
        (K, G, B).

    Source: SfBC (arXiv 2209.14548), section 3.2.
    """
    weights = torch.softmax(alpha * q.mean(dim=0), dim=-1)
    return (weights * q).sum(dim=-1)


def td_target(
    rewards: Tensor, next_q: Tensor, terminateds: Tensor | None = None, *, gamma: float
) -> Tensor:
    """Return r + gamma (1 - terminated) Q', without gradient.

    A time limit is a truncation, not a termination, so it bootstraps.

    Args:
        rewards: (G, B).
        next_q: Aggregated target value of the next observation, same shape.
        terminateds: 1 or True where the episode ended, same shape; None if Q' is 0 there already.
        gamma: Discount in [0, 1].

    Raises:
        ValueError: the shapes differ; they would broadcast.

    Source: OM2P eq. 7.
    """
    check_same(rewards=rewards, next_q=next_q)
    if terminateds is not None:
        check_same(rewards=rewards, terminateds=terminateds)
        next_q = (1 - terminateds.to(rewards.dtype)) * next_q
    return (rewards + gamma * next_q).detach()


def td_loss(q: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the squared error of every member to one target, mean over members and batch.

    Args:
        q: (K, G, B), G agents or teams.
        target: (G, B).
        weights: Of the transitions, (G, B), such as an agent's presence; equal if None.

    Returns:
        Loss per agent or team, (G,).

    Raises:
        ValueError: the shapes of a member and the target, or of the weights, differ.

    Source: OM2P eq. 7.
    """
    if q.ndim != target.ndim + 1 or q.shape[1:] != target.shape:
        raise ValueError(
            f"q must be (num_critics, *target), got {tuple(q.shape)} and {tuple(target.shape)}."
        )
    if weights is None:
        return (q - target).square().mean(dim=(0, -1))
    return batch_mean((q - target).square().mean(dim=0), weights)


def expectile_loss(
    values: Tensor, targets: Tensor, expectile: float, weights: Tensor | None = None
) -> Tensor:
    """Return the loss that a target's expectile minimises, mean over the batch.

    |expectile - 1[target < value]| (target - value)^2: 0.5 is half the squared error, and towards 1
    the best value is the largest target that the data support.

    Args:
        values: (G, B), G agents or teams.
        targets: Same shape; no gradient flows into them.
        expectile: In (0, 1).
        weights: Of the transitions, (G, B), such as an agent's presence; equal if None.

    Returns:
        Loss per agent or team, (G,).

    Raises:
        ValueError: the shapes differ; they would broadcast.

    Source: arXiv 2110.06169 eq. 5.
    """
    check_same(values=values, targets=targets)
    difference = targets.detach() - values
    side = torch.where(difference < 0, 1 - expectile, expectile)
    return batch_mean(side * difference.square(), weights)


@torch.no_grad()
def polyak_update(targets: Sequence[Tensor], sources: Sequence[Tensor], tau: float) -> None:
    """Move the targets in place: target <- tau source + (1 - tau) target, in one fused call.

    Raises:
        ValueError: the lists differ in length.

    Source: OM2P, after every gradient update.
    """
    if len(targets) != len(sources):
        raise ValueError(
            f"targets and sources must pair up, got {len(targets)} and {len(sources)}."
        )
    torch._foreach_lerp_(list(targets), list(sources), tau)
