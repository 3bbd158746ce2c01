"""OM2P's networks: stacked actors, critics and target critics, and the per-agent RLModule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from rllib_om2p.algorithms.om2p.adaptive_eta import AdaptiveEta
from rllib_om2p.algorithms.om2p.released import released_action
from rllib_om2p.core.actor_critic import ActorCritic
from rllib_om2p.core.agent_groups import AgentGroup, JointBatch
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.nets.mlp import StackedMLP
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.discrete import snap
from rllib_om2p.ops.mean_flow import VelocityFn, one_step_action

Form = Literal["paper", "released"]
Draw = Callable[[JointBatch, torch.Generator], Any]


def to_actions(
    form: Form, velocity_fn: VelocityFn, noise: Tensor, *, sampling_steps: int, clip: bool
) -> Tensor:
    """Return the policies' points, (G, B, A), from noise (G, B, A); in [-1, 1] if clipped."""
    if form == "released":
        return released_action(velocity_fn, noise, clip=clip)
    return one_step_action(velocity_fn, noise, num_steps=sampling_steps, clip=clip)


class OM2PNetworks(ActorCritic):
    """Average-velocity networks as actors; see `ActorCritic`.

    Attributes:
        values: State values, one stack per group, if critics learn by expectiles.
        adaptive_eta: What adapts eta, if it does.
        former_critics: In the released form the critics before the last step, which the targets
            follow.
    """

    def __init__(
        self,
        groups: Sequence[AgentGroup],
        build_actor: Callable[[AgentGroup], nn.Module],
        build_critic: Callable[[AgentGroup], nn.Module] | None,
        *,
        build_value: Callable[[AgentGroup], StackedMLP] | None = None,
        build_eta: Callable[[nn.ModuleList], AdaptiveEta] | None = None,
        form: Form = "paper",
        sampling_steps: int = 1,
        export_critics: bool = False,
    ) -> None:
        """Build all stacks.

        Args:
            groups: The dataset's groups.
            build_actor: See `ActorCritic`, as for `build_critic` and `export_critics`.
            build_critic: Returns one group's critics; None for no critics.
            build_value: Returns one group's state values; None for none.
            build_eta: From the actors to an eta that adapts; None for a fixed one.
            form: "paper" or "released".
            sampling_steps: Jumps from noise to action; 1 is the one-step policy.
            export_critics: Give the agents' modules their critics.
        """
        super().__init__(groups, build_actor, build_critic, export_critics=export_critics)
        self.form, self.sampling_steps = form, sampling_steps
        self.values = nn.ModuleList(
            [] if build_value is None else [build_value(group) for group in groups]
        )
        self.adaptive_eta = None if build_eta is None else build_eta(self.actors)
        former = self.critics if form == "released" else nn.ModuleList()
        self.former_critics = copy.deepcopy(former).requires_grad_(False)

    def propose(self, group_index: int, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the policies' points, (G, B, A), from noise (G, B, A); see `ActorCritic`."""
        actor = self.actors[group_index]
        return to_actions(
            self.form,
            lambda z, r, t: actor(obs, z, r, t),
            noise,
            sampling_steps=self.sampling_steps,
            clip=not self.groups[group_index].is_discrete,
        )

    def value(self, group_index: int, obs: Tensor) -> Tensor:
        """Return the state values of a group's observations (G, B, O), (1, G, B)."""
        values: Tensor = self.values[group_index](obs)
        return values.squeeze(-1)[None]

    def remembering(self, draw: Draw) -> Draw:
        """Return the critics' `draw`, which runs just before their step, keeping them as they are.

        The targets of the released form follow these.
        """

        def draw_and_remember(batch: JointBatch, generator: torch.Generator) -> Any:
            former, now = self.former_critics.parameters(), self.critics.parameters()
            with torch.no_grad():
                torch._foreach_copy_(list(former), list(now))
            return draw(batch, generator)

        return draw_and_remember

    @override(ActorCritic)
    def target_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the target critics' parameters and those that they follow."""
        targets, sources = super().target_pairs()
        return targets, list(self.former_critics.parameters()) or sources

    @override(ActorCritic)
    def reset_targets(self) -> None:
        """Make target and former critics equal to the critics."""
        if self.form == "released":
            self.former_critics.load_state_dict(self.critics.state_dict())
        super().reset_targets()


class OM2PModule(AgentModule):
    """One agent's mean-flow policy: one pass from noise to action.

    With `best_of_n` N > 1 it draws N actions and takes the one its own critic values most.
    """

    def build_networks(self) -> None:
        """Create the average-velocity network and, for `best_of_n`, the critic."""
        config = self.model_config
        self.actor = self.build_actor(VelocityNet)
        if config["best_of_n"] > 1:
            self.critic = self.build_critic()

    def act(self, obs: Tensor, noise: Tensor | None, action_mask: Tensor | None = None) -> Tensor:
        """Return the policy's points; see `AgentModule.act`.

        Args:
            obs: Normalised observations, (1, B, O).
            noise: x_0, (B, A), or (B, N, A) with `best_of_n`; drawn if None.
            action_mask: Legal discrete actions, (1, B, A), or None.
        """
        num_candidates = self.model_config["best_of_n"]
        batch_size = obs.shape[1]
        noise = self.noise_or_drawn(noise, batch_size, num_candidates, self.action_dim)
        noise = noise.reshape(1, batch_size * num_candidates, self.action_dim)
        wide = obs.repeat_interleave(num_candidates, dim=1)
        actions = to_actions(
            self.model_config["form"],
            lambda z, r, t: self.actor(wide, z, r, t),
            noise,
            sampling_steps=self.model_config["sampling_steps"],
            clip=not self.is_discrete,
        )
        if num_candidates == 1:
            return actions
        if self.is_discrete:
            mask = None if action_mask is None else action_mask.repeat_interleave(num_candidates, 1)
            actions = snap(actions, mask)
        values = self.critic(wide, actions).mean(0).view(batch_size, num_candidates)
        best = values.argmax(1)[:, None, None].expand(-1, 1, self.action_dim)
        candidates = actions.view(batch_size, num_candidates, self.action_dim)
        return candidates.gather(1, best).transpose(0, 1)
