"""Variance-preserving diffusion as tensor maths: path and deterministic sampler.

Knows no network: a noise predictor `e(z, r)` is passed in, and so are noise and times. Its loss is
the `averages.mean_square` of e(z_r, r) to x_0. Time runs as everywhere here, from 0 (noise x_0) to
1 (the dataset action x_1); the papers' diffusion time is 1 - r. z_r = alpha(r) x_1 + sigma(r) x_0
with alpha^2 + sigma^2 = 1 and

    log alpha^2 = -(BETA_MIN u + (BETA_MAX - BETA_MIN) u^2 / 2),  u = 1 - r.

Axes are (group, batch, feature); times keep a trailing axis of size 1.

Source: score-based models, arXiv 2011.13456 (VP SDE); DPM-Solver, arXiv 2206.00927; as a behaviour
policy, SfBC, arXiv 2209.14548.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from rllib_om2p.ops.shapes import check_same, check_times

NoiseFn = Callable[[Tensor, Tensor], Tensor]
Number = TypeVar("Number", float, Tensor)

# The linear schedule of the VP SDE (arXiv 2011.13456, appendix C).
BETA_MIN, BETA_MAX = 0.1, 20.0
# Sampling ends here: later, alpha / sigma grows without bound (arXiv 2206.00927, section 6).
LAST_TIME = 1 - 1e-3


def signal_and_noise(r: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha(r) and sigma(r), of r's shape."""
    exponent = _exponent(1 - r)
    return torch.exp(-exponent / 2), torch.sqrt(-torch.expm1(-exponent))


def diffuse(noise: Tensor, actions: Tensor, r: Tensor) -> Tensor:
    """Return the point z_r = alpha(r) x_1 + sigma(r) x_0.

    Args:
        noise: x_0, (G, B, A).
        actions: x_1 in [-1, 1], (G, B, A).
        r: Time in [0, 1], (G, B, 1).

    Raises:
        ValueError: the shapes differ, or r lacks the trailing axis.
    """
    check_same(noise=noise, actions=actions)
    check_times(noise, r=r)
    alpha, sigma = signal_and_noise(r)
    return alpha * actions + sigma * noise


def sampling_times(num_steps: int) -> list[float]:
    """Return the num_steps + 1 times of the sampler, from 0 to `LAST_TIME`.

    log(alpha / sigma) grows by equal steps, so that each step removes an equal factor of noise.

    Raises:
        ValueError: num_steps is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    first, last = (-math.log(math.expm1(_exponent(1 - r))) / 2 for r in (0.0, LAST_TIME))
    times = [0.0]
    for index in range(1, num_steps + 1):
        exponent = math.log1p(math.exp(-2 * (first + (last - first) * index / num_steps)))
        root = math.sqrt(BETA_MIN**2 + 2 * (BETA_MAX - BETA_MIN) * exponent)
        times.append(1 - (root - BETA_MIN) / (BETA_MAX - BETA_MIN))
    return times


def diffusion_action(
    noise_fn: NoiseFn, noise: Tensor, *, num_steps: int, clip: bool = True
) -> Tensor:
    """Return actions from noise by `num_steps` first-order steps of the probability-flow ODE.

    Each step predicts the clean action (z - sigma e) / alpha, clips it to [-1, 1] and goes to the
    next time with the noise that the clipped action implies (DDIM, arXiv 2010.02502).

    Args:
        noise_fn: e(z, r) -> (G, B, A).
        noise: x_0, (G, B, A).
        num_steps: K, at least 1; each calls `noise_fn` once.
        clip: False leaves the last step's action as it is predicted, where the largest feature is
            the action: clipped features would tie.

    Raises:
        ValueError: num_steps is below 1.
    """
    times = sampling_times(num_steps)
    z = noise
    for now, after in zip(times, times[1:], strict=False):
        r = torch.full_like(noise[..., :1], now)
        (alpha, sigma), (next_alpha, next_sigma) = _coefficients(now), _coefficients(after)
        clean = (z - sigma * noise_fn(z, r)) / alpha
        if after == times[-1] and not clip:
            return clean
        clean = clean.clamp(-1, 1)
        z = next_alpha * clean + next_sigma * (z - alpha * clean) / sigma
    return z.clamp(-1, 1)


def _exponent(u: Number) -> Number:
    return BETA_MIN * u + (BETA_MAX - BETA_MIN) / 2 * u * u


def _coefficients(time: float) -> tuple[float, float]:
    exponent = _exponent(1 - time)
    return math.exp(-exponent / 2), math.sqrt(-math.expm1(-exponent))
