"""MA-CQL: each agent's conservative critic, climbed by a deterministic actor.

The equations and our decisions stand in README.md beside this file.

Source: CQL (arXiv 2006.04779), one instance per agent, as OMAR (arXiv 2111.11188) compares with it.
"""

from __future__ import annotations

from ray.rllib.utils.annotations import override

from rllib_om2p.algorithms.ma_cql.losses import ActorLoss
from rllib_om2p.core.agent_groups import RowLayout
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.deterministic import ConservativeConfig, DeterministicActorCritic
from rllib_om2p.core.phases import Networks, Phase


class MACQLConfig(ConservativeConfig):
    """Configures MA-CQL; all its hyperparameters are those of `ConservativeConfig`.

    Example:
        ```python
        config = (
            MACQLConfig()
            .offline_data(input_="data/simple_spread-medium")
            .training(alpha=1.0)
        )
        algo = config.build_algo()
        ```
    """

    def __init__(self, algo_class: type | None = None) -> None:
        """Set the defaults of `ConservativeConfig`."""
        super().__init__(algo_class=algo_class or MACQL)

    @override(OfflineConfig)
    def build_phases(self, networks: Networks, layout: RowLayout) -> list[Phase]:
        """Return the critics' phase and then the actors'."""
        assert isinstance(networks, DeterministicActorCritic)
        critic = self.critic_phase(networks, layout)
        return [critic, self.actor_phase(networks, ActorLoss(networks))]


class MACQL(Algorithm):
    """Conservative Q-learning for every agent, as an RLlib Algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> MACQLConfig:
        """Return MA-CQL's defaults."""
        return MACQLConfig()
