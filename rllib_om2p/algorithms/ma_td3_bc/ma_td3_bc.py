"""MA-TD3+BC: each agent's TD3 with a behaviour cloning term in the actor's loss.

The simplest of the offline baselines: one term in the actor's loss keeps it near the data. The
equations and our decisions stand in README.md beside this file.

Source: TD3+BC (arXiv 2106.06860), one instance per agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_om2p.algorithms.ma_td3_bc.losses import ActorLoss
from rllib_om2p.core.agent_groups import RowLayout
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.deterministic import DeterministicActorCritic, DeterministicConfig
from rllib_om2p.core.phases import Networks, Phase

if TYPE_CHECKING:
    from typing import Self


class MATD3BCConfig(DeterministicConfig):
    """Configures MA-TD3+BC.

    Example:
        ```python
        config = (
            MATD3BCConfig()
            .offline_data(input_="data/simple_spread-medium")
            .training(alpha=2.5)
        )
        algo = config.build_algo()
        ```
    """

    divergence_remedy = "Lower alpha or lr, set grad_clip"

    def __init__(self, algo_class: type | None = None) -> None:
        """Set the paper's defaults (TD3+BC table 3)."""
        super().__init__(algo_class=algo_class or MATD3BC)
        self.alpha = 2.5
        self.target_noise = 0.2
        self.policy_delay = 2

    @override(DeterministicConfig)
    def training(self, *, alpha: float | None = NotProvided, **kwargs: Any) -> Self:
        """Set MA-TD3+BC's hyperparameters.

        Args:
            alpha: Weight of the value, normalised to mean magnitude 1, against the mean squared
                distance to the data's actions (TD3+BC eq. 5; default 2.5).
            **kwargs: See `DeterministicConfig.training`; here `target_noise` is 0.2 and
                `policy_delay` 2 by default (TD3+BC table 3). `critic="vdn"` is ours.
        """
        super().training(**kwargs)
        self._assign(alpha=alpha)
        return self

    @override(DeterministicConfig)
    def validate(self) -> None:
        """Check MA-TD3+BC's settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_positive("alpha")

    @override(OfflineConfig)
    def build_phases(self, networks: Networks, layout: RowLayout) -> list[Phase]:
        """Return the critics' phase and then the actors'."""
        assert isinstance(networks, DeterministicActorCritic)
        loss = ActorLoss(
            networks=networks, alpha=self.alpha, critic=self.critic, teams=layout.team_agents
        )
        return [self.critic_phase(networks, layout), self.actor_phase(networks, loss)]


class MATD3BC(Algorithm):
    """TD3+BC for every agent, as an RLlib Algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> MATD3BCConfig:
        """Return MA-TD3+BC's defaults."""
        return MATD3BCConfig()
