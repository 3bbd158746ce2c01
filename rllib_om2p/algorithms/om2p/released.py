"""`form="released"`: matching and acting as in the code that OM2P's authors published.

It differs from their paper: u is evaluated at a point placed at the END time e, for a pair (s, e)
of independent times in any order; the derivative's step of 1e-12 is none in float32, so that the
target v - (s - e) du/de is v; and the action is u itself, without the noise that it starts from.
At e = 1 the point IS the action, which acting never shows the network. The targets follow the
critics as they were before the step. Behaviour cloning with it is no better than noise; it stands
here so that published numbers can be made again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_om2p.core.matching import Guide, MatchingDraws, MeanFlowMatching
from rllib_om2p.nets.sharing import SharedNet
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.mean_flow import VelocityFn, conditional_velocity, interpolate
from rllib_om2p.ops.times import independent_times


class ReleasedMatching(MeanFlowMatching):
    """The matching loss of the published code; see `MeanFlowMatching`."""

    def regression(
        self,
        actor: VelocityNet | SharedNet,
        obs: Tensor,
        actions: Tensor,
        draws: MatchingDraws,
        *,
        guide: Guide | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return u(o, z_e, s, e) and the velocity v, both (G, B, A)."""
        assert guide is None
        s, e = independent_times(draws.uniforms, self.time_table)
        z = interpolate(draws.noise, actions, e)
        return actor(obs, z, s, e), conditional_velocity(draws.noise, actions)


def released_action(velocity_fn: VelocityFn, noise: Tensor, *, clip: bool = True) -> Tensor:
    """Return actions clip(u(x_0, 0, 1), -1, 1).

    Args:
        velocity_fn: u(z, r, t) -> (G, B, A).
        noise: x_0, (G, B, A).
        clip: As in `one_step_action`.
    """
    zero = torch.zeros_like(noise[..., :1])
    actions = velocity_fn(noise, zero, torch.ones_like(zero))
    return actions.clamp(-1, 1) if clip else actions
