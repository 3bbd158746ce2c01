"""Per-agent RLModules: policies that normalise, act in one pass and answer in the env's units.

Knows one agent; nothing of critics' training, data or other agents. In a learner the parameters of
the modules are views of the stacked networks (`bind_to_stacks`), so that training the stack and
reading, saving or syncing a module are the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn

NOISE = "noise"


class AgentModule(TorchRLModule):
    """One agent's policy, from raw observations to actions in the agent's own action space.

    Subclasses build their networks in `build_networks` and act in `act`; both are in normalised
    units. `model_config` holds what they need. Observation normalisation and the action box are
    buffers, so that a saved module needs nothing else to act.

    `forward_inference({"obs": (B, O) float32})` returns `{"actions": (B, A) float32}`. Fresh noise
    is drawn from torch's global generator unless the batch brings it as `"noise"` (see `act`).
    """

    def setup(self) -> None:
        """Build buffers and networks from the spaces and the model config."""
        assert isinstance(self.observation_space, gym.spaces.Box)
        assert isinstance(self.action_space, gym.spaces.Box)
        self.obs_dim = int(self.observation_space.shape[0])
        self.action_dim = int(self.action_space.shape[0])
        self.register_buffer("obs_mean", torch.zeros(self.obs_dim))
        self.register_buffer("obs_std", torch.ones(self.obs_dim))
        self.register_buffer("action_low", torch.from_numpy(self.action_space.low.copy()))
        self.register_buffer("action_high", torch.from_numpy(self.action_space.high.copy()))
        self.build_networks()

    def build_networks(self) -> None:
        """Create the networks, each with a leading axis of one agent."""
        raise TypeError(f"{type(self).__name__} must define build_networks().")

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Return actions in [-1, 1] for normalised observations.

        Args:
            obs: (1, B, O).
            noise: What the policy would otherwise draw; its shape is the policy's matter.

        Returns:
            (1, B, A).
        """
        raise TypeError(f"{type(self).__name__} must define act().")

    def _forward(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        obs = (batch[Columns.OBS] - self.obs_mean) / self.obs_std
        actions = self.act(obs.unsqueeze(0), batch.get(NOISE)).squeeze(0)
        span = self.action_high - self.action_low
        return {Columns.ACTIONS: self.action_low + (actions + 1) * 0.5 * span}


def bind_to_stacks(module: AgentModule, stacks: Mapping[str, nn.Module], index: int) -> None:
    """Make a module's parameters views of one agent's slices of the stacked networks.

    Slices, not copies: an optimiser step on the stack changes the module, and loading a module's
    state changes the stack. Call it after both are on their device.

    Args:
        module: The agent's module; it has a sub-module of each name in `stacks`.
        stacks: Stacked networks of the agent's group. A leading axis of K * G holds member k of
            agent g at k * G + g.
        index: g, the agent's position in its group.
    """
    for name, stack in stacks.items():
        own = dict(getattr(module, name).named_parameters())
        for key, stacked in stack.named_parameters():
            num_agents = stacked.shape[0] // own[key].shape[0]
            own[key].data = stacked.data[index::num_agents]
