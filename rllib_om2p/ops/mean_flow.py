"""One-step mean-flow policies as tensor maths: path, target, derivative, action, loss.

Knows no network: a velocity function `u(z, r, t)` is passed in, and so are noise and times.
Axes are (group, batch, feature); times keep a trailing axis of size 1. Flow time 0 is noise x_0 and
1 is the dataset action x_1, `0 <= r <= t <= 1`, and u is evaluated at the START r of the jump.

Source: OM2P eq. 1, 2, 3, 5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rllib_om2p.ops.averages import batch_mean, mean_square
from rllib_om2p.ops.shapes import check_same, check_times

VelocityFn = Callable[[Tensor, Tensor, Tensor], Tensor]

# Measured at a 4x512 net: below this the rounding of float32 is more than 3 % of the derivative.
MIN_STEP_FLOAT32 = 1e-4


def interpolate(noise: Tensor, actions: Tensor, r: Tensor) -> Tensor:
    """Return the point z_r = (1 - r) x_0 + r x_1 of the straight path.

    Args:
        noise: x_0, (G, B, A).
        actions: x_1 in [-1, 1], (G, B, A).
        r: Flow time in [0, 1], (G, B, 1).

    Raises:
        ValueError: the shapes differ, or r lacks the trailing axis.
    """
    check_same(noise=noise, actions=actions)
    check_times(noise, r=r)
    return (1 - r) * noise + r * actions


def conditional_velocity(noise: Tensor, actions: Tensor) -> Tensor:
    """Return the velocity x_1 - x_0 of the straight path, (G, B, A)."""
    check_same(noise=noise, actions=actions)
    return actions - noise


def mean_flow_target(velocity: Tensor, derivative: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """Return the regression target of the average velocity from r to t, without gradient.

    target = v + (t - r) du/dr: differentiate (t - r) u = integral of v from r to t by r, where
    du/dr = (∂u/∂z) v + ∂u/∂r is the total derivative along the path.

    Args:
        velocity: Conditional velocity x_1 - x_0, (G, B, A).
        derivative: du/dr at z_r, (G, B, A).
        r: Start of the jump in [0, 1], (G, B, 1).
        t: End of the jump in [r, 1], (G, B, 1).

    Raises:
        ValueError: the shapes differ, or r or t lacks the trailing axis; (B,) would broadcast.

    Source: OM2P eq. 1, 2.
    """
    check_same(velocity=velocity, derivative=derivative)
    check_times(velocity, r=r, t=t)
    return (velocity + (t - r) * derivative).detach()


def finite_difference(
    velocity_fn: VelocityFn,
    z: Tensor,
    velocity: Tensor,
    r: Tensor,
    t: Tensor,
    *,
    step: float,
    value: Tensor,
) -> Tensor:
    """Return du/dr as the forward difference of u along the path, without a graph.

    (u(z + d v, r + d, t) - u(z, r, t)) / d. Where t - r < d the moved start lies past the end, and
    where r > 1 - d past 1. The paper's formula is kept there: a network is smooth and defined
    beyond the triangle of trained times, and the target multiplies by t - r, so that such an
    element moves its target by less than |u(r + d) - u(r)|, which vanishes with d.

    Args:
        velocity_fn: u(z, r, t) -> (G, B, A).
        z: Point on the path, (G, B, A).
        velocity: Direction of z, the conditional velocity, (G, B, A).
        r: Start of the jump, (G, B, 1).
        t: End of the jump, held fixed, (G, B, 1).
        step: d > 0; see `check_finite_difference_step`.
        value: u(z, r, t), which the loss needs as well, (G, B, A).

    Raises:
        ValueError: the shapes differ, or r or t lacks the trailing axis.

    Source: OM2P eq. 5.
    """
    check_same(z=z, velocity=velocity, value=value)
    check_times(z, r=r, t=t)
    with torch.no_grad():
        moved = velocity_fn(z + step * velocity, r + step, t)
        return (moved - value) / step


def check_finite_difference_step(step: float, dtype: torch.dtype) -> None:
    """Raise ValueError where rounding would drown the finite difference.

    Half precision cannot resolve any useful step. In float32 the error is 3 % of the derivative at
    1e-4 and 200 % at 1e-6; the paper's 1e-12 is exactly no step at all (`r + 1e-12 == r`).

    Args:
        step: d of `finite_difference`.
        dtype: The precision in which the network's products are computed (TF32 counts as
            bfloat16).

    Raises:
        ValueError: the step is too small for the precision, or not in (0, 1).
    """
    if not 0 < step < 1:
        raise ValueError(f"finite_difference_step must be in (0, 1), got {step}.")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f'derivative="finite_difference" cannot resolve a step in {dtype}; '
            'use derivative="tangent", which is exact.'
        )
    smallest = MIN_STEP_FLOAT32 * torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    if step < smallest:
        raise ValueError(
            f"finite_difference_step must be at least {smallest:.1g} in {dtype}, got {step}; "
            'below that rounding drowns the difference. Use derivative="tangent", which is exact.'
        )


def one_step_action(
    velocity_fn: VelocityFn, noise: Tensor, *, num_steps: int = 1, clip: bool = True
) -> Tensor:
    """Return actions clip(x_0 + u(x_0, 0, 1), -1, 1), or `num_steps` equal jumps from 0 to 1.

    Args:
        velocity_fn: u(z, r, t) -> (G, B, A).
        noise: x_0, (G, B, A).
        num_steps: Number of jumps, at least 1.
        clip: False where the largest feature is the action: clipped features would tie.

    Raises:
        ValueError: num_steps is below 1.

    Source: OM2P eq. 3.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    x = noise
    for index in range(num_steps):
        r = torch.full_like(noise[..., :1], index / num_steps)
        t = torch.full_like(r, (index + 1) / num_steps)
        x = x + velocity_fn(x, r, t) / num_steps
    return x.clamp(-1, 1) if clip else x


def end_of_path(velocity_fn: VelocityFn, z: Tensor, r: Tensor, *, clip: bool = True) -> Tensor:
    """Return the actions clip(z + (1 - r) u(z, r, 1), -1, 1) to which points of a path jump.

    From r = 0, where z is noise, it is `one_step_action`.

    Args:
        velocity_fn: u(z, r, t) -> (G, B, A).
        z: Points on the path, (G, B, A).
        r: Their flow times in [0, 1], (G, B, 1).
        clip: As in `one_step_action`.

    Source: ours, after OM2P eq. 3.
    """
    check_times(z, r=r)
    ends = z + (1 - r) * velocity_fn(z, r, torch.ones_like(r))
    return ends.clamp(-1, 1) if clip else ends


def mean_flow_loss(u: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return each agent's mean squared error over batch and action axes, (G, B, A) -> (G,).

    Args:
        u: The network's average velocity, (G, B, A).
        target: From `mean_flow_target`, (G, B, A).
        weights: Of the transitions, (G, B), such as an agent's presence; equal if None.
    """
    return mean_square(u, target, weights)


def adaptive_mean_flow_loss(
    u: Tensor, target: Tensor, weights: Tensor | None = None, *, power: float, constant: float
) -> Tensor:
    """Return each agent's matching loss with large errors weighted down, (G, B, A) -> (G,).

    A transition's squared error e, mean over the action axes, is multiplied by
    stopgrad(1 / (e + constant)^power): power 0 is `mean_flow_loss`, 1/2 weighs like an absolute and
    1 like a logarithmic error. The weights are not normalised.

    Args:
        u: The network's average velocity, (G, B, A).
        target: From `mean_flow_target`, (G, B, A).
        weights: Of the transitions, (G, B), such as an agent's presence; equal if None.
        power: p, at least 0.
        constant: c > 0, keeps the weight of a vanishing error finite.

    Source: arXiv 2505.13447, section on loss metrics.
    """
    check_same(u=u, target=target)
    error = (u - target).square().mean(dim=-1)
    return batch_mean(error * (error.detach() + constant) ** -power, weights)
