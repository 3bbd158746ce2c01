"""What algorithms on TD3 share: deterministic actors with targets, and twin critics.

`DeterministicConfig` holds the settings, `DeterministicActorCritic` the networks. An algorithm
brings its actor's loss. Axes are (group, batch, feature).

Source: TD3 (arXiv 1802.09477).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from rllib_om2p.core.actor_critic import ActorCritic, ActorCriticConfig
from rllib_om2p.core.agent_groups import AgentGroup, GroupBatch, RowLayout
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.critic_loss import CriticLoss
from rllib_om2p.core.phases import Phase
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.nets.policies import DeterministicPolicy

if TYPE_CHECKING:
    from typing import Self


class DeterministicConfig(ActorCriticConfig):
    """Settings of algorithms with a deterministic actor and twin critics per agent."""

    def __init__(self, algo_class: type | None = None) -> None:
        """Set twin critics' minimum as the target, without TD3's smoothing and delay."""
        super().__init__(algo_class=algo_class)
        self.target_aggregate = "min"
        self.target_noise = 0.0
        self.target_noise_clip = 0.5
        self.policy_delay = 1

    @override(ActorCriticConfig)
    def training(
        self,
        *,
        target_noise: float | None = NotProvided,
        target_noise_clip: float | None = NotProvided,
        policy_delay: int | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set what algorithms on TD3 share.

        Args:
            target_noise: Standard deviation of the normal noise on the target actors' actions, in
                units of half the box (TD3 section 5.3).
            target_noise_clip: The noise stays in [-clip, clip] (TD3; default 0.5).
            policy_delay: The actors learn on every so many-th update of the critics (TD3 5.2).
            **kwargs: See `ActorCriticConfig.training`. `target_aggregate` is "min" by default, the
                twin critics of TD3.
        """
        super().training(**kwargs)
        self._assign(
            target_noise=target_noise,
            target_noise_clip=target_noise_clip,
            policy_delay=policy_delay,
        )
        return self

    @override(ActorCriticConfig)
    def validate(self) -> None:
        """Check the common settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_positive("target_noise_clip", "policy_delay")
        self._check_not_negative("target_noise")
        self._warn_of_idle("target_noise_clip", unless=self.target_noise > 0, needs="target_noise")

    @override(OfflineConfig)
    def build_networks(
        self, groups: Sequence[AgentGroup], generator: torch.Generator
    ) -> DeterministicActorCritic:
        """Return stacked actors, critics and the targets of both."""
        return DeterministicActorCritic(
            groups,
            lambda group: self.build_actor(DeterministicPolicy, group, generator),
            lambda group: self.build_critic(group, generator),
        )

    @override(ActorCriticConfig)
    def build_critic_loss(self, networks: ActorCritic, layout: RowLayout) -> CriticLoss:
        """Return temporal-difference learning under the target actors' smoothed actions."""
        assert isinstance(networks, DeterministicActorCritic)
        smoothed = SmoothedTarget(networks, self.target_noise, self.target_noise_clip)
        loss = super().build_critic_loss(networks, layout)
        return dataclasses.replace(loss, next_actions=smoothed)

    def actor_phase(self, networks: ActorCritic, loss: Any) -> Phase:
        """Return the actors' phase: `loss` has a method `draw` and is called."""
        return Phase("actor", list(networks.actors), loss.draw, loss, period=self.policy_delay)

    @override(OfflineConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the spec of the agents' modules."""
        return RLModuleSpec(
            module_class=DeterministicModule,
            model_config=self.actor_model_config,
        )


class ConservativeConfig(DeterministicConfig):
    """Settings of algorithms that are nothing without conservative critics: MA-CQL and OMAR."""

    divergence_remedy = "Raise alpha, lower lr or set grad_clip"

    def __init__(self, algo_class: type | None = None) -> None:
        """Set the penalty's weight to 1, from the middle of OMAR's."""
        super().__init__(algo_class=algo_class)
        self.conservative_weight = 1.0

    @override(DeterministicConfig)
    def training(self, *, alpha: float | None = NotProvided, **kwargs: Any) -> Self:
        """Set what algorithms with conservative critics share.

        Args:
            alpha: The papers' name of `conservative_weight`, which is 1 by default here (OMAR has
                0.5 to 5 by data set, for raw rewards).
            **kwargs: See `DeterministicConfig.training`.

        Raises:
            ValueError: The weight is given by both of its names.
        """
        if NotProvided not in (alpha, kwargs.get("conservative_weight", NotProvided)):
            raise ValueError("alpha and conservative_weight are one setting; give one of them.")
        super().training(**kwargs)
        self._assign(alpha=alpha)
        return self

    @property
    def alpha(self) -> float:
        """The papers' name of `conservative_weight`."""
        return self.conservative_weight

    @alpha.setter
    def alpha(self, weight: float) -> None:
        self.conservative_weight = weight

    @override(DeterministicConfig)
    def validate(self) -> None:
        """Check that there is a penalty.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        if not self.alpha > 0:
            raise ValueError(f"alpha (conservative_weight) must be positive, got {self.alpha}.")


class DeterministicActorCritic(ActorCritic):
    """Deterministic actors with targets, and critics with targets; see `ActorCritic`.

    Attributes:
        target_actors: Whose actions the critics' targets are made of.
    """

    def __init__(
        self,
        groups: Sequence[AgentGroup],
        build_actor: Callable[[AgentGroup], nn.Module],
        build_critic: Callable[[AgentGroup], nn.Module],
    ) -> None:
        """Build all stacks; see `ActorCritic`."""
        super().__init__(groups, build_actor, build_critic)
        self.target_actors = copy.deepcopy(self.actors).requires_grad_(False)

    @override(ActorCritic)
    def propose(self, group_index: int, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the actors' actions, (G, B, A); the noise plays no part."""
        actions: Tensor = self.actors[group_index](obs)
        return actions

    @override(ActorCritic)
    def target_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parameters of the target critics and actors, and those that they follow."""
        targets, sources = super().target_pairs()
        return (
            [*targets, *self.target_actors.parameters()],
            [*sources, *self.actors.parameters()],
        )


@dataclasses.dataclass(frozen=True)
class SmoothedTarget:
    """The target actors' actions with clipped noise [TD3 eq. 14].

    Attributes:
        networks: With target actors.
        std: Standard deviation of the noise.
        clip: The noise stays in [-clip, clip].
    """

    networks: DeterministicActorCritic
    std: float
    clip: float

    def __call__(self, group_index: int, group: GroupBatch, noise: Tensor) -> Tensor:
        """Return next actions in the box, (G, B, A), from standard normal noise (G, B, A)."""
        actions: Tensor = self.networks.target_actors[group_index](group.next_obs)
        return (actions + (self.std * noise).clamp(-self.clip, self.clip)).clamp(-1, 1)


class DeterministicModule(AgentModule):
    """One agent's deterministic policy."""

    def build_networks(self) -> None:
        """Create the policy."""
        self.actor = self.build_actor(DeterministicPolicy)

    def act(self, obs: Tensor, noise: Tensor | None, action_mask: Tensor | None = None) -> Tensor:
        """Return points (1, B, A) of normalised observations (1, B, O); noise plays no part."""
        actions: Tensor = self.actor(obs)
        return actions
