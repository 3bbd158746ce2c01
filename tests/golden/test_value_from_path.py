"""What a value costs the matching loss, by where it acts, on a bandit whose critic is known.

Actions are -0.4 or 0.2 with noise 0.1, and the critic is the action itself, so that the value of a
policy is its mean action: -0.1 for the data. Where the value moves only the jump from noise to
action (OM2P eq. 6), the network bends at that one corner, and its targets, which hold du/dr there,
move away with it: the matching loss multiplies and next to nothing is won. Where the value moves
all jumps to the action, the same weight wins what the loss of the data costs.
"""

from __future__ import annotations

import pytest
from torch import Tensor

from tests.golden.bandit import Bandit

BANDIT = Bandit(low=-0.4, high=0.2)
NUM_UPDATES = 1500
ETA = 0.3


def train(eta: float, value_from: str) -> tuple[Tensor, Tensor]:
    """Return each network's matching loss and mean one-step action."""
    losses, actions = BANDIT.train(NUM_UPDATES, eta=eta, value_from=value_from)
    return losses, actions.mean(dim=1)


@pytest.fixture(scope="module")
def clones() -> tuple[Tensor, Tensor]:
    return train(0.0, "noise")


def test_cloning_alone_has_the_value_of_the_data(clones):
    losses, values = clones
    assert (losses < 0.2).all()
    assert (values + 0.1).abs().max() < 0.05


def test_a_value_of_one_jump_breaks_the_matching_loss_and_wins_little(clones):
    losses, values = train(ETA, "noise")
    assert (losses > 3 * clones[0]).all()
    assert (values - clones[1]).max() < 0.15


def test_a_value_of_all_jumps_wins_what_the_matching_loss_pays_for(clones):
    losses, values = train(ETA, "path")
    assert (losses < 2 * clones[0]).all()
    assert (values - clones[1]).min() > 0.25
