"""Weights of transitions by their advantage, as in advantage-weighted regression.

Axes are (group, batch).

Source: advantage-weighted regression, arXiv 1910.00177; the unit of the temperature is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rllib_om2p.ops.averages import batch_mean
from rllib_om2p.ops.shapes import check_same

if TYPE_CHECKING:
    from torch import Tensor

# How many times the mean one transition may count.
LARGEST_WEIGHT = 20.0


def advantage_weights(
    advantages: Tensor, presence: Tensor | None = None, *, temperature: float
) -> Tensor:
    """Return weights exp(A / (temperature · std A)) with mean 1, (G, B), without gradient.

    The standard deviation is each agent's over the batch, so that a temperature means the same
    whatever the scale of the rewards. No weight is above `LARGEST_WEIGHT` times the mean of all
    before it was cut; the mean is 1 again afterwards. Means count those who are present.

    Args:
        advantages: A, (G, B).
        presence: 1 where an agent is present, else 0 as is then its weight, (G, B); all if None.
        temperature: Above 0; the smaller, the more the best count.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Source: arXiv 1910.00177, algorithm 1; dividing by the deviation and the mean is ours.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    advantages = advantages.detach()
    if presence is None:
        presence = torch.ones_like(advantages)
    check_same(advantages=advantages, presence=presence)
    centred = advantages - batch_mean(advantages, presence)[:, None]
    deviation = batch_mean(centred.square(), presence).sqrt()[:, None]
    logits = centred / (temperature * deviation + torch.finfo(centred.dtype).eps)
    # The best has weight 1 before the mean is divided out: nothing overflows.
    logits = logits.masked_fill(presence == 0, -torch.inf)
    top = logits.amax(dim=-1, keepdim=True)
    # Where nobody is present the top is -inf too, and -inf less itself would be NaN.
    weights = (logits - top.clamp(min=torch.finfo(top.dtype).min)).exp()
    weights = _of_mean_one(weights, presence).clamp(max=LARGEST_WEIGHT)
    return _of_mean_one(weights, presence)


def effective_fraction(weights: Tensor, presence: Tensor | None = None) -> Tensor:
    """Return how large a part of a batch of equal weights would tell as much, (G, B) -> (G,).

    Kish's effective sample size over the size: (mean w)² / mean w², in (0, 1]; 0 where nobody is
    present.
    """
    squares = batch_mean(weights.square(), presence)
    return batch_mean(weights, presence).square() / squares.clamp(
        min=torch.finfo(weights.dtype).tiny
    )


def _of_mean_one(weights: Tensor, presence: Tensor) -> Tensor:
    means = batch_mean(weights, presence)[:, None]
    return weights / means.clamp(min=torch.finfo(weights.dtype).tiny)
