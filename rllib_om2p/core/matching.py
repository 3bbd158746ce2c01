"""Mean-flow matching as a loss on networks: what one-step policies clone behaviour with.

Joins `ops.mean_flow` and `ops.times` to average-velocity networks; knows no critic and no config.
Axes are (group, batch, feature).

Source: OM2P eq. 1, 2, 4, 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rllib_om2p.core.critic_loss import normal_like
from rllib_om2p.nets.sharing import SharedNet
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.mean_flow import (
    check_finite_difference_step,
    conditional_velocity,
    finite_difference,
    interpolate,
    mean_flow_loss,
    mean_flow_target,
)
from rllib_om2p.ops.times import sample_times

Guide = Callable[[Tensor, Tensor, Tensor], Tensor]
Derivative = Literal["finite_difference", "tangent", "none"]
DERIVATIVES: tuple[Derivative, ...] = ("finite_difference", "tangent", "none")


def check_derivative(derivative: Derivative, step: float, precision: str) -> None:
    """Raise ValueError where the derivative is a finite difference that rounding would drown.

    Args:
        derivative: How du/dr is computed.
        step: Of the finite difference.
        precision: Of the networks' products, "float32" or "bfloat16".
    """
    if derivative == "finite_difference":
        products = getattr(torch, precision) if _has_exact_products() else torch.bfloat16
        check_finite_difference_step(step, products)


def _has_exact_products() -> bool:
    """Whether this process multiplies float32 tensors in float32, not in TF32 or bfloat16."""
    places: list[Any] = [torch.backends, torch.backends.cuda, torch.backends.mkldnn]
    places += [getattr(place, "matmul", None) for place in places]
    chosen = {getattr(place, "fp32_precision", "none") for place in places}
    if not chosen <= {"none", "ieee"}:
        return False
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # of what was set, not all can be said in its words (torch 2.9 on)
        return True


class MatchingDraws(NamedTuple):
    """One group's randomness of the matching loss.

    Attributes:
        noise: x_0, (G, B, A).
        uniforms: For the flow times, (2, G, B, 1).
        instant: Where the jump is empty, (G, B, 1), or None.
    """

    noise: Tensor
    uniforms: Tensor
    instant: Tensor | None


@dataclass(frozen=True, kw_only=True)
class MeanFlowMatching:
    """The matching loss L_bc [OM2P eq. 2].

    Attributes:
        derivative: How du/dr is computed.
        time_table: Inverse CDF of the flow times, (P,).
        step: Step of the finite difference; the other derivatives have none.
        instant_fraction: Part of the batch with an empty jump.
    """

    derivative: Derivative
    time_table: Tensor
    step: float | None = None
    instant_fraction: float = 0.0

    def draw(self, actions: Tensor, generator: torch.Generator) -> MatchingDraws:
        """Return noise and times for one group's actions, (G, B, A)."""
        shape, device = (*actions.shape[:2], 1), actions.device
        uniforms = torch.rand((2, *shape), generator=generator, device=device)
        instant = None
        if self.instant_fraction > 0:
            instant = torch.rand(shape, generator=generator, device=device)
            instant = instant < self.instant_fraction
        return MatchingDraws(normal_like(actions, generator), uniforms, instant)

    def __call__(
        self,
        actor: VelocityNet | SharedNet,
        obs: Tensor,
        actions: Tensor,
        draws: MatchingDraws,
        weights: Tensor | None = None,
        *,
        guide: Guide | None = None,
    ) -> Tensor:
        """Return each agent's loss, (G,).

        Args:
            actor: See `regression`, as for all others but one.
            obs: (G, B, O).
            actions: (G, B, A).
            draws: From `draw`.
            weights: Of the transitions, (G, B), such as an agent's presence; equal if None.
            guide: `(z, r, v)` to the velocity to match.
        """
        return mean_flow_loss(*self.regression(actor, obs, actions, draws, guide=guide), weights)

    def regression(
        self,
        actor: VelocityNet | SharedNet,
        obs: Tensor,
        actions: Tensor,
        draws: MatchingDraws,
        *,
        guide: Guide | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the networks' velocity and what it is regressed to, both (G, B, A).

        Args:
            actor: The group's average-velocity networks.
            obs: Normalised observations, (G, B, O).
            actions: The data's actions x_1 in [-1, 1], (G, B, A).
            draws: From `draw`.
            guide: `(z, r, v)` to the velocity to match in place of v = x_1 - x_0, without gradient.
        """
        z, r, t = self.points(actions, draws)
        velocity = conditional_velocity(draws.noise, actions)
        if guide is not None:
            velocity = guide(z, r, velocity)
        u, derivative = self.velocity_and_derivative(actor, obs, z, r, t, velocity)
        return u, mean_flow_target(velocity, derivative, r, t)

    def points(self, actions: Tensor, draws: MatchingDraws) -> tuple[Tensor, Tensor, Tensor]:
        """Return points of the paths, (G, B, A), and start and end of the jumps, (G, B, 1).

        Args:
            actions: The data's actions x_1 in [-1, 1], (G, B, A).
            draws: From `draw`.
        """
        r, t = sample_times(draws.uniforms, self.time_table, instant=draws.instant)
        return interpolate(draws.noise, actions, r), r, t

    def velocity_and_derivative(
        self,
        actor: VelocityNet | SharedNet,
        obs: Tensor,
        z: Tensor,
        r: Tensor,
        t: Tensor,
        velocity: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return u(o, z, r, t) and du/dr along the path, both (G, B, A); only u has a graph.

        Args:
            actor: The group's average-velocity networks.
            obs: Normalised observations, (G, B, O).
            z: Points on the path, (G, B, A).
            r: Start of the jumps, (G, B, 1).
            t: End of the jumps, (G, B, 1).
            velocity: Direction of the path at z, (G, B, A).
        """
        if self.derivative == "tangent":
            return actor.forward_with_tangent(obs, z, r, t, dz=velocity, dr=torch.ones_like(r))
        u = actor(obs, z, r, t)
        if self.derivative == "none":
            return u, torch.zeros_like(u)
        assert self.step is not None
        derivative = finite_difference(
            lambda z, r, t: actor(obs, z, r, t), z, velocity, r, t, step=self.step, value=u.detach()
        )
        return u, derivative
