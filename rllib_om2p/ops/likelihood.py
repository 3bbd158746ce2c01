"""Negative log-likelihoods of actions under simple distributions; knows no network.

Axes are (group, batch, feature).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rllib_om2p.ops.averages import batch_mean
from rllib_om2p.ops.shapes import check_same

LOG_SQRT_2_PI = math.log(2 * math.pi) / 2


def normal_nll(
    mean: Tensor, log_std: Tensor, actions: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return each agent's mean of -log N(a; mean, std^2), summed over features, (G,).

    Args:
        mean: (G, B, A).
        log_std: Same shape.
        actions: Same shape.
        weights: Of the transitions, (G, B), such as an agent's presence; equal if None.

    Raises:
        ValueError: the shapes differ.
    """
    check_same(mean=mean, log_std=log_std, actions=actions)
    squares = ((actions - mean) * torch.exp(-log_std)).square()
    return batch_mean((squares / 2 + log_std + LOG_SQRT_2_PI).sum(-1), weights)


def categorical_nll(
    logits: Tensor,
    actions: Tensor,
    action_mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return each agent's mean cross-entropy of its choices among legal actions, (G,).

    Args:
        logits: (G, B, A).
        actions: 1 where chosen and -1 elsewhere, same shape.
        action_mask: Nonzero where an action is legal, same shape; all are if None. A choice counts
            as legal whatever it says, or one illegal action in the data would make the loss
            infinite.
        weights: Of the transitions, (G, B), such as an agent's presence; equal if None.

    Raises:
        ValueError: the shapes differ.
    """
    check_same(logits=logits, actions=actions)
    if action_mask is not None:
        check_same(logits=logits, action_mask=action_mask)
        # Not -inf: where nothing is legal (an absent agent) the loss must stay a number.
        is_illegal = (action_mask == 0) & (actions <= 0)
        logits = logits.masked_fill(is_illegal, torch.finfo(logits.dtype).min)
    chosen = (actions + 1) / 2
    return batch_mean(-(chosen * torch.log_softmax(logits, dim=-1)).sum(-1), weights)


def perturb(logits: Tensor, noise: Tensor) -> Tensor:
    """Return logits whose largest legal entry is a sample of softmax(logits) among the legal.

    Adds Gumbel noise (arXiv 1611.01144), made of standard normal noise by its distribution
    function.

    Args:
        logits: (..., A).
        noise: Standard normal, same shape.

    Raises:
        ValueError: the shapes differ.
    """
    check_same(logits=logits, noise=noise)
    # -log of the normal distribution function is exponentially distributed.
    return logits - torch.log(-torch.special.log_ndtr(noise))
