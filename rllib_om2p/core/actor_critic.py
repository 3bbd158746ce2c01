"""What most algorithms here are: an actor and an ensemble of critics for each agent.

`ActorCriticConfig` holds their common settings, `ActorCritic` the stacked networks; the critics'
loss is that of `critic_loss.py`, with the penalty of `conservative.py` if it has a weight. An
algorithm brings its actor and its actor's loss. Axes are (group, batch, feature).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from rllib_om2p.core.actors import ActorConfig
from rllib_om2p.core.agent_groups import AgentGroup, RowLayout
from rllib_om2p.core.conservative import ConservativeCriticLoss
from rllib_om2p.core.critic_loss import Critic, CriticLoss
from rllib_om2p.core.phases import Networks, Phase
from rllib_om2p.nets.critics import CriticEnsemble, values_of_choices
from rllib_om2p.nets.sharing import SharedNet, without_sharing
from rllib_om2p.ops.bellman import Aggregate
from rllib_om2p.ops.discrete import snap, value_of_choice

if TYPE_CHECKING:
    from typing import Self


class ActorCriticConfig(ActorConfig):
    """Settings of algorithms with an actor and a critic ensemble per agent."""

    def __init__(self, algo_class: type | None = None) -> None:
        """Set OM2P's defaults (section 7.1 and table 4), so that comparisons start equal."""
        super().__init__(algo_class=algo_class)
        self.critic: Critic = "own"
        self.num_critics = 2
        self.target_aggregate: Aggregate = "mean"
        self.critic_hidden: Sequence[int] = (512, 512, 512, 512)
        self.critic_layer_norm = True
        self.conservative_weight = 0.0
        self.num_sampled_actions = 10
        self.sample_noise = 0.2

    @override(ActorConfig)
    def training(
        self,
        *,
        critic: Critic | None = NotProvided,
        num_critics: int | None = NotProvided,
        target_aggregate: Aggregate | None = NotProvided,
        critic_hidden: Sequence[int] | None = NotProvided,
        critic_layer_norm: bool | None = NotProvided,
        conservative_weight: float | None = NotProvided,
        num_sampled_actions: int | None = NotProvided,
        sample_noise: float | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set what algorithms with actors and critics share.

        Args:
            critic: "own" (default): each agent learns the value of its own observation and action
                from its own reward. "vdn": the agents' values sum to their team's, learnt from the
                team's reward (value decomposition, arXiv 1706.05296).
            num_critics: Members of each agent's critic ensemble (default 2).
            target_aggregate: "mean" (default) or "min" over the ensemble in the target.
            critic_hidden: Hidden layers of the critics (default 4 x 512, OM2P section 7.1).
            critic_layer_norm: LayerNorm after the critics' activations (default True, as there).
            conservative_weight: Weight of a penalty, beside the mean squared temporal difference,
                on values of actions that are not the data's (CQL, arXiv 2006.04779 eq. 4; its
                alpha). 0 (default) for none. Where one policy collected the data it keeps the
                critic from imagining better actions beyond them: 0.1, or 1 to 5 where that is an
                expert, in our search; OMAR's code has 0.5 to 5 for raw rewards.
            num_sampled_actions: Actions per observation of each of the penalty's three proposals:
                uniform, around the policy's action, around its action at the next observation
                (default 10). Discrete actions need none: all are asked for.
            sample_noise: Standard deviation around the policy's actions, in units of half the box
                (default 0.2).
            **kwargs: See `ActorConfig.training`.
        """
        super().training(**kwargs)
        self._assign(
            critic=critic,
            num_critics=num_critics,
            target_aggregate=target_aggregate,
            critic_hidden=critic_hidden,
            critic_layer_norm=critic_layer_norm,
            conservative_weight=conservative_weight,
            num_sampled_actions=num_sampled_actions,
            sample_noise=sample_noise,
        )
        return self

    @override(ActorConfig)
    def validate(self) -> None:
        """Check the common settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_one_of("critic", ("own", "vdn"))
        self._check_one_of("target_aggregate", ("mean", "min"))
        self._check_positive("num_critics", "num_sampled_actions", "sample_noise")
        self._check_sizes("critic_hidden")
        self._check_not_negative("conservative_weight")
        self._warn_of_idle(
            "num_sampled_actions",
            "sample_noise",
            unless=self.conservative_weight > 0,
            needs="conservative_weight",
        )

    def build_critic(
        self, group: AgentGroup, generator: torch.Generator, *, num_sharing: int = 0
    ) -> nn.Module:
        """Return the critics of one group's agents; see `build_actor`."""
        if not num_sharing:
            return self._critics(len(group), group.obs_dim, group.action_dim, generator)
        ensemble = self._critics(1, group.obs_dim + num_sharing, group.action_dim, generator)
        return SharedNet(ensemble, group.identities(num_sharing), stack_axis=1)

    def _critics(
        self, num_stacks: int, obs_dim: int, action_dim: int, generator: torch.Generator
    ) -> CriticEnsemble:
        return CriticEnsemble(
            num_stacks,
            self.num_critics,
            obs_dim,
            action_dim,
            self.critic_hidden,
            layer_norm=self.critic_layer_norm,
            generator=generator,
        )

    def build_critic_loss(self, networks: ActorCritic, layout: RowLayout) -> CriticLoss:
        """Return temporal-difference learning under the actors' actions."""
        return CriticLoss(
            networks=networks,
            gamma=self.gamma,
            aggregate=self.target_aggregate,
            critic=self.critic,
            teams=layout.team_agents,
        )

    def critic_phase(self, networks: ActorCritic, layout: RowLayout) -> Phase:
        """Return the critics' phase: `build_critic_loss`, and the penalty if it has a weight."""
        loss = self.build_critic_loss(networks, layout)
        if self.conservative_weight == 0:
            return Phase("critic", list(networks.critics), loss.draw, loss)
        conservative = ConservativeCriticLoss(
            temporal=loss,
            weight=self.conservative_weight,
            num_actions=self.num_sampled_actions,
            std=self.sample_noise,
        )
        return Phase("critic", list(networks.critics), conservative.draw, conservative)

    @property
    def critic_model_config(self) -> dict[str, Any]:
        """What an RLModule with an agent's critic needs to build it."""
        return {
            "num_critics": self.num_critics,
            "critic_hidden": tuple(self.critic_hidden),
            "critic_layer_norm": self.critic_layer_norm,
        }


class ActorCritic(Networks):
    """An actor and a critic ensemble per agent, as one stack per group.

    Attributes:
        groups: The dataset's groups.
        actors: One stack per group.
        critics: Action-value ensembles, one stack per group; none if nothing asks for values.
        target_critics: What the critics' targets are made of.
    """

    def __init__(
        self,
        groups: Sequence[AgentGroup],
        build_actor: Callable[[AgentGroup], nn.Module],
        build_critic: Callable[[AgentGroup], nn.Module] | None,
        *,
        export_critics: bool = False,
    ) -> None:
        """Build all stacks.

        Args:
            groups: The dataset's groups.
            build_actor: Returns one group's actors.
            build_critic: Returns one group's critics; None for no critics.
            export_critics: Give the agents' modules their critics, to choose among actions.
        """
        super().__init__()
        self.groups, self.export_critics = tuple(groups), export_critics
        self.actors = nn.ModuleList(build_actor(group) for group in groups)
        self.critics = nn.ModuleList(
            [] if build_critic is None else [build_critic(group) for group in groups]
        )
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)

    def propose(self, group_index: int, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the actors' points, (G, B, A), from noise (G, B, A).

        They lie in [-1, 1]; those of discrete actions may lie beyond, so that the largest feature
        has no equal.
        """
        raise TypeError(f"{type(self).__name__} must define propose().")

    def act(
        self, group_index: int, obs: Tensor, noise: Tensor, action_mask: Tensor | None = None
    ) -> Tensor:
        """Return the actions that critics judge, (G, B, A): discrete ones as corners of the box.

        Args:
            group_index: Which group.
            obs: Normalised observations, (G, B, O).
            noise: What the policy draws, (G, B, A).
            action_mask: Legal discrete actions, (G, B, A), or None.
        """
        actions = self.propose(group_index, obs, noise)
        return snap(actions, action_mask) if self.groups[group_index].is_discrete else actions

    def judge(
        self, group_index: int, obs: Tensor, actions: Tensor, action_mask: Tensor | None = None
    ) -> Tensor:
        """Return the critics' values of a policy's points, mean over the ensemble, (G, B).

        The gradient is the points': the critic's slope, or for discrete actions that between the
        values of all of them (`ops.discrete.value_of_choice`).

        Args:
            group_index: Which group.
            obs: Normalised observations, (G, B, O).
            actions: Points that policies answer with, (G, B, A); see `propose`.
            action_mask: Legal discrete actions, (G, B, A), or None.
        """
        critic = self.critics[group_index]
        if not self.groups[group_index].is_discrete:
            values: Tensor = critic(obs, actions).mean(0)
            return values
        with torch.no_grad():
            values = values_of_choices(critic, obs, actions.shape[-1]).mean(0)
        return value_of_choice(values, actions, action_mask)

    def policy_stacks(self) -> Sequence[Mapping[str, nn.Module]]:
        """Return what the agents' modules are views of: `actor` and, if exported, `critic`."""
        if not self.export_critics:
            return [{"actor": without_sharing(actor)} for actor in self.actors]
        return [
            {"actor": without_sharing(actor), "critic": without_sharing(critic)}
            for actor, critic in zip(self.actors, self.critics, strict=True)
        ]

    def target_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the target critics' parameters and the critics'."""
        return list(self.target_critics.parameters()), list(self.critics.parameters())
