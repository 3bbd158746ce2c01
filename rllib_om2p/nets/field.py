"""A network of a point and one time, stacked over agents; knows no loss.

It is the instantaneous velocity v(o, z, r) of a flow, or the noise e(o, z, r) of a diffusion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_om2p.nets.agent_net import AgentNet
from rllib_om2p.ops.shapes import check_stacked, check_times


class FieldNet(AgentNet):
    """One MLP per agent on the concatenated (obs, z, r), the time raw."""

    num_points = 1
    num_times = 1

    def forward(self, obs: Tensor, z: Tensor, r: Tensor) -> Tensor:
        """Return the field's vector, (G, B, A).

        Args:
            obs: Normalised observations, (G, B, O).
            z: Points on the path, (G, B, A).
            r: Time in [0, 1], (G, B, 1).
        """
        check_stacked("obs", obs, self.num_agents, self.obs_dim)
        check_stacked("z", z, self.num_agents, self.action_dim)
        check_times(z, r=r)
        output: Tensor = self.mlp(torch.cat((obs, z, r), dim=-1))
        return output
