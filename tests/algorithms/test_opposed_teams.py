"""A game of two sides, in which what one wins the other loses: both learn their best answer."""

from __future__ import annotations

import pytest

from rllib_om2p.algorithms import ALGORITHMS
from tests.algorithms import toys

SIDES = {"one": ["first"], "other": ["second"]}
# Settings under which the value outweighs the data, critics joint where there is a choice.
GREEDY = {
    "OM2P": {"critic": "vdn", "eta": 10.0},
    "VGM2P": {"omega": 5.0, "num_baseline_actions": 1},
    "MATD3BC": {"critic": "vdn", "alpha": 30.0},
    "MAFQL": {"critic": "vdn", "alpha": 0.1},
    "MACFlow": {"alpha": 0.1},
}


def errors(path, name, **teams):
    config = ALGORITHMS[name][1]().offline_data(input_=toys.opposed_dataset(path), **teams)
    learner = toys.train(config.training(**toys.SMALL | GREEDY[name]), 500)
    return {
        agent: abs(toys.sample(learner, agent) - optimum).mean()
        for agent, optimum in toys.BANDIT_OPTIMA.items()
    }


@pytest.mark.parametrize("name", GREEDY)
def test_each_side_learns_its_best_answer(name, tmp_path):
    assert max(errors(tmp_path / "set", name, teams=SIDES).values()) < 0.25


def test_as_one_team_there_is_nothing_to_win(tmp_path):
    assert min(errors(tmp_path / "set", "OM2P").values()) > 0.3
