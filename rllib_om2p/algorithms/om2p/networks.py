"""OM2P's networks: stacked actors, critics and target critics, and the per-agent RLModule."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rllib_om2p.core.agent_groups import AgentGroup
from rllib_om2p.core.phases import Networks
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.nets.critics import CriticEnsemble
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.mean_flow import one_step_action


class OM2PNetworks(Networks):
    """An actor and a critic ensemble per agent, as one stack per group.

    Attributes:
        actors: Average-velocity networks, one stack per group.
        critics: Action-value ensembles, one stack per group.
        target_critics: What the critics' targets are made of.
        sampling_steps: Jumps from noise to action; 1 is the one-step policy.
    """

    def __init__(
        self,
        groups: Sequence[AgentGroup],
        *,
        actor_hidden: Sequence[int],
        critic_hidden: Sequence[int],
        num_critics: int,
        actor_layer_norm: bool,
        critic_layer_norm: bool,
        sampling_steps: int,
        with_critics: bool,
        export_critics: bool,
        generator: torch.Generator,
    ) -> None:
        """Build and initialise all stacks.

        Args:
            groups: The dataset's groups.
            actor_hidden: Sizes of the actors' hidden layers.
            critic_hidden: Sizes of the critics' hidden layers.
            num_critics: Members of each agent's ensemble.
            actor_layer_norm: LayerNorm in the actors.
            critic_layer_norm: LayerNorm in the critics.
            sampling_steps: Jumps from noise to action.
            with_critics: Build critics; behaviour cloning alone has none.
            export_critics: Give the agents' modules their critics, for `best_of_n`.
            generator: Source of the initial weights.
        """
        super().__init__()
        self.sampling_steps, self.export_critics = sampling_steps, export_critics
        self.actors = nn.ModuleList(
            VelocityNet(
                len(group),
                group.obs_dim,
                group.action_dim,
                actor_hidden,
                layer_norm=actor_layer_norm,
                generator=generator,
            )
            for group in groups
        )
        self.critics = nn.ModuleList(
            CriticEnsemble(
                len(group),
                num_critics,
                group.obs_dim,
                group.action_dim,
                critic_hidden,
                layer_norm=critic_layer_norm,
                generator=generator,
            )
            for group in (groups if with_critics else ())
        )
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)

    def one_step(self, group_index: int, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the policies' actions in [-1, 1], (G, B, A), from noise (G, B, A)."""
        actor = self.actors[group_index]
        return one_step_action(
            lambda z, r, t: actor(obs, z, r, t), noise, num_steps=self.sampling_steps
        )

    def policy_stacks(self) -> Sequence[Mapping[str, nn.Module]]:
        """Return what the agents' modules are views of."""
        if not self.export_critics:
            return [{"velocity": actor} for actor in self.actors]
        return [
            {"velocity": actor, "critic": critic}
            for actor, critic in zip(self.actors, self.critics, strict=True)
        ]

    def target_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the target critics' parameters and the critics'."""
        return list(self.target_critics.parameters()), list(self.critics.parameters())


class OM2PModule(AgentModule):
    """One agent's mean-flow policy: one pass from noise to action.

    With `best_of_n` N > 1 it draws N actions and takes the one its own critic values most.
    """

    def build_networks(self) -> None:
        """Create the average-velocity network and, for `best_of_n`, the critic."""
        config = self.model_config
        self.velocity = VelocityNet(
            1,
            self.obs_dim,
            self.action_dim,
            config["actor_hidden"],
            layer_norm=config["actor_layer_norm"],
        )
        if config["best_of_n"] > 1:
            self.critic = CriticEnsemble(
                1,
                config["num_critics"],
                self.obs_dim,
                self.action_dim,
                config["critic_hidden"],
                layer_norm=config["critic_layer_norm"],
            )

    def act(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Return actions in [-1, 1].

        Args:
            obs: Normalised observations, (1, B, O).
            noise: x_0, (B, A), or (B, N, A) with `best_of_n`; drawn if None.
        """
        num_candidates = self.model_config["best_of_n"]
        batch_size = obs.shape[1]
        if noise is None:
            noise = torch.randn(batch_size, num_candidates, self.action_dim, device=obs.device)
        noise = noise.reshape(1, batch_size * num_candidates, self.action_dim)
        wide = obs.repeat_interleave(num_candidates, dim=1)
        actions = one_step_action(
            lambda z, r, t: self.velocity(wide, z, r, t),
            noise,
            num_steps=self.model_config["sampling_steps"],
        )
        if num_candidates == 1:
            return actions
        values = self.critic(wide, actions).mean(0).view(batch_size, num_candidates)
        best = values.argmax(1)[:, None, None].expand(-1, 1, self.action_dim)
        candidates = actions.view(batch_size, num_candidates, self.action_dim)
        return candidates.gather(1, best).transpose(0, 1)
