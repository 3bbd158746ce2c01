"""Discrete actions as corners of the box."""

from __future__ import annotations

import pytest
import torch

from rllib_om2p.ops.discrete import choose, corners, one_hot, snap, value_of_choice


def test_choice_is_the_largest_legal_feature() -> None:
    actions = torch.tensor([[0.9, -1.0, 0.2], [-1.0, -1.0, -1.0], [0.5, 0.5, -0.5]])
    mask = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 1]])
    assert choose(actions).tolist() == [0, 0, 0]
    assert choose(actions, mask).tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(2e7, torch.float32), (1e30, torch.float32), (torch.inf, torch.float32)]
    + [(300.0, torch.bfloat16), (2048.0, torch.float16)],
)
def test_an_illegal_action_is_never_chosen_however_large_its_feature(largest, dtype) -> None:
    actions = torch.tensor([[largest, 0.0], [largest, -1e4]], dtype=dtype)
    assert choose(actions, torch.tensor([[0, 1], [0, 1]])).tolist() == [1, 1]


def test_choice_without_any_legal_action_is_the_largest_feature() -> None:
    assert choose(torch.tensor([0.1, 0.3]), torch.zeros(2)).tolist() == 1


def test_snapped_actions_are_corners_exactly() -> None:
    actions = torch.rand(5, 7, 4) * 2 - 1
    assert torch.equal(snap(actions), one_hot(actions.argmax(-1), 4))
    assert torch.equal(snap(corners(4, like=actions)), corners(4, like=actions))


def test_value_of_choice_by_hand() -> None:
    values = torch.tensor([[1.0, 4.0, -2.0], [1.0, 4.0, -2.0]], requires_grad=True)
    actions = torch.tensor([[0.9, 0.8, -1.0], [0.9, 0.8, -1.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    judged = value_of_choice(values, actions, mask)
    assert judged.tolist() == [1.0, 4.0]
    (gradient,) = torch.autograd.grad(judged.sum(), actions)
    # Half of what each is better than the mean of the legal ones, 1 in both rows.
    assert gradient.tolist() == [[0.0, 1.5, -1.5], [0.0, 1.5, -1.5]]


def test_value_of_choice_is_linear_between_the_corners() -> None:
    values = torch.randn(6, 4)
    actions = corners(4, like=values)[torch.randint(4, (6,))].requires_grad_()
    (gradient,) = torch.autograd.grad(value_of_choice(values, actions).sum(), actions)
    here = value_of_choice(values, actions.detach())
    for other in corners(4, like=values):
        expected = value_of_choice(values, other.expand(6, 4))
        reached = here + (gradient * (other - actions.detach())).sum(-1)
        torch.testing.assert_close(reached, expected)


def test_value_of_choice_where_nothing_is_legal_has_no_slope() -> None:
    actions = torch.tensor([0.1, 0.3], requires_grad=True)
    judged = value_of_choice(torch.tensor([1.0, 2.0]), actions, torch.zeros(2))
    (gradient,) = torch.autograd.grad(judged, actions)
    assert (judged.item(), gradient.tolist()) == (2.0, [0.0, 0.0])


def test_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"action_mask must be \(2, 3\)"):
        choose(torch.zeros(2, 3), torch.ones(3))
