"""The kinds of policies that behaviour is cloned with: network, loss and sampler of each.

A policy holds no parameters; see `core.generative` for those that sample in several steps. Axes are
(group, batch, feature).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rllib_om2p.core.agent_groups import GroupBatch
from rllib_om2p.core.generative import DiffusionModel, FlowModel
from rllib_om2p.core.matching import MatchingDraws, MeanFlowMatching
from rllib_om2p.nets.agent_net import AgentNet
from rllib_om2p.nets.policies import CategoricalPolicy, DeterministicPolicy, GaussianPolicy
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.averages import mean_square
from rllib_om2p.ops.likelihood import categorical_nll, normal_nll, perturb
from rllib_om2p.ops.mean_flow import one_step_action
from rllib_om2p.ops.times import time_table

PolicyName = Literal["deterministic", "gaussian", "flow", "diffusion", "mean_flow"]


class Policy(Protocol):
    """What behaviour cloning asks of a kind of policy."""

    @property
    def net(self) -> type[AgentNet]:
        """The stacked network, built from (num_agents, obs_dim, action_dim, hidden)."""

    def draw(self, actions: Tensor, generator: torch.Generator) -> Any:
        """Return what `loss` draws for one group's actions, (G, B, A)."""

    def loss(self, net: Any, group: GroupBatch, draws: Any) -> Tensor:
        """Return each agent's loss, (G,)."""

    def sample(self, net: Any, obs: Tensor, noise: Tensor, *, clip: bool) -> Tensor:
        """Return points whose largest features are the discrete actions, or actions, (G, B, A).

        Args:
            net: The stacked network.
            obs: Normalised observations, (G, B, O).
            noise: Standard normal, (G, B, A).
            clip: Whether points are kept in the box; not those of discrete actions, since clipped
                features would tie.
        """


@dataclass(frozen=True)
class Deterministic:
    """The mean action: least squares."""

    net: ClassVar[type[AgentNet]] = DeterministicPolicy

    def draw(self, actions: Tensor, generator: torch.Generator) -> None:
        """Return nothing: the loss draws nothing."""

    def loss(self, net: DeterministicPolicy, group: GroupBatch, draws: None) -> Tensor:
        """Return each agent's mean squared error, (G,)."""
        return mean_square(net(group.obs), group.actions, group.alive)

    def sample(self, net: DeterministicPolicy, obs: Tensor, noise: Tensor, *, clip: bool) -> Tensor:
        """Return the actions (G, B, A), in the box by the network; the noise plays no part."""
        actions: Tensor = net(obs)
        return actions


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution per feature: maximum likelihood; samples are clipped to the box.

    Not squashed by a tanh: recorded actions stand on the edge of the box, where a squashed
    distribution has no likelihood.
    """

    net: ClassVar[type[AgentNet]] = GaussianPolicy

    def draw(self, actions: Tensor, generator: torch.Generator) -> None:
        """Return nothing: the loss draws nothing."""

    def loss(self, net: GaussianPolicy, group: GroupBatch, draws: None) -> Tensor:
        """Return each agent's negative log-likelihood, (G,)."""
        mean, log_std = net(group.obs)
        return normal_nll(mean, log_std, group.actions, group.alive)

    def sample(self, net: GaussianPolicy, obs: Tensor, noise: Tensor, *, clip: bool) -> Tensor:
        """Return actions in the box, (G, B, A); discrete ones are `Categorical`'s."""
        mean, log_std = net(obs)
        return (mean + log_std.exp() * noise).clamp(-1, 1)


@dataclass(frozen=True)
class Categorical:
    """A probability for each discrete action: cross-entropy among the legal ones.

    Attributes:
        is_sampled: Act by a sample; else by the likeliest action.
    """

    is_sampled: bool
    net: ClassVar[type[AgentNet]] = CategoricalPolicy

    def draw(self, actions: Tensor, generator: torch.Generator) -> None:
        """Return nothing: the loss draws nothing."""

    def loss(self, net: CategoricalPolicy, group: GroupBatch, draws: None) -> Tensor:
        """Return each agent's cross-entropy, (G,)."""
        return categorical_nll(net(group.obs), group.actions, group.action_mask, group.alive)

    def sample(self, net: CategoricalPolicy, obs: Tensor, noise: Tensor, *, clip: bool) -> Tensor:
        """Return logits (G, B, A), perturbed where actions are sampled; never clipped."""
        logits: Tensor = net(obs)
        return perturb(logits, noise) if self.is_sampled else logits


@dataclass(frozen=True)
class MeanFlow:
    """One-step mean flow: OM2P without its critic, at uniform times and with the exact derivative.

    Attributes:
        num_steps: Equal jumps from noise to action.
        matching: The loss.
    """

    num_steps: int
    matching: MeanFlowMatching
    net: ClassVar[type[AgentNet]] = VelocityNet

    def draw(self, actions: Tensor, generator: torch.Generator) -> MatchingDraws:
        """Return what `loss` draws for one group's actions, (G, B, A)."""
        return self.matching.draw(actions, generator)

    def loss(self, net: VelocityNet, group: GroupBatch, draws: MatchingDraws) -> Tensor:
        """Return each agent's matching loss, (G,)."""
        return self.matching(net, group.obs, group.actions, draws, group.alive)

    def sample(self, net: VelocityNet, obs: Tensor, noise: Tensor, *, clip: bool) -> Tensor:
        """Return actions (G, B, A), in the box if `clip`."""
        return one_step_action(
            lambda z, r, t: net(obs, z, r, t), noise, num_steps=self.num_steps, clip=clip
        )


POLICIES: tuple[PolicyName, ...] = ("deterministic", "gaussian", "flow", "diffusion", "mean_flow")
# Evaluations of the network per action.
NUM_STEPS: Mapping[PolicyName, int] = {"flow": 10, "diffusion": 15, "mean_flow": 1}


def make_policy(
    name: PolicyName,
    *,
    is_discrete: bool,
    num_steps: int | None = None,
    device: torch.device | None = None,
) -> Policy:
    """Return a kind of policy by its name.

    Args:
        name: One of `POLICIES`.
        is_discrete: Whether the agents choose among discrete actions: "deterministic" and
            "gaussian" then give each a probability; the others take them as corners of the box.
        num_steps: Of the samplers; that of `NUM_STEPS` if None.
        device: Where the loss is computed.
    """
    if name in ("deterministic", "gaussian"):
        if is_discrete:
            return Categorical(is_sampled=name == "gaussian")
        return Deterministic() if name == "deterministic" else Gaussian()
    num_steps = NUM_STEPS[name] if num_steps is None else num_steps
    if name == "flow":
        return FlowModel(num_steps)
    if name == "diffusion":
        return DiffusionModel(num_steps)
    uniform = time_table((0, 0, 0, 0), num_points=2, device=device)
    return MeanFlow(num_steps, MeanFlowMatching(derivative="tangent", time_table=uniform))
