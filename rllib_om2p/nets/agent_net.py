"""What the networks of policies have in common: one MLP per agent, stacked; knows no loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from torch import nn

from rllib_om2p.nets.mlp import StackedMLP

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


class AgentNet(nn.Module):
    """One MLP per agent, from its observation and what a subclass puts beside it.

    Attributes:
        num_points: Points of the action box beside the observation.
        num_times: Times beside them.
        features_per_action: Numbers in the output per feature of an action.
        mlp: The stack, on the concatenated (observation, points, times).
    """

    num_points: ClassVar[int] = 0
    num_times: ClassVar[int] = 0
    features_per_action: ClassVar[int] = 1

    def __init__(
        self,
        num_agents: int,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        *,
        layer_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the stack; see `StackedMLP` for its parameters."""
        super().__init__()
        self.num_agents, self.obs_dim, self.action_dim = num_agents, obs_dim, action_dim
        self.mlp = StackedMLP(
            num_agents,
            obs_dim + self.num_points * action_dim + self.num_times,
            hidden,
            self.features_per_action * action_dim,
            layer_norm=layer_norm,
            generator=generator,
        )


Net = TypeVar("Net", bound=AgentNet)
