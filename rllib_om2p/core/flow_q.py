"""Flow Q-learning, what MA-FQL and MAC-Flow share: a flow clones behaviour, a student learns Q.

`FlowQConfig` holds the settings, `FlowQNetworks` the stacked networks, `FlowQLoss` the loss.
The student maps noise to an action in one pass. It is drawn to the flow's action from the same
noise and to what its critic values; only the student acts. Axes are (group, batch, feature).

Source: FQL, flow Q-learning (arXiv 2502.02538).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from rllib_om2p.core.actor_critic import ActorCritic, ActorCriticConfig
from rllib_om2p.core.agent_groups import AgentGroup, JointBatch, RowLayout
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.critic_loss import Critic, normal_like, unit_magnitude
from rllib_om2p.core.generative import FlowModel, PathDraws
from rllib_om2p.core.phases import Networks, Phase
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.nets.agent_net import AgentNet
from rllib_om2p.nets.field import FieldNet
from rllib_om2p.nets.policies import NoisePolicy
from rllib_om2p.nets.sharing import append_identity
from rllib_om2p.ops.averages import batch_mean, mean_square

if TYPE_CHECKING:
    from typing import Self


class FlowQConfig(ActorCriticConfig):
    """Settings of flow Q-learning.

    Attributes:
        shares_parameters: Whether the agents of a group have one network of each kind, which is
            told whom it serves, instead of their own.
    """

    supports_discrete = True
    divergence_remedy = "Raise alpha, lower lr or set grad_clip"
    shares_parameters = False

    def __init__(self, algo_class: type | None = None) -> None:
        """Set FQL's defaults (its table 5); sizes, batch and rates are those of OM2P as well."""
        super().__init__(algo_class=algo_class)
        self.alpha = 10.0
        self.flow_steps = 10
        self.normalize_q = False

    @override(ActorCriticConfig)
    def training(
        self,
        *,
        alpha: float | None = NotProvided,
        flow_steps: int | None = NotProvided,
        normalize_q: bool | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set flow Q-learning's hyperparameters.

        Args:
            alpha: Weight of the distance to the flow's actions against the value (FQL eq. 8, tuned
                per task there; default 10).
            flow_steps: Euler steps of the flow (FQL table 5; default 10).
            normalize_q: Divide the value by its mean magnitude, so that alpha does not depend on
                the scale of the rewards (an option of FQL's code; default False).
            **kwargs: See `ActorCriticConfig.training`.
        """
        super().training(**kwargs)
        self._assign(alpha=alpha, flow_steps=flow_steps, normalize_q=normalize_q)
        return self

    @override(ActorCriticConfig)
    def validate(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_positive("flow_steps")
        self._check_not_negative("alpha")

    @override(OfflineConfig)
    def build_networks(
        self, groups: Sequence[AgentGroup], generator: torch.Generator
    ) -> FlowQNetworks:
        """Return stacked students, flows and critics."""
        num_sharing = sum(map(len, groups)) if self.shares_parameters else 0

        def policy(net: type[AgentNet], group: AgentGroup) -> nn.Module:
            return self.build_actor(net, group, generator, num_sharing=num_sharing)

        flows = [policy(FieldNet, group) for group in groups]
        return FlowQNetworks(
            groups,
            lambda group: policy(NoisePolicy, group),
            lambda group: self.build_critic(group, generator, num_sharing=num_sharing),
            flows=flows,
        )

    @override(OfflineConfig)
    def build_phases(self, networks: Networks, layout: RowLayout) -> list[Phase]:
        """Return the critics' phase, and that of the flows and students."""
        assert isinstance(networks, FlowQNetworks)
        actor_loss = FlowQLoss(
            networks=networks,
            flow=FlowModel(self.flow_steps),
            alpha=self.alpha,
            normalize_q=self.normalize_q,
            critic=self.critic,
            teams=layout.team_agents,
        )
        trained = [*networks.flows, *networks.actors]
        return [
            self.critic_phase(networks, layout),
            Phase("actor", trained, actor_loss.draw, actor_loss),
        ]

    @override(OfflineConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the spec of the agents' modules."""
        shared = self.shares_parameters
        return RLModuleSpec(
            module_class=FlowQModule,
            model_config={
                **self.actor_model_config,
                "num_agents": len(self.dataset_spec.agents) if shared else 0,
            },
        )


class FlowQNetworks(ActorCritic):
    """Students as actors, the flows that they follow, and critics; see `ActorCritic`.

    Attributes:
        flows: One stack of velocities per group; they never act.
    """

    def __init__(self, *args: Any, flows: Sequence[nn.Module]) -> None:
        """Build all stacks; see `ActorCritic`."""
        super().__init__(*args)
        self.flows = nn.ModuleList(flows)

    @override(ActorCritic)
    def propose(self, group_index: int, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the students' points, (G, B, A), from noise (G, B, A); see `ActorCritic`."""
        return self.clipped(group_index, self.actors[group_index](obs, noise))

    def clipped(self, group_index: int, points: Tensor) -> Tensor:
        """Return a group's points in the box, (G, B, A); of discrete actions as they are."""
        return points if self.groups[group_index].is_discrete else points.clamp(-1, 1)


class FlowQDraws(NamedTuple):
    """One group's randomness of the actors' loss.

    Attributes:
        path: Noise and times of flow matching.
        noise: What flow and student turn into actions, (G, B, A).
    """

    path: PathDraws
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class FlowQLoss:
    """Flow matching, distillation and the critic's value [FQL eq. 6, 8].

    Attributes:
        networks: Students, flows and critics.
        flow: How flows are trained and sampled.
        alpha: Weight of the distance between the student's and the flow's action.
        normalize_q: Divide the value by its mean magnitude over the batch.
        critic: What the values are; "vdn" normalises by those of the teams.
        teams: Each team's agents, as positions in the concatenation of the groups.
    """

    networks: FlowQNetworks
    flow: FlowModel
    alpha: float
    normalize_q: bool
    critic: Critic
    teams: Sequence[Sequence[int]]

    def draw(self, batch: JointBatch, generator: torch.Generator) -> tuple[FlowQDraws, ...]:
        """Return each group's noise and times."""
        return tuple(
            FlowQDraws(
                path=self.flow.draw(group.actions, generator),
                noise=normal_like(group.actions, generator),
            )
            for group in batch.groups
        )

    def __call__(
        self, batch: JointBatch, draws: Sequence[FlowQDraws]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each agent's loss, (N,), and its parts."""
        nets = self.networks
        flow_losses, distances, q_values = [], [], []
        for index, (group, drawn) in enumerate(zip(batch.groups, draws, strict=True)):
            flow_losses.append(self.flow.loss(nets.flows[index], group, drawn.path))
            with torch.no_grad():
                wanted = self.flow.sample(nets.flows[index], group.obs, drawn.noise)
            actions = nets.actors[index](group.obs, drawn.noise)
            distances.append(mean_square(actions, wanted, group.alive))
            judged = nets.clipped(index, actions)
            q_values.append(nets.judge(index, group.obs, judged, group.action_mask))
        flow_loss, distance, values = map(torch.cat, (flow_losses, distances, q_values))
        scaled = values
        if self.normalize_q:
            scaled = unit_magnitude(values, self.critic, self.teams, batch.alive)
        losses = flow_loss + self.alpha * distance - batch_mean(scaled, batch.alive)
        return losses, {
            "flow_loss": flow_loss.detach(),
            "distill_loss": distance.detach(),
            "q_policy": batch_mean(values, batch.alive).detach(),
        }


class FlowQModule(AgentModule):
    """One agent's student: one pass from noise to action."""

    def build_networks(self) -> None:
        """Create the student; a shared one is told the agent's identity."""
        self.actor = self.build_actor(NoisePolicy)

    def act(self, obs: Tensor, noise: Tensor | None, action_mask: Tensor | None = None) -> Tensor:
        """Return the student's points; see `AgentModule.act`.

        Args:
            obs: Normalised observations, (1, B, O).
            noise: Standard normal, (B, A); drawn if None.
            action_mask: Not needed: the module chooses among the legal actions afterwards.
        """
        noise = self.noise_or_drawn(noise, obs.shape[1], self.action_dim)
        actions: Tensor = self.actor(append_identity(obs, self.identity[None]), noise[None])
        return actions if self.is_discrete else actions.clamp(-1, 1)
