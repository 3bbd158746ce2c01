"""VGM2P's networks: average velocities under a label that says how good the action shall be.

The label stands behind the observation as two features: (0, 1) for good, (1, 0) for the others and
(0, 0) for none, so that a network has a first layer of its own for each of the three. Agents act
with the label "good".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rllib_om2p.core.actor_critic import ActorCritic
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.nets.sharing import append_identity
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.mean_flow import one_step_action

NUM_LABEL_FEATURES = 2


def with_labels(obs: Tensor, is_good: Tensor, is_dropped: Tensor | None = None) -> Tensor:
    """Return the observations (G, B, O) with their labels, (G, B, O + 2).

    Args:
        obs: Normalised observations, (G, B, O).
        is_good: c, (G, B, 1) bool.
        is_dropped: Where there is no label, (G, B, 1) bool; nowhere if None.
    """
    labels = torch.cat((~is_good, is_good), dim=-1)
    if is_dropped is not None:
        labels = labels & ~is_dropped
    return torch.cat((obs, labels.to(obs.dtype)), dim=-1)


def with_good_label(obs: Tensor) -> Tensor:
    """Return the observations (G, B, O) with the label "good", (G, B, O + 2)."""
    return with_labels(obs, torch.ones_like(obs[..., :1], dtype=torch.bool))


def without_label(obs: Tensor) -> Tensor:
    """Return the observations (G, B, O) with the features of no label, (G, B, O + 2)."""
    return functional.pad(obs, (0, NUM_LABEL_FEATURES))


class VGM2PNetworks(ActorCritic):
    """Labelled average-velocity networks as actors; see `ActorCritic`."""

    def propose(self, group_index: int, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the good actions of one jump, (G, B, A), from noise (G, B, A)."""
        actor, labelled = self.actors[group_index], with_good_label(obs)
        clip = not self.groups[group_index].is_discrete
        return one_step_action(lambda z, r, t: actor(labelled, z, r, t), noise, clip=clip)


class VGM2PModule(AgentModule):
    """One agent's policy: one pass from noise to an action, under the label "good"."""

    def build_networks(self) -> None:
        """Create the average-velocity network; a shared one is told the agent's identity."""
        self.actor = self.build_actor(VelocityNet, NUM_LABEL_FEATURES)

    def act(self, obs: Tensor, noise: Tensor | None, action_mask: Tensor | None = None) -> Tensor:
        """Return the policy's points; see `AgentModule.act`.

        Args:
            obs: Normalised observations, (1, B, O).
            noise: x_0, (B, A); drawn if None.
            action_mask: Not needed: the module chooses among the legal actions afterwards.
        """
        noise = self.noise_or_drawn(noise, obs.shape[1], self.action_dim)
        inputs = append_identity(with_good_label(obs), self.identity[None])
        clip = not self.is_discrete
        return one_step_action(lambda z, r, t: self.actor(inputs, z, r, t), noise[None], clip=clip)
