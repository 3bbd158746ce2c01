"""Normalised scores against the papers' reference pairs."""

from __future__ import annotations

import numpy as np
import pytest

from rllib_om2p.evaluation.scores import References, normalised_score

SPREAD = References(random=159.8, expert=516.8, source="OG-MARL")


def test_random_is_0_and_expert_is_100() -> None:
    np.testing.assert_allclose(normalised_score([159.8, 516.8, 338.3], SPREAD), [0.0, 100.0, 50.0])


def test_scores_may_lie_outside_the_scale() -> None:
    np.testing.assert_allclose(normalised_score([124.1, 552.5], SPREAD), [-10.0, 110.0])


def test_negative_random_return_keeps_the_order() -> None:
    cheetah = References(random=-284.0, expert=3568.8, source="OG-MARL")
    assert float(normalised_score(1569.0, cheetah)) == pytest.approx(48.0948, abs=1e-4)


def test_references_are_read_from_a_card() -> None:
    card = {"random": 159.8, "expert": 516.8, "source": "OG-MARL"}
    assert References.from_mapping(card) == SPREAD
    assert References.from_mapping({}) is None


def test_incomplete_references_name_what_is_missing() -> None:
    with pytest.raises(ValueError, match="lack .'expert', 'source'."):
        References.from_mapping({"random": 1.0})


@pytest.mark.parametrize(("random", "expert"), [(1.0, 1.0), (float("nan"), 1.0)])
def test_a_scale_without_length_is_refused(random: float, expert: float) -> None:
    with pytest.raises(ValueError, match="must"):
        References(random=random, expert=expert, source="test")
