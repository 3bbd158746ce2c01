"""Policies of one pass over the observation, stacked over agents; know no loss.

Actions are points of the normalised action box [-1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_om2p.nets.agent_net import AgentNet
from rllib_om2p.ops.shapes import check_stacked

# Of half the box: narrower, the likelihood of a repeated action is without bound.
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class ObservationNet(AgentNet):
    """One MLP per agent from observations alone."""

    def output(self, obs: Tensor) -> Tensor:
        """Return the MLPs' output for normalised observations (G, B, O)."""
        check_stacked("obs", obs, self.num_agents, self.obs_dim)
        output: Tensor = self.mlp(obs)
        return output


class DeterministicPolicy(ObservationNet):
    """A point inside the box for each observation, by a tanh."""

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions (G, B, A) in (-1, 1) of normalised observations (G, B, O)."""
        return torch.tanh(self.output(obs))


class CategoricalPolicy(ObservationNet):
    """A logit for each discrete action."""

    def forward(self, obs: Tensor) -> Tensor:
        """Return logits (G, B, A) of normalised observations (G, B, O)."""
        return self.output(obs)


class GaussianPolicy(ObservationNet):
    """The mean and log standard deviation of actions for each observation.

    The mean lies inside the box, by a tanh. The distribution does not end at the box: who samples
    clips.
    """

    features_per_action = 2

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return means in (-1, 1) and log standard deviations, both (G, B, A), of (G, B, O)."""
        mean, log_std = self.output(obs).chunk(2, dim=-1)
        return torch.tanh(mean), log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)


class NoisePolicy(AgentNet):
    """A point for each observation and noise, in one pass; nothing keeps it inside the box."""

    num_points = 1

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Return points (G, B, A) of normalised observations (G, B, O) and noise (G, B, A)."""
        check_stacked("obs", obs, self.num_agents, self.obs_dim)
        check_stacked("noise", noise, self.num_agents, self.action_dim)
        output: Tensor = self.mlp(torch.cat((obs, noise), dim=-1))
        return output
