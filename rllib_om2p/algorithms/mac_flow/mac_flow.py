"""MAC-Flow: flow Q-learning with networks that agents share and a critic of the team.

All agents of a group have one flow, one student and one critic ensemble, told by a one-hot identity
whom they serve; the critics' values are mixed to the team's. The rest is `core.flow_q`. Equations
and decisions stand in README.md.

Source: MAC-Flow, multi-agent coordination via flow matching (arXiv 2511.05005).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_om2p.core.actor_critic import ActorCritic
from rllib_om2p.core.agent_groups import RowLayout
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.critic_loss import CriticLoss
from rllib_om2p.core.flow_q import FlowQConfig
from rllib_om2p.nets import mixers

if TYPE_CHECKING:
    from typing import Self

MIXERS = {"mean": mixers.mean, "sum": mixers.vdn}


class MACFlowConfig(FlowQConfig):
    """Configures MAC-Flow.

    Example:
        ```python
        config = MACFlowConfig().offline_data(input_="data/set").training(alpha=3.0)
        ```
    """

    shares_parameters = True

    def __init__(self, algo_class: type | None = None) -> None:
        """Set MAC-Flow's defaults where they differ from FQL's."""
        super().__init__(algo_class=algo_class or MACFlow)
        self.critic = "vdn"
        self.mixer: Literal["mean", "sum"] = "mean"
        self.normalize_q = True
        self.gamma = 0.995

    @override(FlowQConfig)
    def training(
        self, *, mixer: Literal["mean", "sum"] | None = NotProvided, **kwargs: Any
    ) -> Self:
        """Set MAC-Flow's hyperparameters.

        Args:
            mixer: How the agents' values form their team's where critic="vdn": their "mean"
                (default), which makes each as large as the team's, or their "sum".
            **kwargs: See `FlowQConfig.training`. Other defaults: critic "vdn", normalize_q True,
                gamma 0.995.
        """
        super().training(**kwargs)
        self._assign(mixer=mixer)
        return self

    @override(FlowQConfig)
    def validate(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_one_of("mixer", tuple(MIXERS))
        self._warn_of_idle("mixer", unless=self.critic == "vdn", needs='critic="vdn"')
        if self.conservative_weight > 0 and (self.critic, self.mixer) == ("vdn", "mean"):
            raise ValueError(
                f"conservative_weight={self.conservative_weight} weighs agents' values against "
                'their sum, and the mean is that much smaller; set mixer="sum".'
            )

    @override(FlowQConfig)
    def build_critic_loss(self, networks: ActorCritic, layout: RowLayout) -> CriticLoss:
        """Return temporal-difference learning of the mixed values."""
        loss = super().build_critic_loss(networks, layout)
        return dataclasses.replace(loss, mix=MIXERS[self.mixer])


class MACFlow(Algorithm):
    """MAC-Flow, as an RLlib Algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> MACFlowConfig:
        """Return MAC-Flow's defaults."""
        return MACFlowConfig()
