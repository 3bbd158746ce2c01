"""Flow matching as tensor maths: the loss of an instantaneous velocity, and its Euler sampler.

Knows no network: a velocity function `v(z, r)` is passed in, and so are noise and times. The path
is `mean_flow.interpolate`: flow time 0 is noise x_0, 1 the dataset action x_1. Axes are (group,
batch, feature); times keep a trailing axis of size 1.

Source: flow matching, arXiv 2210.02747; as a behaviour policy, FQL, arXiv 2502.02538.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rllib_om2p.ops.averages import mean_square
from rllib_om2p.ops.mean_flow import conditional_velocity, one_step_action

FieldFn = Callable[[Tensor, Tensor], Tensor]


def flow_matching_loss(
    velocity: Tensor, noise: Tensor, actions: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return each agent's mean squared distance to the path's velocity x_1 - x_0, (G,).

    Args:
        velocity: The network's v(z_r, r), (G, B, A).
        noise: x_0, (G, B, A).
        actions: x_1 in [-1, 1], (G, B, A).
        weights: Of the transitions, (G, B), such as an agent's presence; equal if None.

    Raises:
        ValueError: the shapes differ.
    """
    return mean_square(velocity, conditional_velocity(noise, actions), weights)


def euler_action(
    velocity_fn: FieldFn, noise: Tensor, *, num_steps: int, clip: bool = True
) -> Tensor:
    """Return clip(x_1, -1, 1) of dx/dr = v(x, r) from x_0 at r = 0, by equal Euler steps.

    A step of length 1/K with a velocity is a jump with an average velocity that is constant.

    Args:
        velocity_fn: v(z, r) -> (G, B, A).
        noise: x_0, (G, B, A).
        num_steps: K, at least 1.
        clip: As in `mean_flow.one_step_action`.

    Raises:
        ValueError: num_steps is below 1.
    """
    return one_step_action(lambda z, r, t: velocity_fn(z, r), noise, num_steps=num_steps, clip=clip)
