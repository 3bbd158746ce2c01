"""Per-agent RLModules: policies that normalise, act in one pass and answer in the env's units.

Knows one agent; nothing of critics' training, data or other agents. In a learner the parameters of
the modules are views of the stacked networks (`bind_to_stacks`), so that training the stack and
reading, saving or syncing a module are the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn

from rllib_om2p.nets.agent_net import Net
from rllib_om2p.nets.critics import CriticEnsemble
from rllib_om2p.ops.discrete import choose

NOISE = "noise"
SHARED_NOISE = "shared_noise"
# RLlib's names of the parts of an observation with legal actions (examples of action masking).
OBSERVATIONS = "observations"
ACTION_MASK = "action_mask"


class AgentModule(TorchRLModule):
    """One agent's policy, from raw observations to actions in the agent's own action space.

    Subclasses build their networks in `build_networks` and act in `act`; both are in normalised
    units. `model_config` holds what they need. Observation normalisation, the action box and, for
    networks that agents share (`model_config["num_agents"]` N), the agent's one-hot `identity` (N,)
    are buffers, so that a saved module needs nothing else to act.

    `forward_inference({"obs": (B, O) float32})` returns `{"actions": (B, A) float32}`, or (B,)
    int64 where actions are discrete: the largest feature of the policy's answer that is legal.
    Legal actions come with the observation, `{"observations": (B, O), "action_mask": (B, A)}`.
    Fresh noise is drawn from torch's global generator unless the batch brings it as `"noise"` (see
    `act`). A policy whose team shares its noise (`model_config["shared_noise"]`, see
    core/shared_noise.py) draws none: without `"noise"` it raises ValueError.
    """

    def setup(self) -> None:
        """Build buffers and networks from the spaces and the model config."""
        obs_space = self.observation_space
        if isinstance(obs_space, gym.spaces.Dict):
            obs_space = obs_space[OBSERVATIONS]
        assert isinstance(obs_space, gym.spaces.Box)
        self.obs_dim = int(obs_space.shape[0])
        self.is_discrete = isinstance(self.action_space, gym.spaces.Discrete)
        self.register_buffer("obs_mean", torch.zeros(self.obs_dim))
        self.register_buffer("obs_std", torch.ones(self.obs_dim))
        self.register_buffer("identity", torch.zeros(int(self.model_config.get("num_agents", 0))))
        if self.is_discrete:
            self.action_dim = int(self.action_space.n)
        else:
            assert isinstance(self.action_space, gym.spaces.Box)
            self.action_dim = int(self.action_space.shape[0])
            self.register_buffer("action_low", torch.from_numpy(self.action_space.low.copy()))
            self.register_buffer("action_high", torch.from_numpy(self.action_space.high.copy()))
        self.build_networks()

    def build_networks(self) -> None:
        """Create the networks, each with a leading axis of one agent."""
        raise TypeError(f"{type(self).__name__} must define build_networks().")

    def build_actor(self, net: type[Net], num_labels: int = 0) -> Net:
        """Return a policy's network, of `ActorConfig.actor_model_config`'s entries.

        Args:
            net: Its class.
            num_labels: Features beside the observation, not counting the agent's `identity`.
        """
        return net(
            1,
            self.obs_dim + num_labels + len(self.identity),
            self.action_dim,
            self.model_config["actor_hidden"],
            layer_norm=self.model_config["actor_layer_norm"],
        )

    def build_critic(self) -> CriticEnsemble:
        """Return the agent's critics, of `ActorCriticConfig.critic_model_config`'s entries."""
        config = self.model_config
        return CriticEnsemble(
            1,
            config["num_critics"],
            self.obs_dim,
            self.action_dim,
            config["critic_hidden"],
            layer_norm=config["critic_layer_norm"],
        )

    @property
    def noise_teams(self) -> Sequence[Sequence[str]] | None:
        """The teams whose agents share one noise, as agent ids; None if each draws its own."""
        teams: Sequence[Sequence[str]] | None = self.model_config.get(SHARED_NOISE)
        return teams

    def noise_or_drawn(self, noise: Tensor | None, *shape: int) -> Tensor:
        """Return the noise, or standard normal numbers of a shape if it is None."""
        return torch.randn(shape, device=self.obs_mean.device) if noise is None else noise

    def act(self, obs: Tensor, noise: Tensor | None, action_mask: Tensor | None = None) -> Tensor:
        """Return points for normalised observations: in [-1, 1] but for discrete actions.

        Args:
            obs: (1, B, O).
            noise: What the policy would otherwise draw; its shape is the policy's matter.
            action_mask: Nonzero where a discrete action is legal, (1, B, A), or None. The answer
                need not heed it: the action is chosen among the legal ones afterwards.

        Returns:
            (1, B, A).
        """
        raise TypeError(f"{type(self).__name__} must define act().")

    def _forward(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        obs, mask = batch[Columns.OBS], None
        if isinstance(obs, Mapping):
            obs, mask = obs[OBSERVATIONS], obs[ACTION_MASK].unsqueeze(0)
        obs = (obs - self.obs_mean) / self.obs_std
        noise = batch.get(NOISE)
        if noise is None and self.noise_teams is not None:
            raise ValueError(
                f"this agent's noise is its team's ({self.noise_teams}), and the batch has no "
                f"{NOISE!r}; act through JointPolicy or an env runner of this package's config, or "
                f"bring {NOISE!r}, the same for all of the team."
            )
        actions = self.act(obs.unsqueeze(0), noise, mask)
        if self.is_discrete:
            return {Columns.ACTIONS: choose(actions, mask).squeeze(0)}
        actions = actions.squeeze(0)
        span = self.action_high - self.action_low
        return {Columns.ACTIONS: self.action_low + (actions + 1) * 0.5 * span}


def bind_to_stacks(module: AgentModule, stacks: Mapping[str, nn.Module], index: int) -> None:
    """Make a module's parameters views of one agent's slices of the stacked networks.

    Slices, not copies: an optimiser step on the stack changes the module, and loading a module's
    state changes the stack. Call it after both are on their device.

    Args:
        module: The agent's module; it has a sub-module of each name in `stacks`.
        stacks: Stacked networks of the agent's group. A leading axis of K * G holds member k of
            agent g at k * G + g; one of K alone is shared by the agents.
        index: g, the agent's position in its group.
    """
    for name, stack in stacks.items():
        own = dict(getattr(module, name).named_parameters())
        for key, stacked in stack.named_parameters():
            num_agents = stacked.shape[0] // own[key].shape[0]
            own[key].data = stacked.data[index % num_agents :: num_agents]
