"""What weights by the advantage add to a value, on a bandit whose good mode is rare.

Nine actions of ten are near -0.6, one is near 0.6, and the critic is the action itself. A value
hardly carries mass from one mode to the other, since every point of a path is matched to the action
it came from: it moves the actions off both modes, to where no data are. Weights change how much of
the data there is at each mode, and the policy stays where the data are.
"""

from __future__ import annotations

from torch import Tensor

from tests.golden.bandit import Bandit

BANDIT = Bandit(low=-0.6, high=0.6, high_share=0.1)
NUM_UPDATES = 1000


def shares(**settings: object) -> tuple[Tensor, Tensor]:
    """Return each network's share of actions at the good mode, and at neither mode."""
    _, actions = BANDIT.train(NUM_UPDATES, **settings)
    at_high = (actions - BANDIT.high).abs() < 0.3
    at_low = (actions - BANDIT.low).abs() < 0.3
    return at_high.float().mean(1), (~at_high & ~at_low).float().mean(1)


def test_cloning_keeps_the_good_mode_as_rare_as_it_is():
    at_high, nowhere = shares(eta=0.0)
    assert (at_high < 0.1).all()
    assert (nowhere < 0.25).all()


def test_a_value_alone_leaves_the_data_before_it_reaches_the_good_mode():
    at_high, _ = shares(eta=0.3, value_from="path")
    assert (at_high < 0.2).all()
    _, nowhere = shares(eta=1.0, value_from="path")
    assert (nowhere > 0.6).all()


def test_weights_alone_carry_the_policy_to_the_good_mode():
    at_high, nowhere = shares(eta=0.0, advantage_temperature=0.5)
    assert (at_high > 0.6).all()
    assert (nowhere < 0.35).all()


def test_a_larger_temperature_carries_less():
    at_high, _ = shares(eta=0.0, advantage_temperature=1.0)
    assert (at_high > 0.2).all()
    assert (at_high < 0.45).all()


def test_weights_and_a_value_together_win_more_than_either():
    at_high, _ = shares(eta=0.3, advantage_temperature=0.5, value_from="path")
    assert at_high.median() > 0.9
    assert (at_high > 0.5).all()
