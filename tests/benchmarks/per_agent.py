"""OM2P's update as a plain per-agent loop of torch.nn modules, without this package's code.

It is the baseline of the speed benchmarks and the independent oracle of the stacked networks, so it
is written from the paper's equations and imports nothing of rllib_om2p. Times are uniform.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Literal

import torch
from torch import Tensor, nn

from tests.benchmarks.problem import Batch, Draws, Settings, Sizes

Derivative = Literal["jvp", "finite_difference"]


def plain_mlp(
    in_dim: int, hidden: tuple[int, ...], out_dim: int, *, layer_norm: bool
) -> nn.Sequential:
    """Return Linear, tanh-GELU, LayerNorm after the activation; Glorot weights and zero biases."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(in_dim, size), nn.GELU(approximate="tanh")]
        layers += [nn.LayerNorm(size)] if layer_norm else []
        in_dim = size
    layers.append(nn.Linear(in_dim, out_dim))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class PlainAgent:
    """One agent: policy, critics, targets, two Adams."""

    def __init__(self, sizes: Sizes, settings: Settings) -> None:
        pair = sizes.obs_dim + sizes.action_dim
        self.policy = plain_mlp(pair + 2, sizes.hidden, sizes.action_dim, layer_norm=False)
        self.critics = nn.ModuleList(
            plain_mlp(pair, sizes.hidden, 1, layer_norm=True) for _ in range(sizes.num_critics)
        )
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=settings.lr)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=settings.lr)


class PerAgentUpdate:
    """The update, agent by agent and critic by critic."""

    def __init__(
        self,
        sizes: Sizes,
        settings: Settings | None = None,
        *,
        derivative: Derivative = "finite_difference",
        autocast: bool = False,
    ) -> None:
        self.settings = settings or Settings()
        self.derivative = derivative
        self.autocast = autocast
        self.agents = [PlainAgent(sizes, self.settings) for _ in range(sizes.num_agents)]

    def __call__(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Do one update and return the losses of critics and policies, both (G,)."""
        losses = [
            self._update_agent(
                agent,
                Batch(*(part[index] for part in batch)),
                Draws(draws.uniforms[:, index], *(part[index] for part in draws[1:])),
            )
            for index, agent in enumerate(self.agents)
        ]
        critic_losses, policy_losses = zip(*losses, strict=True)
        return torch.stack(critic_losses), torch.stack(policy_losses)

    def to(self, dtype: torch.dtype) -> None:
        """Change the precision in place."""
        for agent in self.agents:
            for net in (agent.policy, agent.critics, agent.target_critics):
                net.to(dtype)

    def _update_agent(self, agent: PlainAgent, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        with self._precision():
            critic_loss = self._critic_loss(agent, batch, draws)
        agent.critic_optimizer.zero_grad()
        critic_loss.backward()
        agent.critic_optimizer.step()

        agent.critics.requires_grad_(False)
        with self._precision():
            policy_loss = self._policy_loss(agent, batch, draws)
        agent.policy_optimizer.zero_grad()
        policy_loss.backward()
        agent.policy_optimizer.step()
        agent.critics.requires_grad_(True)

        with torch.no_grad():
            for target, source in zip(
                agent.target_critics.parameters(), agent.critics.parameters(), strict=True
            ):
                target.lerp_(source, self.settings.tau)
        return critic_loss.detach(), policy_loss.detach()

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext()

    @staticmethod
    def _velocity(agent: PlainAgent, obs: Tensor, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        output: Tensor = agent.policy(torch.cat((obs, z, r, t), -1)).to(z.dtype)
        return output

    def _action(self, agent: PlainAgent, obs: Tensor, noise: Tensor) -> Tensor:
        start = torch.zeros_like(noise[:, :1])
        jump = self._velocity(agent, obs, noise, start, torch.ones_like(start))
        return (noise + jump).clamp(-1, 1)

    def _critic_loss(self, agent: PlainAgent, batch: Batch, draws: Draws) -> Tensor:
        with torch.no_grad():
            next_pair = torch.cat(
                (batch.next_obs, self._action(agent, batch.next_obs, draws.next_noise)), -1
            )
            next_q = sum(
                critic(next_pair)[:, 0].to(batch.rewards.dtype) for critic in agent.target_critics
            )
            next_q = next_q / len(agent.target_critics)
            y = batch.rewards + self.settings.gamma * (1 - batch.terminateds) * next_q
        pair = torch.cat((batch.obs, batch.actions), -1)
        errors = [(critic(pair)[:, 0] - y).square().mean() for critic in agent.critics]
        return torch.stack(errors).mean()

    def _policy_loss(self, agent: PlainAgent, batch: Batch, draws: Draws) -> Tensor:
        first, second = draws.uniforms[0], 1 - draws.uniforms[1]
        r, t = torch.minimum(first, second), torch.maximum(first, second)
        velocity = batch.actions - draws.path_noise
        z = draws.path_noise + r * velocity
        if self.derivative == "jvp":
            u, derivative = torch.func.jvp(
                lambda z, r: self._velocity(agent, batch.obs, z, r, t),
                (z, r),
                (velocity, torch.ones_like(r)),
            )
        else:
            u = self._velocity(agent, batch.obs, z, r, t)
            step = self.settings.finite_difference_step
            with torch.no_grad():
                moved = self._velocity(agent, batch.obs, z + step * velocity, r + step, t)
                derivative = (moved - u) / step
        target = (velocity + (t - r) * derivative).detach()
        actions = self._action(agent, batch.obs, draws.action_noise)
        pair = torch.cat((batch.obs, actions), -1)
        q = torch.stack([critic(pair).to(actions.dtype) for critic in agent.critics]).mean()
        return (u - target).square().mean() - self.settings.eta * q
