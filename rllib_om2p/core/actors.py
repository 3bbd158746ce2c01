"""What all algorithms here have: a policy network for each agent, or one that agents share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override
from torch import nn

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
            actor_hidden: Hidden layers of the actors (default 4 x 512, OM2P section 7.1).
            actor_layer_norm: LayerNorm after the actors' activations (default False, ours; OM2P
                section 7.1 has it).
            **kwargs: See `OfflineConfig.training`.
        """
        super().training(**kwargs)
        self._assign(actor_hidden=actor_hidden, actor_layer_norm=actor_layer_norm)
        return self

    @override(OfflineConfig)
    def validate(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting has no meaning; the text says which.
        """
        super().validate()
        self._check_sizes("actor_hidden")

    def build_actor(
        self,
        net: type[AgentNet],
        group: AgentGroup,
        generator: torch.Generator,
        *,
        num_labels: int = 0,
        num_sharing: int = 0,
    ) -> nn.Module:
        """Return the policy networks of one group's agents.

        Args:
            net: Their class.
            group: The agents.
            generator: Of the first weights.
            num_labels: Features beside the observation.
            num_sharing: 0 for a network per agent; else one for the group, which is told which of
                so many agents, those of all groups, it serves.
        """
        obs_dim = group.obs_dim + num_labels
        if not num_sharing:
            return self._actors(net, len(group), obs_dim, group.action_dim, generator)
        stack = self._actors(net, 1, obs_dim + num_sharing, group.action_dim, generator)
        return SharedNet(stack, group.identities(num_sharing))

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
