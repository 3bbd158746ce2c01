"""How much better the data's actions are than what the policies would do, by their critics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from rllib_om2p.core.actor_critic import ActorCritic
    from rllib_om2p.core.agent_groups import GroupBatch


@torch.no_grad()
def advantage_of_data(
    networks: ActorCritic, group_index: int, group: GroupBatch, noise: Tensor
) -> Tensor:
    """Return A = Q(o, a) - mean over K of Q(o, â), (G, B), without gradient, Q the ensemble's mean.

    Args:
        networks: Actors that propose â and critics.
        group_index: Which group.
        group: Its part of the batch.
        noise: x_0 of the actions â, (G, K * B, A): K for each observation, batch by batch.
    """
    obs, mask = group.obs, group.action_mask
    num_samples = noise.shape[1] // obs.shape[1]
    wide_mask = None if mask is None else mask.repeat(1, num_samples, 1)
    proposed = networks.act(group_index, obs.repeat(1, num_samples, 1), noise, wide_mask)
    actions = torch.cat((group.actions, proposed), dim=1)
    critic = networks.critics[group_index]
    values = critic(obs.repeat(1, 1 + num_samples, 1), actions).mean(0)
    value, *others = values.chunk(1 + num_samples, dim=1)
    advantage: Tensor = value - torch.stack(others).mean(0)
    return advantage
