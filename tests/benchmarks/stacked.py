"""OM2P's update from this package's stacked networks and ops, as a raw torch loop without RLlib.

The phases are the learner's: critic loss, backward, step; policy loss, backward, step; Polyak.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Literal

import torch
from torch import Tensor, nn

from rllib_om2p.nets.critics import CriticEnsemble
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.bellman import aggregate, polyak_update, td_loss, td_target
from rllib_om2p.ops.mean_flow import (
    conditional_velocity,
    finite_difference,
    interpolate,
    mean_flow_loss,
    mean_flow_target,
    one_step_action,
)
from rllib_om2p.ops.times import sample_times, time_table
from tests.benchmarks.per_agent import PerAgentUpdate
from tests.benchmarks.problem import Batch, Draws, Settings, Sizes

Derivative = Literal["tangent", "finite_difference", "none"]


# dynamic=False: one batch size. tanh as the vector library computes it costs several exponentials,
# and tanh-GELU runs 60 times per update; written with exp a compiled update is 8 % faster in
# float32 and 14 % in bfloat16 (processor time, one thread).
COMPILE = {
    "dynamic": False,
    "fullgraph": True,
    "options": {"cpp.use_decompose_tanh": True},
}


class StackedUpdate:
    """The update of all agents at once."""

    def __init__(
        self,
        sizes: Sizes,
        settings: Settings | None = None,
        *,
        derivative: Derivative = "tangent",
        autocast: bool = False,
        compile_losses: bool = False,
    ) -> None:
        self.settings = settings or Settings()
        self.derivative = derivative
        self.autocast = autocast
        dims = sizes.obs_dim, sizes.action_dim, sizes.hidden
        self.policy = VelocityNet(sizes.num_agents, *dims)
        self.critic = CriticEnsemble(sizes.num_agents, sizes.num_critics, *dims)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.table = time_table((0, 0, 0, 0))
        self.critic_optimizer, self.policy_optimizer = (
            torch.optim.Adam(net.parameters(), lr=self.settings.lr, fused=True)
            for net in (self.critic, self.policy)
        )
        self.critic_loss, self.policy_loss = self._critic_loss, self._policy_loss
        if compile_losses:
            self.critic_loss = torch.compile(self._critic_loss, **COMPILE)
            self.policy_loss = torch.compile(self._policy_loss, **COMPILE)

    def __call__(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Do one update and return the losses of critics and policies, both (G,)."""
        critic_losses = self._step(
            self.critic, self.critic_optimizer, self.critic_loss, batch, draws
        )
        policy_losses = self._step(
            self.policy, self.policy_optimizer, self.policy_loss, batch, draws
        )
        polyak_update(
            list(self.target_critic.parameters()), list(self.critic.parameters()), self.settings.tau
        )
        return critic_losses, policy_losses

    def to(self, dtype: torch.dtype) -> None:
        """Change the precision in place."""
        for net in (self.policy, self.critic, self.target_critic):
            net.to(dtype)
        self.table = self.table.to(dtype)

    def _step(self, net: nn.Module, optimizer, loss_fn, batch: Batch, draws: Draws) -> Tensor:  # noqa: ANN001
        # A compiled backward is one node: it computes the gradient of everything that asks for one.
        for other in (self.policy, self.critic):
            other.requires_grad_(other is net)
        losses = loss_fn(batch, draws)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        return losses.detach()

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.autocast)

    def _critic_loss(self, batch: Batch, draws: Draws) -> Tensor:
        with self._precision():
            with torch.no_grad():
                next_actions = one_step_action(
                    lambda z, r, t: self.policy(batch.next_obs, z, r, t), draws.next_noise
                )
                next_q = aggregate(self.target_critic(batch.next_obs, next_actions), "mean")
            target = td_target(batch.rewards, next_q, batch.terminateds, gamma=self.settings.gamma)
            return td_loss(self.critic(batch.obs, batch.actions), target)

    def _policy_loss(self, batch: Batch, draws: Draws) -> Tensor:
        r, t = sample_times(draws.uniforms, self.table)
        z = interpolate(draws.path_noise, batch.actions, r)
        velocity = conditional_velocity(draws.path_noise, batch.actions)
        with self._precision():
            u, derivative = self._derivative(batch.obs, z, velocity, r, t)
            target = mean_flow_target(velocity, derivative, r, t)
            actions = one_step_action(
                lambda z, r, t: self.policy(batch.obs, z, r, t), draws.action_noise
            )
            q = aggregate(self.critic(batch.obs, actions), "mean")
            return mean_flow_loss(u, target) - self.settings.eta * q.mean(dim=-1)

    def _derivative(
        self, obs: Tensor, z: Tensor, velocity: Tensor, r: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.derivative == "tangent":
            return self.policy.forward_with_tangent(
                obs, z, r, t, dz=velocity, dr=torch.ones_like(r)
            )
        u = self.policy(obs, z, r, t)
        if self.derivative == "none":
            return u, torch.zeros_like(u)
        return u, finite_difference(
            lambda z, r, t: self.policy(obs, z, r, t),
            z,
            velocity,
            r,
            t,
            step=self.settings.finite_difference_step,
            value=u.detach(),
        )


def copy_weights(stacked: StackedUpdate, plain: PerAgentUpdate) -> None:
    """Give the stacked networks the per-agent loop's weights."""
    load_slices(stacked.policy.mlp, [agent.policy for agent in plain.agents])
    for name, net in (("critics", stacked.critic), ("target_critics", stacked.target_critic)):
        members = zip(*(getattr(agent, name) for agent in plain.agents), strict=True)
        load_slices(net.mlp, [net for member in members for net in member])


@torch.no_grad()
def load_slices(stack: nn.Module, nets: list[nn.Sequential]) -> None:
    """Copy plain networks into the slices of a StackedMLP."""
    for index, net in enumerate(nets):
        linears = [layer for layer in net if isinstance(layer, nn.Linear)]
        norms = [layer for layer in net if isinstance(layer, nn.LayerNorm)]
        for layer, linear in enumerate(linears):
            stack.weights[layer][index].copy_(linear.weight.T)
            stack.biases[layer][index, 0].copy_(linear.bias)
        for layer, norm in enumerate(norms):
            stack.scales[layer][index, 0].copy_(norm.weight)
            stack.shifts[layer][index, 0].copy_(norm.bias)
