"""The conservative penalty: closed forms of the integral, scipy's truncated normal."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from rllib_om2p.ops.conservative import (
    conservative_penalty,
    normal_proposal,
    penalty_of_choices,
    uniform_proposal,
)


def uniforms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_uniform_proposal_fills_the_box_at_its_density():
    numbers = torch.tensor([0.0, 0.25, 0.5, 0.75]).reshape(1, 1, 2, 2)
    actions, log_density = uniform_proposal(numbers)
    assert actions.tolist() == [[[[-1.0, -0.5], [0.0, 0.5]]]]
    torch.testing.assert_close(log_density.exp(), torch.full((1, 1, 2), 1 / 4))


@pytest.mark.parametrize("mean", [0.0, 0.9, -1.0])
@pytest.mark.parametrize("std", [0.2, 1.5])
def test_normal_proposal_is_scipys_truncated_normal(mean, std):
    numbers = uniforms(1, 1, 200, 1)
    actions, log_density = normal_proposal(numbers, torch.full((1, 1, 1), mean).double(), std=std)
    law = stats.truncnorm((-1 - mean) / std, (1 - mean) / std, loc=mean, scale=std)
    expected = torch.from_numpy(law.ppf(numbers.numpy()))
    torch.testing.assert_close(actions, expected, rtol=1e-6, atol=1e-6)
    reference = torch.from_numpy(law.logpdf(actions.numpy()))[..., 0]
    torch.testing.assert_close(log_density, reference, rtol=1e-6, atol=1e-6)


def test_density_of_several_features_is_their_product():
    numbers, mean = uniforms(2, 3, 5, 2), 2 * uniforms(2, 3, 2, seed=1) - 1
    actions, log_density = normal_proposal(numbers, mean, std=0.3)
    parts = [normal_proposal(numbers[..., [a]], mean[..., [a]], std=0.3) for a in range(2)]
    torch.testing.assert_close(log_density, parts[0].log_density + parts[1].log_density)
    torch.testing.assert_close(actions, torch.cat([part.actions for part in parts], -1))


def test_float32_draws_at_the_ends_stay_in_the_box_with_finite_densities():
    ends = torch.tensor([0.0, 1 - 2**-24]).reshape(1, 1, 2, 1)
    for mean in (-1.0, 0.0, 1.0):
        actions, log_density = normal_proposal(ends, torch.full((1, 1, 1), mean), std=0.05)
        assert actions.abs().max() <= 1
        assert torch.isfinite(log_density).all()


def test_equal_values_give_the_log_of_the_boxes_volume():
    """The integral of exp c over [-1, 1]^2 is 4 exp c, whatever the uniform draws."""
    _, log_density = uniform_proposal(uniforms(1, 1, 7, 2))
    q = torch.full((2, 1, 1, 7), 3.0).double()
    penalty = conservative_penalty(q, log_density, torch.full((2, 1, 1), 1.0).double())
    torch.testing.assert_close(penalty, torch.full((2, 1, 1), 2.0 + math.log(4.0)).double())


@pytest.mark.parametrize("proposal", ["uniform", "normal", "both"])
def test_any_proposal_estimates_the_same_integral(proposal):
    """The integral of exp(2 a) over [-1, 1] is sinh 2."""
    count = 20_000
    drawn = {
        "uniform": uniform_proposal(uniforms(1, 1, count, 1)),
        "normal": normal_proposal(
            uniforms(1, 1, count, 1, seed=1), torch.full((1, 1, 1), 0.3).double(), std=0.6
        ),
    }
    parts = list(drawn.values()) if proposal == "both" else [drawn[proposal]]
    actions = torch.cat([part.actions for part in parts], dim=2)
    log_density = torch.cat([part.log_density for part in parts], dim=2)
    penalty = conservative_penalty(
        2 * actions[..., 0][None], log_density, torch.zeros(1, 1, 1).double()
    )
    assert penalty.item() == pytest.approx(math.log(math.sinh(2.0)), abs=0.02)


def test_penalty_pushes_down_the_candidates_and_up_the_data():
    q = torch.zeros(1, 1, 1, 4, requires_grad=True)
    q_data = torch.zeros(1, 1, 1, requires_grad=True)
    conservative_penalty(q, torch.zeros(1, 1, 4), q_data).sum().backward()
    torch.testing.assert_close(q.grad, torch.full((1, 1, 1, 4), 0.25))
    assert q_data.grad.item() == -1


def test_shapes_that_would_broadcast_are_refused():
    q, log_density = torch.zeros(2, 3, 5, 4), torch.zeros(3, 5, 4)
    with pytest.raises(ValueError, match="log_density must be"):
        conservative_penalty(q, torch.zeros(3, 1, 4), torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="q_data must be"):
        conservative_penalty(q, log_density, torch.zeros(3, 5))
    with pytest.raises(ValueError, match="mean must be"):
        normal_proposal(torch.zeros(3, 5, 4, 2), torch.zeros(3, 5, 1), std=0.2)


def test_penalty_of_choices_by_hand_leaves_illegal_ones_out():
    q = torch.tensor([1.0, 2.0, 5.0]).log().reshape(1, 1, 1, 3).repeat(1, 1, 3, 1)
    q_data = torch.full((1, 1, 3), 2.0).log()
    mask = torch.tensor([[[1, 1, 1], [1, 1, 0], [0, 0, 0]]])
    # Where nothing is legal, as of an agent that is not there, all count: no number is infinite.
    expected = torch.tensor([[[8 / 2, 3 / 2, 8 / 2]]]).log()
    torch.testing.assert_close(penalty_of_choices(q, q_data, mask), expected)
    torch.testing.assert_close(penalty_of_choices(q, q_data), torch.full((1, 1, 3), 4.0).log())


def test_illegal_choices_get_no_gradient_and_no_row_a_nan():
    q = torch.zeros(1, 1, 2, 3, requires_grad=True)
    mask = torch.tensor([[[1, 0, 1], [0, 0, 0]]])
    penalty_of_choices(q, torch.zeros(1, 1, 2), mask).sum().backward()
    torch.testing.assert_close(q.grad[0, 0, 0], torch.tensor([0.5, 0.0, 0.5]))
    torch.testing.assert_close(q.grad[0, 0, 1], torch.full((3,), 1 / 3))


def test_choices_of_other_shapes_are_refused():
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="q_data"):
        penalty_of_choices(q, torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="action_mask"):
        penalty_of_choices(q, torch.zeros(1, 2, 3), torch.ones(2, 3, 1))
