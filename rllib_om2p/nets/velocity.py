"""The average-velocity network of a mean-flow policy, stacked over agents; knows no loss.

Symbols as in ops.mean_flow: u(o, z, r, t) is the average velocity from r to t at the point z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_om2p.nets.agent_net import AgentNet
from rllib_om2p.ops.shapes import check_same, check_stacked, check_times


class VelocityNet(AgentNet):
    """One average-velocity MLP per agent on the concatenated (obs, z, r, t), times raw."""

    num_points = 1
    num_times = 2

    def forward(self, obs: Tensor, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Return the average velocity u(o, z, r, t).

        Args:
            obs: Normalised observations, (G, B, O).
            z: Points on the path, (G, B, A).
            r: Start of the jump in [0, 1], (G, B, 1).
            t: End of the jump in [r, 1], (G, B, 1).

        Returns:
            u, (G, B, A).
        """
        output: Tensor = self.mlp(self._join(obs, z, r, t))
        return output

    def forward_with_tangent(
        self, obs: Tensor, z: Tensor, r: Tensor, t: Tensor, *, dz: Tensor, dr: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return u and its exact derivative along (dz, dr); obs and t are held fixed.

        The mean-flow target's du/dr has dz = v and dr = 1. The derivative carries no graph.

        Args:
            obs: Normalised observations, (G, B, O).
            z: Points on the path, (G, B, A).
            r: Start of the jump, (G, B, 1).
            t: End of the jump, (G, B, 1).
            dz: Direction of z, (G, B, A).
            dr: Direction of r, (G, B, 1).

        Returns:
            u and du, both (G, B, A).
        """
        check_same(z=z, dz=dz)
        check_times(z, dr=dr)
        x = self._join(obs, z, r, t)
        dx = torch.cat((torch.zeros_like(obs), dz, dr, torch.zeros_like(dr)), dim=-1)
        return self.mlp.forward_with_tangent(x, dx)

    def _join(self, obs: Tensor, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        check_stacked("obs", obs, self.num_agents, self.obs_dim)
        check_stacked("z", z, self.num_agents, self.action_dim)
        check_times(z, r=r, t=t)
        return torch.cat((obs, z, r, t), dim=-1)
