"""Advantage weights: hand numbers, presence, extremes."""

from __future__ import annotations

import math

import pytest
import torch

from rllib_om2p.ops.advantage import LARGEST_WEIGHT, advantage_weights, effective_fraction


def test_hand_numbers():
    """A = 0, 2 has standard deviation 1, so that the weights are as 1 to e^(2 / temperature)."""
    for temperature in (0.5, 1.0, 2.0):
        weights = advantage_weights(torch.tensor([[0.0, 2.0]]), temperature=temperature)
        ratio = math.exp(2 / temperature)
        expected = torch.tensor([[2 / (1 + ratio), 2 * ratio / (1 + ratio)]])
        torch.testing.assert_close(weights, expected)


def test_effective_fraction_by_hand():
    """(mean w)² / mean w²: 1 for equal weights, 1 / n for one of n, 4 / 5 for 1 and 3."""
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0], [4.0, 0.0, 0.0, 0.0], [1.0, 3.0, 1.0, 3.0]])
    assert effective_fraction(weights).tolist() == pytest.approx([1.0, 0.25, 4 / 5])


@pytest.mark.parametrize("shift", [0.0, -50.0])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_neither_scale_nor_level_of_the_values_matters(shift, scale):
    advantages = torch.randn(3, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = advantage_weights(advantages, temperature=0.7)
    moved = advantage_weights(scale * (advantages + shift), temperature=0.7)
    torch.testing.assert_close(moved, plain)
    torch.testing.assert_close(plain.mean(-1), torch.ones(3, dtype=torch.float64))


def test_the_better_an_action_the_more_it_counts_and_nothing_overflows():
    advantages = torch.linspace(-1, 1, 256)[None] ** 3 + torch.tensor([[1.0], [2.0]])
    weights = advantage_weights(advantages, temperature=0.05)
    assert (weights.diff() >= 0).all()
    one = torch.zeros(1, 1000)
    one[0, 7] = 1.0  # 32 standard deviations from all others, e^63 times their weight
    assert torch.isfinite(advantage_weights(one, temperature=0.5)).all()
    equal = advantage_weights(torch.full((1, 8), 3.0), temperature=0.1)
    torch.testing.assert_close(equal, torch.ones(1, 8))


def test_a_weight_is_cut_at_twenty_means():
    advantages = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    weights = advantage_weights(advantages, temperature=0.4)
    raw = (advantages / (0.4 * advantages.std(correction=0))).exp()
    raw = raw / raw.mean()
    assert raw.max() > LARGEST_WEIGHT
    cut = raw.clamp(max=LARGEST_WEIGHT)
    torch.testing.assert_close(weights, cut / cut.mean(), rtol=1e-3, atol=1e-4)


def test_who_is_absent_neither_weighs_nor_is_counted():
    advantages = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    presence = torch.ones(2, 32)
    presence[0, 20:] = 0
    presence[1] = 0
    changed = torch.where(presence > 0, advantages, 1e6)
    weights = advantage_weights(changed, presence, temperature=0.5)
    alone = advantage_weights(advantages[:1, :20], temperature=0.5)
    torch.testing.assert_close(weights[:1, :20], alone)
    assert (weights[presence == 0] == 0).all()
    torch.testing.assert_close(
        effective_fraction(weights, presence),
        torch.cat([effective_fraction(alone), torch.zeros(1)]),
    )


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        advantage_weights(torch.zeros(1, 2), temperature=0.0)
    with pytest.raises(ValueError, match="presence"):
        advantage_weights(torch.zeros(1, 2), torch.ones(2, 1), temperature=1.0)
