"""OM2P: offline multi-agent reinforcement learning with one-step mean-flow policies.

Each agent's policy turns noise into an action in one network pass. It is trained to match the
data's actions (mean-flow matching) and to be valued by a critic. The equations and our decisions
stand in README.md beside this file.

Source: OM2P, Offline Multi-Agent Mean-Flow Policy (see papers cited in the README).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override
from torch import nn

from rllib_om2p.algorithms.om2p.adaptive_eta import AdaptiveEta
from rllib_om2p.algorithms.om2p.expectile import ExpectileCriticLoss, value_phase
from rllib_om2p.algorithms.om2p.losses import ActorLoss, ValueFrom
from rllib_om2p.algorithms.om2p.networks import Form, OM2PModule, OM2PNetworks
from rllib_om2p.algorithms.om2p.options import check_together
from rllib_om2p.algorithms.om2p.released import ReleasedMatching
from rllib_om2p.core.actor_critic import ActorCritic, ActorCriticConfig
from rllib_om2p.core.agent_groups import AgentGroup, RowLayout
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.critic_loss import CriticLoss
from rllib_om2p.core.matching import DERIVATIVES, Derivative, MeanFlowMatching, check_derivative
from rllib_om2p.core.phases import Networks, Phase
from rllib_om2p.core.rl_module import SHARED_NOISE
from rllib_om2p.nets.mlp import StackedMLP
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.times import time_table

if TYPE_CHECKING:
    from typing import Self


class OM2PConfig(ActorCriticConfig):
    """Configures OM2P.

    Example:
        ```python
        config = (
            OM2PConfig()
            .offline_data(input_="data/simple_spread-medium")
            .training(eta=0.3)
            .environment("mpe/simple_spread")
            .evaluation(evaluation_interval=5, evaluation_duration=100)
        )
        algo = config.build_algo()
        ```
    """

    supports_discrete = True
    divergence_remedy = "Lower eta or lr, set grad_clip"

    def __init__(self, algo_class: type | None = None) -> None:
        """Set the paper's defaults (OM2P table 4 and section 7.1), and ours where it is silent."""
        super().__init__(algo_class=algo_class or OM2P)
        self.eta = 0.1
        self.bc_weight = 1.0
        self.normalize_q = False
        self.value_from: ValueFrom = "noise"
        self.advantage_temperature: float | None = None
        self.derivative: Derivative = "finite_difference"
        self.finite_difference_step = 3e-3
        self.xi: Sequence[float] = (-0.5, 0.0, 0.0, 0.0)
        self.instant_fraction = 0.0
        self.sampling_steps = 1
        self.best_of_n = 1
        self.critic_loss: Literal["td", "expectile"] = "td"
        self.expectile = 0.7
        self.adaptive_eta: float | None = None
        self.adaptive_eta_speed = 10.0
        self.adaptive_loss_power = 0.0
        self.adaptive_loss_constant = 1e-3
        self.shared_noise = False
        self.form: Form = "paper"

    @override(ActorCriticConfig)
    def training(
        self,
        *,
        eta: float | None = NotProvided,
        bc_weight: float | None = NotProvided,
        normalize_q: bool | None = NotProvided,
        value_from: ValueFrom | None = NotProvided,
        advantage_temperature: float | None = NotProvided,
        derivative: Derivative | None = NotProvided,
        finite_difference_step: float | None = NotProvided,
        xi: Sequence[float] | None = NotProvided,
        instant_fraction: float | None = NotProvided,
        sampling_steps: int | None = NotProvided,
        best_of_n: int | None = NotProvided,
        critic_loss: Literal["td", "expectile"] | None = NotProvided,
        expectile: float | None = NotProvided,
        adaptive_eta: float | None = NotProvided,
        adaptive_eta_speed: float | None = NotProvided,
        adaptive_loss_power: float | None = NotProvided,
        adaptive_loss_constant: float | None = NotProvided,
        shared_noise: bool | None = NotProvided,
        form: Form | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set OM2P's hyperparameters.

        Args:
            eta: Weight of the critic's value in the actor's loss (eq. 6; the paper tunes it per
                dataset; default 0.1, for standardised rewards). 0 is behaviour cloning alone.
            bc_weight: Weight of the matching loss (default 1, as in eq. 6). 0 is the value alone.
            normalize_q: Divide the value by its mean magnitude, so that eta does not depend on the
                scale of the rewards (default False; ours).
            value_from: Where the jump begins whose end the critic judges: "noise" (eq. 6, the
                policy's own jump; default) or "path" (ours): the points of the matching loss, so
                that the value bends all jumps to the action alike.
            advantage_temperature: beta of the weights exp(A / (beta std A)) of the transitions in
                the matching loss, A how much better the critic finds the data's action than the
                policy's (arXiv 1910.00177; the unit is ours); None (default) for equal weights.
            derivative: du/dr in the matching target: "finite_difference" (eq. 5, the paper's;
                default; not for bfloat16, whose rounding drowns it), "tangent" (exact, at the same
                cost) or "none" (plain flow matching).
            finite_difference_step: d in eq. 5 (default 3e-3; the paper's 1e-12 is no step at all
                in float32).
            xi: Coefficients of (log s, log(1 - s), s, s^2) in the density of flow times (eq. 4);
                (0, 0, 0, 0) is uniform, (a - 1, b - 1, 0, 0) is Beta(a, b). As eta it is tuned per
                dataset in the paper, and should be: the default, Beta(1/2, 1), is ours and right
                for value_from="path"; with "noise" uniform times were better on three of four sets
                (tuned_configs/RESULTS.md, "Flow times").
            instant_fraction: Part of each batch whose jump is empty, t = r (default 0; ours).
            sampling_steps: Equal jumps from noise to action (default 1, the paper's; more are
                ours).
            best_of_n: At evaluation, draw N actions and take the one that the agent's own critic
                values most (default 1; ours).
            critic_loss: "td" (default): the critic's target asks for the policy's next action.
                "expectile": it is a state value learnt from the data's actions alone (implicit
                Q-learning, arXiv 2110.06169).
            expectile: tau of the state value, in (0, 1) (default 0.7, that paper's for robots).
            adaptive_eta: delta of a constraint L_bc <= (1 + delta) x that of behaviour cloning,
                which each agent's eta adapts to, from `eta` on; None (default) for a fixed eta
                (ours; a reference actor is trained beside).
            adaptive_eta_speed: How many times faster than lr log eta moves (default 10; ours).
            adaptive_loss_power: p of the weight 1 / (error + c)^p of each transition's matching
                error (arXiv 2505.13447, where 1 is best); 0 (default) for none.
            adaptive_loss_constant: c of that weight (default 1e-3, as there).
            shared_noise: Whether a team's agents turn the same noise into their actions (default
                False; ours). Policies then need the noise from who asks them; see the README.
            form: "paper" (default), or "released": the authors' published code, which differs (see
                README.md); with derivative="none" and xi=(0, 0, 0, 0).
            **kwargs: See `ActorCriticConfig.training`; the paper's critic is "own" (section 7.1).
        """
        super().training(**kwargs)
        self._assign(
            eta=eta,
            bc_weight=bc_weight,
            normalize_q=normalize_q,
            value_from=value_from,
            advantage_temperature=advantage_temperature,
            derivative=derivative,
            finite_difference_step=finite_difference_step,
            xi=xi,
            instant_fraction=instant_fraction,
            sampling_steps=sampling_steps,
            best_of_n=best_of_n,
            critic_loss=critic_loss,
            expectile=expectile,
            adaptive_eta=adaptive_eta,
            adaptive_eta_speed=adaptive_eta_speed,
            adaptive_loss_power=adaptive_loss_power,
            adaptive_loss_constant=adaptive_loss_constant,
            shared_noise=shared_noise,
            form=form,
        )
        return self

    @override(ActorCriticConfig)
    def validate(self) -> None:
        """Check OM2P's settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_one_of("derivative", DERIVATIVES)
        self._check_one_of("critic_loss", ("td", "expectile"))
        self._check_one_of("form", ("paper", "released"))
        self._check_one_of("value_from", ("noise", "path"))
        self._check_positive(
            "sampling_steps", "best_of_n", "adaptive_eta_speed", "adaptive_loss_constant"
        )
        if not (self.eta >= 0 and self.bc_weight >= 0 and max(self.eta, self.bc_weight) > 0):
            raise ValueError(
                f"eta and bc_weight must be at least 0 and not both 0, got eta={self.eta}, "
                f"bc_weight={self.bc_weight}."
            )
        if not 0 <= self.instant_fraction <= 1:
            raise ValueError(f"instant_fraction must be in [0, 1], got {self.instant_fraction}.")
        if self.bc_weight > 0:
            check_derivative(self.derivative, self.finite_difference_step, self.precision)
        time_table(self.xi, num_points=2)
        check_together(self)
        self._warn_of_idle_options()

    def _warn_of_idle_options(self) -> None:
        has_value, matches_data = self.eta > 0, self.bc_weight > 0
        for name, is_used, needs in (
            ("critic", self.needs_critic, "eta"),
            ("value_from", has_value, "eta"),
            ("normalize_q", has_value, "eta"),
            ("xi", matches_data or (has_value and self.value_from == "path"), "bc_weight"),
            ("derivative", matches_data, "bc_weight"),
            ("instant_fraction", matches_data, "bc_weight"),
            (
                "finite_difference_step",
                self.derivative == "finite_difference",
                'derivative="finite_difference"',
            ),
            ("expectile", self.critic_loss == "expectile", 'critic_loss="expectile"'),
            ("adaptive_eta_speed", self.adaptive_eta is not None, "adaptive_eta"),
            ("adaptive_loss_constant", self.adaptive_loss_power > 0, "adaptive_loss_power"),
        ):
            self._warn_of_idle(name, unless=is_used, needs=needs)

    @property
    def needs_critic(self) -> bool:
        """Whether anything uses the critics; behaviour cloning alone does not train them."""
        return self.eta > 0 or self.best_of_n > 1 or self.advantage_temperature is not None

    @override(OfflineConfig)
    def build_networks(
        self, groups: Sequence[AgentGroup], generator: torch.Generator
    ) -> OM2PNetworks:
        """Return stacked actors and critics, and what the options add."""
        num_agents = sum(len(group) for group in groups)

        def build_actor(group: AgentGroup) -> nn.Module:
            return self.build_actor(VelocityNet, group, generator)

        def build_critic(group: AgentGroup) -> nn.Module:
            return self.build_critic(group, generator)

        def build_value(group: AgentGroup) -> StackedMLP:
            return StackedMLP(
                len(group),
                group.obs_dim,
                self.critic_hidden,
                1,
                layer_norm=self.critic_layer_norm,
                generator=generator,
            )

        def build_eta(actors: nn.ModuleList) -> AdaptiveEta:
            assert self.adaptive_eta is not None
            return AdaptiveEta(
                actors,
                num_agents,
                initial=self.eta,
                delta=self.adaptive_eta,
                speed=self.adaptive_eta_speed,
            )

        return OM2PNetworks(
            groups,
            build_actor,
            build_critic if self.needs_critic else None,
            build_value=build_value if self.critic_loss == "expectile" else None,
            build_eta=None if self.adaptive_eta is None else build_eta,
            form=self.form,
            sampling_steps=self.sampling_steps,
            export_critics=self.best_of_n > 1,
        )

    @override(OfflineConfig)
    def build_phases(self, networks: Networks, layout: RowLayout) -> list[Phase]:
        """Return the critics' phases and then the actors'."""
        assert isinstance(networks, OM2PNetworks)
        device = next(networks.parameters()).device
        matching = ReleasedMatching if self.form == "released" else MeanFlowMatching
        actor_loss = ActorLoss(
            networks=networks,
            eta=self.eta,
            bc_weight=self.bc_weight,
            normalize_q=self.normalize_q,
            critic=self.critic,
            teams=layout.team_agents,
            matching=matching(
                derivative=self.derivative,
                step=self.finite_difference_step,
                time_table=time_table(self.xi, device=device),
                instant_fraction=self.instant_fraction,
            ),
            adaptive_power=self.adaptive_loss_power,
            adaptive_constant=self.adaptive_loss_constant,
            shared_noise=self.shared_noise,
            value_from=self.value_from,
            advantage_temperature=self.advantage_temperature,
        )
        trained: list[nn.Module] = list(networks.actors)
        if networks.adaptive_eta is not None:
            trained += [*networks.adaptive_eta.references, networks.adaptive_eta.multipliers]
        actor = Phase("actor", trained, actor_loss.draw, actor_loss)
        return [*self._critic_phases(networks, layout), actor]

    @override(ActorCriticConfig)
    def build_critic_loss(self, networks: ActorCritic, layout: RowLayout) -> CriticLoss:
        """Return temporal-difference learning under the actors' actions, or of state values."""
        loss = super().build_critic_loss(networks, layout)
        if self.critic_loss == "expectile":
            return ExpectileCriticLoss(**vars(loss))
        return dataclasses.replace(loss, shared_noise=self.shared_noise)

    def _critic_phases(self, networks: OM2PNetworks, layout: RowLayout) -> list[Phase]:
        if not networks.critics:
            return []
        critic = self.critic_phase(networks, layout)
        if self.form == "released":
            critic = dataclasses.replace(critic, draw=networks.remembering(critic.draw))
        if isinstance(critic.loss, ExpectileCriticLoss):
            return [value_phase(networks, critic.loss, self.expectile), critic]
        return [critic]

    @override(OfflineConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the spec of the agents' modules."""
        return RLModuleSpec(
            module_class=OM2PModule,
            model_config={
                **self.critic_model_config,
                **self.actor_model_config,
                "form": self.form,
                "sampling_steps": self.sampling_steps,
                "best_of_n": self.best_of_n,
                SHARED_NOISE: self._noise_teams,
            },
        )

    @property
    def _noise_teams(self) -> list[list[str]] | None:
        if not self.shared_noise:
            return None
        return list((self.teams or {"all": list(self.dataset_spec.agent_ids)}).values())


class OM2P(Algorithm):
    """Offline Multi-Agent Mean-Flow Policy, as an RLlib Algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> OM2PConfig:
        """Return OM2P's defaults."""
        return OM2PConfig()
