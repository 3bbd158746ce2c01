"""What critics say of a policy's points, and which way that moves them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rllib_om2p.core.actor_critic import ActorCritic
from rllib_om2p.core.agent_groups import AgentGroup
from rllib_om2p.data.schema import AgentSpec

# By agent and action; the second agent's best is its first.
TABLE = torch.tensor([[0.0, 1.0, 5.0], [2.0, 0.0, 1.0]])


class WavyCritic(nn.Module):
    """Two members that mean `TABLE` at the corners, where their own slope says nothing of it."""

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        values = (TABLE[:, None] * (actions + 1) / 2 + 10 * torch.sin(torch.pi * actions)).sum(-1)
        values = values + obs.sum(-1)
        return torch.stack((values - 1, values + 1))


def networks(*, discrete: bool) -> ActorCritic:
    make = AgentSpec.discrete if discrete else AgentSpec.box
    group = AgentGroup((make("a", 2, 3), make("b", 2, 3)), (0, 1))
    return ActorCritic([group], lambda _: nn.Identity(), lambda _: WavyCritic())


def test_discrete_points_are_judged_by_the_values_of_all_corners() -> None:
    """Of 2 agents and 4 observations: chosen values, and half of what each is above the mean."""
    obs = torch.randn(2, 4, 2)
    points = torch.full((2, 4, 3), -0.8)
    points[..., 1] = 0.7
    points.requires_grad_()
    values = networks(discrete=True).judge(0, obs, points)
    expected = TABLE[:, None, 1] + obs.sum(-1)
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=0)
    (slope,) = torch.autograd.grad(values.sum(), points)
    by_hand = 0.5 * (TABLE - TABLE.mean(1, keepdim=True))[:, None].expand(2, 4, 3)
    torch.testing.assert_close(slope, by_hand, atol=1e-4, rtol=0)


def test_illegal_actions_are_neither_chosen_nor_wanted() -> None:
    points = torch.zeros(2, 4, 3)
    points[..., 2] = 0.9
    points.requires_grad_()
    mask = torch.tensor([1.0, 1.0, 0.0]).expand(2, 4, 3)
    values = networks(discrete=True).judge(0, torch.zeros(2, 4, 2), points, mask)
    torch.testing.assert_close(values, TABLE[:, :1].expand(2, 4), atol=1e-4, rtol=0)
    (slope,) = torch.autograd.grad(values.sum(), points)
    by_hand = torch.tensor([[-0.25, 0.25, 0.0], [0.5, -0.5, 0.0]])[:, None].expand(2, 4, 3)
    torch.testing.assert_close(slope, by_hand, atol=1e-4, rtol=0)


def test_points_of_a_box_follow_the_critic_s_own_slope() -> None:
    points = torch.zeros(2, 4, 3, requires_grad=True)
    values = networks(discrete=False).judge(0, torch.zeros(2, 4, 2), points)
    (slope,) = torch.autograd.grad(values.sum(), points)
    by_hand = (TABLE / 2 + 10 * torch.pi)[:, None].expand(2, 4, 3)
    torch.testing.assert_close(slope, by_hand)
