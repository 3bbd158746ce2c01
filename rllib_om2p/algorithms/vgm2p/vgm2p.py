"""VGM2P: offline multi-agent reinforcement learning by behaviour cloning under a label.

The agents' values sum to their team's. Each agent's value labels the data's actions, one-step
mean-flow policies clone them given the label, and agents act as the good ones did: no gradient
passes from a critic to a policy. The equations and our decisions stand in README.md beside this
file.

Source: VGM2P, Value Guidance Multi-agent MeanFlow Policy (see papers cited in the README).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override

from rllib_om2p.algorithms.vgm2p.losses import GUIDANCES, ActorLoss, Guidance
from rllib_om2p.algorithms.vgm2p.networks import NUM_LABEL_FEATURES, VGM2PModule, VGM2PNetworks
from rllib_om2p.core.actor_critic import ActorCriticConfig
from rllib_om2p.core.agent_groups import AgentGroup, RowLayout
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.matching import Derivative, MeanFlowMatching, check_derivative
from rllib_om2p.core.phases import Networks, Phase
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.times import time_table

if TYPE_CHECKING:
    from typing import Self

UNIFORM_TIMES = (0.0, 0.0, 0.0, 0.0)


class VGM2PConfig(ActorCriticConfig):
    """Configures VGM2P.

    Example:
        ```python
        config = (
            VGM2PConfig()
            .offline_data(input_="data/simple_spread-medium")
            .training(omega=3.0)
            .environment("mpe/simple_spread")
            .evaluation(evaluation_interval=5, evaluation_duration=100)
        )
        algo = config.build_algo()
        ```
    """

    supports_discrete = True
    divergence_remedy = "Lower omega or lr, set guide_others=False or grad_clip"

    def __init__(self, algo_class: type | None = None) -> None:
        """Set the paper's defaults (VGM2P table 3 and section 3.3), and ours where it is silent."""
        super().__init__(algo_class=algo_class or VGM2P)
        self.critic = "vdn"
        self.train_batch_size = 64
        self.gamma = 0.995
        self.omega = 3.0
        self.guidance: Guidance = "advantage"
        self.guide_others = True
        self.label_dropout = 0.1
        self.num_baseline_actions = 1
        self.share_parameters = False
        self.derivative: Derivative = "tangent"
        self.finite_difference_step = 3e-3

    @override(ActorCriticConfig)
    def training(
        self,
        *,
        omega: float | None = NotProvided,
        guidance: Guidance | None = NotProvided,
        guide_others: bool | None = NotProvided,
        label_dropout: float | None = NotProvided,
        num_baseline_actions: int | None = NotProvided,
        share_parameters: bool | None = NotProvided,
        derivative: Derivative | None = NotProvided,
        finite_difference_step: float | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set VGM2P's hyperparameters.

        Args:
            omega: Guidance weight (eq. 11; the paper chooses among 3, 5, 10 and 20; default 3).
                1 is cloning under labels without guidance.
            guidance: What the guided velocity is led away from: "advantage" (the paper's; default)
                the policy's own velocity under the label "good"; "label_dropout" (ours) the
                velocity without a label, as in classifier-free guidance (arXiv 2207.12598), which
                exaggerates what sets good actions apart.
            guide_others: Whether actions that are not good are guided too, as in eq. 11 (default
                True). Agents never act under their label, and the guidance asks the network for
                good actions where there are none, which can make the loss diverge. False (ours)
                lets them keep the data's velocity.
            label_dropout: Part of each batch whose labels are left out, so that the velocity
                without a label is learnt (default 0.1; only for guidance="label_dropout").
            num_baseline_actions: How many of the policy's actions the data's action is compared
                with (algorithm 1: one; default 1). More make the labels less random.
            share_parameters: One actor and one critic ensemble for all agents of equal shape, which
                are told the agent's one-hot identity (section 3.3). False (default): each agent
                has networks of its own (algorithm 1).
            derivative: du/dr in the matching target: "tangent" (the paper's, exact; default) or
                "finite_difference".
            finite_difference_step: Step of the finite difference (default 3e-3).
            **kwargs: See `ActorCriticConfig.training`. Other defaults of the paper: critic "vdn"
                (section 3.3), train_batch_size 64, gamma 0.995 (table 3).
        """
        super().training(**kwargs)
        self._assign(
            omega=omega,
            guidance=guidance,
            guide_others=guide_others,
            label_dropout=label_dropout,
            num_baseline_actions=num_baseline_actions,
            share_parameters=share_parameters,
            derivative=derivative,
            finite_difference_step=finite_difference_step,
        )
        return self

    @override(ActorCriticConfig)
    def validate(self) -> None:
        """Check VGM2P's settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_one_of("guidance", GUIDANCES)
        self._check_one_of("derivative", ("tangent", "finite_difference"))
        self._check_positive("omega", "num_baseline_actions")
        if not 0 < self.label_dropout < 1:
            raise ValueError(
                f"label_dropout must be in (0, 1), got {self.label_dropout}; the velocity without "
                'a label is learnt from what it drops. guidance="advantage" drops none.'
            )
        check_derivative(self.derivative, self.finite_difference_step, self.precision)
        self._warn_of_idle(
            "finite_difference_step",
            unless=self.derivative == "finite_difference",
            needs='derivative="finite_difference"',
        )
        self._warn_of_idle(
            "label_dropout",
            unless=self.guidance == "label_dropout",
            needs='guidance="label_dropout"',
        )

    @override(OfflineConfig)
    def build_networks(
        self, groups: Sequence[AgentGroup], generator: torch.Generator
    ) -> VGM2PNetworks:
        """Return actors and critics, one per agent or one for the agents of a group."""
        num_sharing = sum(map(len, groups)) if self.share_parameters else 0
        return VGM2PNetworks(
            groups,
            lambda group: self.build_actor(
                VelocityNet,
                group,
                generator,
                num_labels=NUM_LABEL_FEATURES,
                num_sharing=num_sharing,
            ),
            lambda group: self.build_critic(group, generator, num_sharing=num_sharing),
        )

    @override(OfflineConfig)
    def build_phases(self, networks: Networks, layout: RowLayout) -> list[Phase]:
        """Return the critic's phase and then the actor's."""
        assert isinstance(networks, VGM2PNetworks)
        device = next(networks.parameters()).device
        actor_loss = ActorLoss(
            networks=networks,
            matching=MeanFlowMatching(
                derivative=self.derivative,
                step=self.finite_difference_step,
                time_table=time_table(UNIFORM_TIMES, device=device),
            ),
            omega=self.omega,
            guidance=self.guidance,
            guide_others=self.guide_others,
            label_dropout=self.label_dropout,
            num_baseline_actions=self.num_baseline_actions,
        )
        return [
            self.critic_phase(networks, layout),
            Phase("actor", list(networks.actors), actor_loss.draw, actor_loss),
        ]

    @override(OfflineConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the spec of the agents' modules."""
        return RLModuleSpec(
            module_class=VGM2PModule,
            model_config={
                "num_agents": len(self.dataset_spec.agents) if self.share_parameters else 0,
                **self.actor_model_config,
            },
        )


class VGM2P(Algorithm):
    """Value-Guidance Multi-agent MeanFlow Policy, as an RLlib Algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> VGM2PConfig:
        """Return VGM2P's defaults."""
        return VGM2PConfig()
