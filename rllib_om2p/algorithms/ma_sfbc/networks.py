"""MA-SfBC's networks: stacked diffusion models and critics, and the per-agent RLModule.

Axes are (group, batch, feature); with M candidates per observation (group, batch, candidate,
feature).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from rllib_om2p.core.actor_critic import ActorCritic
from rllib_om2p.core.agent_groups import AgentGroup
from rllib_om2p.core.generative import DiffusionModel
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.nets.critics import values_of_candidates
from rllib_om2p.nets.field import FieldNet
from rllib_om2p.ops.discrete import snap
from rllib_om2p.ops.likelihood import perturb


def sample_candidates(
    diffusion: DiffusionModel,
    net: nn.Module,
    obs: Tensor,
    noise: Tensor,
    *,
    is_discrete: bool,
    action_mask: Tensor | None = None,
) -> Tensor:
    """Return several actions for each observation, (G, B, M, A).

    Args:
        diffusion: How noise becomes actions.
        net: The stacked noise predictors.
        obs: Normalised observations, (G, B, O).
        noise: x_0, (G, B, M, A).
        is_discrete: Whether actions are corners of the box.
        action_mask: Legal discrete actions, (G, B, A), or None.
    """
    num_candidates = noise.shape[2]
    wide = obs.repeat_interleave(num_candidates, dim=1)
    points = diffusion.sample(net, wide, noise.flatten(1, 2), clip=not is_discrete)
    actions = points.view(noise.shape)
    if not is_discrete:
        return actions
    mask = None if action_mask is None else action_mask.unsqueeze(2).expand_as(actions)
    return snap(actions, mask)


class SfBCNetworks(ActorCritic):
    """Diffusion models of behaviour as actors; see `ActorCritic`.

    Attributes:
        diffusion: How the actors are trained and sampled.
    """

    def __init__(
        self,
        groups: Sequence[AgentGroup],
        build_actor: Callable[[AgentGroup], nn.Module],
        build_critic: Callable[[AgentGroup], nn.Module],
        *,
        diffusion: DiffusionModel,
    ) -> None:
        """Build all stacks; the agents' modules have their critics, to select by."""
        super().__init__(groups, build_actor, build_critic, export_critics=True)
        self.diffusion = diffusion

    def candidates(
        self, group_index: int, obs: Tensor, noise: Tensor, action_mask: Tensor | None = None
    ) -> Tensor:
        """Return one group's candidates, (G, B, M, A); see `sample_candidates`."""
        return sample_candidates(
            self.diffusion,
            self.actors[group_index],
            obs,
            noise,
            is_discrete=self.groups[group_index].is_discrete,
            action_mask=action_mask,
        )


class SfBCModule(AgentModule):
    """One agent's policy: M candidates, of which one is drawn by the softmax of its own critic."""

    def build_networks(self) -> None:
        """Create the diffusion model and the critic."""
        config = self.model_config
        self.diffusion = DiffusionModel(config["diffusion_steps"])
        self.actor = self.build_actor(FieldNet)
        self.critic = self.build_critic()

    def act(self, obs: Tensor, noise: Tensor | None, action_mask: Tensor | None = None) -> Tensor:
        """Return the selected candidates, (1, B, A).

        Args:
            obs: Normalised observations, (1, B, O).
            noise: Standard normal, (B, M, A + 1): x_0 of the candidates, and what decides among
                them; drawn if None.
            action_mask: Legal discrete actions, (1, B, A), or None.
        """
        config = self.model_config
        shape = (obs.shape[1], config["num_candidates"], self.action_dim + 1)
        noise = self.noise_or_drawn(noise, *shape)
        candidates = sample_candidates(
            self.diffusion,
            self.actor,
            obs,
            noise[None, ..., :-1],
            is_discrete=self.is_discrete,
            action_mask=action_mask,
        )
        values = values_of_candidates(self.critic, obs, candidates).mean(0)
        chosen = perturb(config["alpha"] * values, noise[None, ..., -1]).argmax(-1)
        index = chosen[..., None, None].expand(-1, -1, 1, self.action_dim)
        return candidates.gather(2, index).squeeze(2)
