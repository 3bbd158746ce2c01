"""MATD3: the networks, their optimisers and one update; must not know worlds or files.

One shared actor on (obs, one-hot agent), one central twin critic on all observations and actions,
the team's reward. Fujimoto et al. 2018 (TD3) with the joint critic of Lowe et al. 2017 (MADDPG).
Axes: (batch, agents, features).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rllib_om2p.behaviour.networks import Actor, TwinCritic, initialise
from rllib_om2p.behaviour.recipes import MATD3Recipe
from rllib_om2p.behaviour.replay import Batch
from rllib_om2p.envs import registry
from rllib_om2p.ops.bellman import aggregate, polyak_update, td_loss, td_target


class MATD3:
    """The networks, their optimisers and one update."""

    def __init__(self, env: str, settings: MATD3Recipe, generator: torch.Generator) -> None:
        info = registry.info(env)
        first = info.agents[0]
        self.settings = settings
        self.network = {
            "num_agents": len(info.agents),
            "obs_dim": first.obs_dim,
            "action_dim": first.action_dim,
        }
        self.actor = Actor(**self.network, hidden=settings.actor_hidden)
        self.critic = TwinCritic(**self.network, hidden=settings.critic_hidden)
        for net in (self.actor, self.critic):
            initialise(net, generator)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self._actor_adam = _adam(self.actor, settings)
        self._critic_adam = _adam(self.critic, settings)
        self._generator = generator
        self._team_rewards = info.team_rewards
        self._num_updates = 0

    def update(self, batch: Batch) -> None:
        """Take one critic step and, every `policy_delay` times, one actor step and Polyak."""
        rewards = self._team_rewards(batch.rewards) * self.settings.reward_scale
        obs, actions, next_obs = (
            torch.from_numpy(field) for field in (batch.obs, batch.actions, batch.next_obs)
        )
        self._update_critic(obs, actions, torch.from_numpy(rewards), next_obs)
        self._num_updates += 1
        if self._num_updates % self.settings.policy_delay == 0:
            self._update_actor(obs)
            for target, source in (
                (self.target_actor, self.actor),
                (self.target_critic, self.critic),
            ):
                polyak_update([*target.parameters()], [*source.parameters()], self.settings.tau)

    def _update_critic(
        self, obs: Tensor, actions: Tensor, rewards: Tensor, next_obs: Tensor
    ) -> None:
        settings = self.settings
        with torch.no_grad():
            next_actions = self.target_actor(next_obs)
            noise = torch.randn(next_actions.shape, generator=self._generator)
            noise = noise * settings.target_noise
            noise.clamp_(-settings.target_noise_clip, settings.target_noise_clip)
            next_actions = (next_actions + noise).clamp_(-1.0, 1.0)
            next_q = aggregate(self.target_critic(next_obs, next_actions), "min")
            # No task here terminates; the time limit bootstraps.
            never = torch.zeros_like(next_q)
            target = td_target(rewards, next_q, never, gamma=settings.gamma)
        loss = td_loss(self.critic(obs, actions), target)
        _descend(loss, self.critic, self._critic_adam, settings.max_grad_norm)

    def _update_actor(self, obs: Tensor) -> None:
        logits = self.actor.logits(obs)
        loss = -self.critic.first_value(obs, torch.tanh(logits)).mean()
        # On the logits, as in MADDPG: it keeps the tanh from saturating early.
        loss = loss + self.settings.action_penalty * logits.square().mean()
        _descend(loss, self.actor, self._actor_adam, self.settings.max_grad_norm)


def _descend(loss: Tensor, net: nn.Module, adam: torch.optim.Adam, max_norm: float) -> None:
    adam.zero_grad()
    loss.backward(inputs=list(net.parameters()))
    nn.utils.clip_grad_norm_(net.parameters(), max_norm)
    adam.step()


def _adam(net: nn.Module, settings: MATD3Recipe) -> torch.optim.Adam:
    return torch.optim.Adam(net.parameters(), lr=settings.learning_rate, fused=True)
