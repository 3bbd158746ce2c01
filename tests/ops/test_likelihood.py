"""Likelihoods against torch.distributions and hand numbers; samples against probabilities."""

from __future__ import annotations

import math

import torch
from torch.distributions import Categorical, Normal

from rllib_om2p.ops.discrete import choose, one_hot
from rllib_om2p.ops.likelihood import categorical_nll, normal_nll, perturb


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_normal_likelihood_equals_torchs() -> None:
    mean, log_std, actions = normal(2, 5, 3), 0.3 * normal(2, 5, 3) - 1, 0.5 * normal(2, 5, 3)
    want = -Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
    torch.testing.assert_close(normal_nll(mean, log_std, actions), want.mean(1))
    weights = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 0, 0, 1]])
    some = torch.stack((want[0, :2].mean(), want[1, 4]))
    torch.testing.assert_close(normal_nll(mean, log_std, actions, weights), some)


def test_categorical_likelihood_equals_torchs() -> None:
    logits, chosen = normal(2, 5, 4), torch.tensor([[0, 1, 2, 3, 0], [3, 3, 1, 0, 2]])
    want = -Categorical(logits=logits).log_prob(chosen)
    torch.testing.assert_close(categorical_nll(logits, one_hot(chosen, 4)), want.mean(1))


def test_illegal_actions_take_no_probability() -> None:
    logits = torch.tensor([[[1.0, 1.0, 9.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    chosen = one_hot(torch.tensor([[0, 1]]), 3)
    mask = torch.tensor([[[1, 1, 0], [0, 0, 0]]])
    # Two equal legal actions; then an absent agent without any, whose loss must be finite.
    loss = categorical_nll(logits, chosen, mask, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(loss, torch.tensor([math.log(2)]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[0], torch.tensor([[-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]))


def test_illegal_actions_in_the_data_leave_the_loss_a_number() -> None:
    logits = torch.tensor([[[1.0, 3.0, 1.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    chosen = one_hot(torch.tensor([[2, 1]]), 3)
    mask = torch.tensor([[[1, 0, 0], [0, 0, 0]]])
    # Of the first row one action is legal and another was taken; of the second only the taken one.
    loss = categorical_nll(logits, chosen, mask)
    torch.testing.assert_close(loss, torch.tensor([math.log(2) / 2]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[0], torch.tensor([[0.25, 0.0, -0.25], [0.0, 0.0, 0.0]]))


def test_largest_perturbed_logit_is_a_sample_among_the_legal() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(200_000, -1)
    mask = torch.tensor([1, 1, 0, 1]).expand(200_000, -1)
    chosen = choose(perturb(logits, normal(200_000, 4)), mask)
    shares = torch.bincount(chosen, minlength=4) / len(chosen)
    torch.testing.assert_close(shares, torch.tensor([1, 2, 0, 4]) / 7, rtol=0, atol=0.005)
