"""What all algorithms here have: a policy network for each agent, or one that agents share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_om2p.core.agent_groups import AgentGroup
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.nets.agent_net import AgentNet, Net
from rllib_om2p.nets.sharing import SharedNet

if TYPE_CHECKING:
    from typing import Self


class ActorConfig(OfflineConfig):
    """Settings of policy networks, and how they are built."""

    def __init__(self, algo_class: type | None = None) -> None:
        """Set OM2P's size (section 7.1)."""
        super().__init__(algo_class=algo_class)
        self.actor_hidden: Sequence[int] = (512, 512, 512, 512)
        self.actor_layer_norm = False

    @override(OfflineConfig)
    def training(
        self,
        *,
        actor_hidden: Sequence[int] | None = NotProvided,
        actor_layer_norm: bool | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set the policy networks.

        Args:
            actor_hidden: Hidden layers of the actors (default 4 x 512).
            actor_layer_norm: LayerNorm after the actors' activations (default False).
            **kwargs: See `OfflineConfig.training`.
        """
        super().training(**kwargs)
        self._assign(actor_hidden=actor_hidden, actor_layer_norm=actor_layer_norm)
        return self

    def build_actor(
        self,
        net: type[Net],
        group: AgentGroup,
        generator: torch.Generator,
        num_labels: int = 0,
    ) -> Net:
        """Return the policy networks of one group's agents.

        Args:
            net: Their class.
            group: The agents.
            generator: Of the first weights.
            num_labels: Features beside the observation.
        """
        obs_dim = group.obs_dim + num_labels
        return self._actors(net, len(group), obs_dim, group.action_dim, generator)

    def build_shared_actor(
        self,
        net: type[AgentNet],
        group: AgentGroup,
        num_agents: int,
        generator: torch.Generator,
        num_labels: int = 0,
    ) -> SharedNet:
        """Return one network that a group's agents share, of `num_agents` in all groups."""
        obs_dim = group.obs_dim + num_labels + num_agents
        stack = self._actors(net, 1, obs_dim, group.action_dim, generator)
        return SharedNet(stack, group.identities(num_agents))

    def _actors(
        self,
        net: type[Net],
        num_stacks: int,
        obs_dim: int,
        action_dim: int,
        generator: torch.Generator,
    ) -> Net:
        return net(
            num_stacks,
            obs_dim,
            action_dim,
            self.actor_hidden,
            layer_norm=self.actor_layer_norm,
            generator=generator,
        )

    @property
    def actor_model_config(self) -> dict[str, Any]:
        """What an RLModule needs to build an agent's actor."""
        return {
            "actor_hidden": tuple(self.actor_hidden),
            "actor_layer_norm": self.actor_layer_norm,
        }
