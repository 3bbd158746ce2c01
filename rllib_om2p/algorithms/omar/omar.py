"""OMAR: MA-CQL whose actors also follow a zeroth-order search on the critic.

Gradients of a conservative value lead to local optima; the search looks past them. The equations
and our decisions stand in README.md beside this file.

Source: OMAR, Offline Multi-Agent RL with Actor Rectification (arXiv 2111.11188).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_om2p.algorithms.omar.losses import ActorLoss
from rllib_om2p.core.agent_groups import RowLayout
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.deterministic import ConservativeConfig, DeterministicActorCritic
from rllib_om2p.core.phases import Networks, Phase

if TYPE_CHECKING:
    from typing import Self


class OMARConfig(ConservativeConfig):
    """Configures OMAR.

    Example:
        ```python
        config = (
            OMARConfig()
            .offline_data(input_="data/simple_spread-medium")
            .training(alpha=5.0, coefficient=1.0)
        )
        algo = config.build_algo()
        ```
    """

    def __init__(self, algo_class: type | None = None) -> None:
        """Set the defaults of the authors' code for the particle tasks."""
        super().__init__(algo_class=algo_class or OMAR)
        self.coefficient = 1.0
        self.num_rounds = 3
        self.num_candidates = 10
        self.initial_std = 2.0
        self.num_elites: int | None = None

    @override(ConservativeConfig)
    def training(
        self,
        *,
        coefficient: float | None = NotProvided,
        num_rounds: int | None = NotProvided,
        num_candidates: int | None = NotProvided,
        initial_std: float | None = NotProvided,
        num_elites: int | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set OMAR's hyperparameters.

        Args:
            coefficient: Weight c of the distance to the best action found, against 1 - c of the
                value, in [0, 1] (the paper's regularisation coefficient, 0.1 to 1 by data set; 0 is
                MA-CQL; default 1).
            num_rounds: Rounds of the search (default 3).
            num_candidates: Candidates of each round (default 10).
            initial_std: Standard deviation of the first round, in units of half the box (default
                2).
            num_elites: The rounds are fitted to so many best candidates, as the authors do on 2x3
                HalfCheetah; None (default) weights all by the softmax of their values.
            **kwargs: See `ConservativeConfig.training`.
        """
        super().training(**kwargs)
        self._assign(
            coefficient=coefficient,
            num_rounds=num_rounds,
            num_candidates=num_candidates,
            initial_std=initial_std,
            num_elites=num_elites,
        )
        return self

    @override(ConservativeConfig)
    def validate(self) -> None:
        """Check OMAR's settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_positive("num_rounds", "num_candidates", "initial_std")
        if not 0 <= self.coefficient <= 1:
            raise ValueError(f"coefficient must be in [0, 1], got {self.coefficient}.")
        if self.num_elites is not None and not 0 < self.num_elites <= self.num_candidates:
            raise ValueError(
                f"num_elites must be in [1, num_candidates] or None, got {self.num_elites} of "
                f"{self.num_candidates}."
            )

    @override(OfflineConfig)
    def build_phases(self, networks: Networks, layout: RowLayout) -> list[Phase]:
        """Return the critics' phase and then the actors'."""
        assert isinstance(networks, DeterministicActorCritic)
        actor_loss = ActorLoss(
            networks=networks,
            coefficient=self.coefficient,
            num_rounds=self.num_rounds,
            num_candidates=self.num_candidates,
            std=self.initial_std,
            num_elites=self.num_elites,
        )
        critic = self.critic_phase(networks, layout)
        return [critic, self.actor_phase(networks, actor_loss)]


class OMAR(Algorithm):
    """Offline MARL with Actor Rectification, as an RLlib Algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> OMARConfig:
        """Return OMAR's defaults."""
        return OMARConfig()
