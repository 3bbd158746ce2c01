"""Models of behaviour that sample in several steps: what algorithms fit to the data's actions.

A model holds no parameters: it says which network it needs (`net`), what its loss draws, the loss,
and how noise becomes an action. Axes are (group, batch, feature).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rllib_om2p.core.agent_groups import GroupBatch
from rllib_om2p.core.critic_loss import normal_like
from rllib_om2p.nets.agent_net import AgentNet
from rllib_om2p.nets.field import FieldNet
from rllib_om2p.ops.averages import mean_square
from rllib_om2p.ops.diffusion import LAST_TIME, diffuse, diffusion_action
from rllib_om2p.ops.flow_matching import euler_action, flow_matching_loss
from rllib_om2p.ops.mean_flow import interpolate


class PathDraws(NamedTuple):
    """One group's randomness of a loss on a path from noise to actions.

    Attributes:
        noise: x_0, (G, B, A).
        times: Uniform in [0, 1), (G, B, 1).
    """

    noise: Tensor
    times: Tensor

    @classmethod
    def like(cls, actions: Tensor, generator: torch.Generator) -> PathDraws:
        """Return noise and times for one group's actions, (G, B, A)."""
        shape, device = (*actions.shape[:2], 1), actions.device
        times = torch.rand(shape, generator=generator, device=device, dtype=actions.dtype)
        return cls(normal_like(actions, generator), times)


@dataclass(frozen=True)
class FlowModel:
    """Flow matching with an Euler sampler [FQL section 4.1, arXiv 2502.02538].

    Attributes:
        num_steps: Of the sampler.
    """

    num_steps: int
    net: ClassVar[type[AgentNet]] = FieldNet

    def draw(self, actions: Tensor, generator: torch.Generator) -> PathDraws:
        """Return what `loss` draws for one group's actions, (G, B, A)."""
        return PathDraws.like(actions, generator)

    def loss(self, net: nn.Module, group: GroupBatch, draws: PathDraws) -> Tensor:
        """Return each agent's loss, (G,)."""
        z = interpolate(draws.noise, group.actions, draws.times)
        velocity = net(group.obs, z, draws.times)
        return flow_matching_loss(velocity, draws.noise, group.actions, group.alive)

    def sample(self, net: Any, obs: Tensor, noise: Tensor, *, clip: bool = True) -> Tensor:
        """Return actions (G, B, A) from noise x_0 of that shape, in the box if `clip`."""
        return euler_action(lambda z, r: net(obs, z, r), noise, num_steps=self.num_steps, clip=clip)


@dataclass(frozen=True)
class DiffusionModel:
    """Variance-preserving diffusion, a noise predictor [SfBC section 3.1, arXiv 2209.14548].

    Attributes:
        num_steps: Of the sampler.
    """

    num_steps: int
    net: ClassVar[type[AgentNet]] = FieldNet

    def draw(self, actions: Tensor, generator: torch.Generator) -> PathDraws:
        """Return what `loss` draws for one group's actions, (G, B, A)."""
        return PathDraws.like(actions, generator)

    def loss(self, net: nn.Module, group: GroupBatch, draws: PathDraws) -> Tensor:
        """Return each agent's loss, (G,)."""
        times = LAST_TIME * draws.times
        predicted = net(group.obs, diffuse(draws.noise, group.actions, times), times)
        return mean_square(predicted, draws.noise, group.alive)

    def sample(self, net: Any, obs: Tensor, noise: Tensor, *, clip: bool = True) -> Tensor:
        """Return actions (G, B, A) from noise x_0 of that shape, in the box if `clip`."""
        return diffusion_action(
            lambda z, r: net(obs, z, r), noise, num_steps=self.num_steps, clip=clip
        )
