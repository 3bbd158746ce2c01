"""Averages over a batch by hand numbers."""

from __future__ import annotations

import pytest
import torch

from rllib_om2p.ops.averages import batch_mean, mean_square

VALUES, TARGETS = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [2.0]]])


def test_mean_square_is_over_batch_and_features_of_the_transitions_that_count() -> None:
    assert mean_square(VALUES, TARGETS).tolist() == [2.5]
    assert mean_square(VALUES, TARGETS, torch.tensor([[0.0, 1.0]])).tolist() == [4.0]
    two = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])
    assert mean_square(two, torch.zeros_like(two)).tolist() == [5.0, 0.0]


def test_batch_mean_counts_what_is_present_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    assert batch_mean(values).tolist() == [3.0, 5.0]
    weights = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert batch_mean(values, weights).tolist() == [3.5, 0.0]
    with pytest.raises(ValueError, match="weights must be"):
        batch_mean(values, torch.ones(3))


def test_targets_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets must be \(1, 2, 1\) as values"):
        mean_square(VALUES, TARGETS[:, :1])
