"""MASAC: soft actor-critic for a team, with one central critic of the global state.

Haarnoja et al. 2018 (SAC, with the tuned temperature of its second version) with the joint critic
of Lowe et al. 2017: every agent has its own actor, all climb the same value of (state, joint
action) less the joint entropy's price. Knows tensors, not simulators. Axes: (batch, features).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rllib_om2p.behaviour.masac_networks import TanhGaussianTeam, TwinStateCritic
from rllib_om2p.behaviour.masac_recipes import MASACRecipe
from rllib_om2p.ops.bellman import aggregate, polyak_update, td_loss, td_target


class Batch(NamedTuple):
    """Joint transitions."""

    states: Tensor  # (B, S)
    actions: Tensor  # (B, agents * action_dim)
    rewards: Tensor  # (B,)
    next_states: Tensor  # (B, S)
    terminateds: Tensor  # (B,); 0 at a time limit, which bootstraps


class MASAC:
    """The networks, the temperature, their optimisers and one update.

    Args:
        features: Per agent the indices of the state's features that its actor reads.
        action_dim: Action features of one agent.
        critic_dim: The critics read this many leading features of the state.
        settings: The recipe.
        generator: Source of initial weights and of the update's noise.
    """

    def __init__(
        self,
        features: Sequence[Sequence[int]],
        action_dim: int,
        critic_dim: int,
        *,
        settings: MASACRecipe,
        generator: torch.Generator,
    ) -> None:
        self.settings = settings
        self._generator = generator
        self._critic_dim = critic_dim
        self._noise_shape = (len(features), settings.batch_size, action_dim)
        joint_dim = len(features) * action_dim
        self.actor = TanhGaussianTeam(features, action_dim, settings.actor_hidden)
        self.critic = TwinStateCritic(critic_dim, joint_dim, settings.critic_hidden)
        self.actor.mlp.initialise(generator)
        self.critic.mlp.initialise(generator)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = torch.zeros((), requires_grad=True)
        self._target_entropy = -float(joint_dim)
        self._adams = {
            name: torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
            for name, parameters in (
                ("actor", self.actor.parameters()),
                ("critic", self.critic.parameters()),
                ("alpha", [self.log_alpha]),
            )
        }
        self.num_updates = 0

    def update(self, batch: Batch) -> None:
        """Take one critic step and, every `policy_delay` times, one of actors and temperature."""
        self._update_critic(batch)
        self.num_updates += 1
        if self.num_updates % self.settings.policy_delay == 0:
            self._update_actor(batch.states)
        polyak_update(
            [*self.target_critic.parameters()], [*self.critic.parameters()], self.settings.tau
        )

    def _update_critic(self, batch: Batch) -> None:
        with torch.no_grad():
            drawn = self.actor.sample(batch.next_states, self._noise())
            next_values = self.target_critic(self._seen(batch.next_states), drawn.actions)
            next_q = aggregate(next_values, "min") - self.log_alpha.exp() * drawn.log_prob
            target = td_target(batch.rewards, next_q, batch.terminateds, gamma=self.settings.gamma)
        loss = td_loss(self.critic(self._seen(batch.states), batch.actions), target)
        self._descend("critic", loss, list(self.critic.parameters()))

    def _update_actor(self, states: Tensor) -> None:
        drawn = self.actor.sample(states, self._noise())
        value = aggregate(self.critic(self._seen(states), drawn.actions), "min")
        alpha = self.log_alpha.detach().exp()
        loss = (alpha * drawn.log_prob - value).mean()
        self._descend("actor", loss, list(self.actor.parameters()))
        surplus = drawn.log_prob.detach().mean() + self._target_entropy
        self._descend("alpha", -self.log_alpha * surplus, [self.log_alpha])

    def _descend(self, name: str, loss: Tensor, parameters: list[Tensor]) -> None:
        adam = self._adams[name]
        adam.zero_grad()
        loss.backward(inputs=parameters)
        adam.step()

    def _noise(self) -> Tensor:
        return torch.randn(self._noise_shape, generator=self._generator)

    def _seen(self, states: Tensor) -> Tensor:
        return states[:, : self._critic_dim]

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next updates depend on."""
        return {
            "nets": {name: net.state_dict() for name, net in self._nets().items()},
            "adams": {name: adam.state_dict() for name, adam in self._adams.items()},
            "log_alpha": self.log_alpha.detach().clone(),
            "generator": self._generator.get_state(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, bit for bit."""
        for name, net in self._nets().items():
            net.load_state_dict(state["nets"][name])
        for name, adam in self._adams.items():
            adam.load_state_dict(state["adams"][name])
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self._generator.set_state(state["generator"])
        self.num_updates = state["num_updates"]

    def _nets(self) -> dict[str, nn.Module]:
        return {
            "actor": self.actor,
            "critic": self.critic,
            "target_critic": self.target_critic,
        }
