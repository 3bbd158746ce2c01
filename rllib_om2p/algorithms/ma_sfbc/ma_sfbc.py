"""MA-SfBC: each agent selects among candidates that a diffusion model of its behaviour draws.

The behaviour model never sees a value, and the critic only judges what the behaviour would do.
Equations and decisions stand in README.md.

Source: SfBC, selecting from behaviour candidates (arXiv 2209.14548), as a baseline of OM2P.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override

from rllib_om2p.algorithms.ma_sfbc.losses import BehaviourLoss, InSupportCriticLoss
from rllib_om2p.algorithms.ma_sfbc.networks import SfBCModule, SfBCNetworks
from rllib_om2p.core.actor_critic import ActorCritic, ActorCriticConfig
from rllib_om2p.core.agent_groups import AgentGroup, RowLayout
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.generative import DiffusionModel
from rllib_om2p.core.phases import Networks, Phase
from rllib_om2p.nets.field import FieldNet

if TYPE_CHECKING:
    from typing import Self


class MASfBCConfig(ActorCriticConfig):
    """Configures MA-SfBC.

    Example:
        ```python
        config = MASfBCConfig().offline_data(input_="data/set").training(num_candidates=32)
        ```
    """

    supports_discrete = True

    def __init__(self, algo_class: type | None = None) -> None:
        """Set the paper's sampler, and ours where rewards are standardised."""
        super().__init__(algo_class=algo_class or MASfBC)
        self.diffusion_steps = 15
        self.num_candidates = 16
        self.alpha = 10.0
        self.acting_candidates = 32
        self.acting_alpha = 100.0

    @override(ActorCriticConfig)
    def training(
        self,
        *,
        diffusion_steps: int | None = NotProvided,
        num_candidates: int | None = NotProvided,
        alpha: float | None = NotProvided,
        acting_candidates: int | None = NotProvided,
        acting_alpha: float | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set MA-SfBC's hyperparameters.

        Args:
            diffusion_steps: Of the sampler, each a pass through the behaviour model (default 15).
            num_candidates: M, actions that the behaviour model draws per observation for the
                critic's targets, in every update (default 16, of the authors' code). Time and
                memory grow with it.
            alpha: Inverse temperature of the softmax over those candidates' values (default 10;
                ours, for standardised rewards).
            acting_candidates: How many are drawn for every action that an agent takes (default 32,
                of the authors' code).
            acting_alpha: The inverse temperature in acting (default 100, of the authors' code: all
                but the best of the candidates).
            **kwargs: See `ActorCriticConfig.training`.
        """
        super().training(**kwargs)
        self._assign(
            diffusion_steps=diffusion_steps,
            num_candidates=num_candidates,
            alpha=alpha,
            acting_candidates=acting_candidates,
            acting_alpha=acting_alpha,
        )
        return self

    @override(ActorCriticConfig)
    def validate(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_positive("diffusion_steps", "num_candidates", "acting_candidates")
        self._check_not_negative("alpha", "acting_alpha")
        if self.conservative_weight > 0:
            raise ValueError(
                f"conservative_weight={self.conservative_weight} has nothing to do in MA-SfBC: its "
                "critics are asked for the behaviour's actions alone; set it to 0."
            )

    @override(OfflineConfig)
    def build_networks(
        self, groups: Sequence[AgentGroup], generator: torch.Generator
    ) -> SfBCNetworks:
        """Return stacked diffusion models and critics."""
        return SfBCNetworks(
            groups,
            lambda group: self.build_actor(FieldNet, group, generator),
            lambda group: self.build_critic(group, generator),
            diffusion=DiffusionModel(self.diffusion_steps),
        )

    @override(ActorCriticConfig)
    def build_critic_loss(self, networks: ActorCritic, layout: RowLayout) -> InSupportCriticLoss:
        """Return temporal-difference learning of values within the data's support."""
        usual = vars(super().build_critic_loss(networks, layout))
        return InSupportCriticLoss(**usual, num_candidates=self.num_candidates, alpha=self.alpha)

    @override(OfflineConfig)
    def build_phases(self, networks: Networks, layout: RowLayout) -> list[Phase]:
        """Return the behaviour's phase and then the critic's."""
        assert isinstance(networks, SfBCNetworks)
        behaviour = BehaviourLoss(networks)
        return [
            Phase("behaviour", list(networks.actors), behaviour.draw, behaviour),
            self.critic_phase(networks, layout),
        ]

    @override(OfflineConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the spec of the agents' modules."""
        return RLModuleSpec(
            module_class=SfBCModule,
            model_config={
                **self.critic_model_config,
                **self.actor_model_config,
                "diffusion_steps": self.diffusion_steps,
                "num_candidates": self.acting_candidates,
                "alpha": self.acting_alpha,
            },
        )


class MASfBC(Algorithm):
    """Multi-agent SfBC, as an RLlib Algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> MASfBCConfig:
        """Return MA-SfBC's defaults."""
        return MASfBCConfig()
