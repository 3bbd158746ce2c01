"""OM2P learns what is known to be best: bandits, two modes, discrete choices."""

from __future__ import annotations

import numpy as np
import pytest

from rllib_om2p.algorithms.om2p import OM2PConfig
from tests.algorithms import toys

# The paper's form, and with the options that we would set.
FORMS = {
    "paper": {"critic": "own"},
    "team": {"critic": "vdn"},
    "options": {"critic": "vdn", "value_from": "path", "advantage_temperature": 0.5},
}


def train(dataset: str, num_updates: int, **settings: object):
    config = OM2PConfig().offline_data(input_=dataset).training(**toys.SMALL | settings)
    return toys.train(config, num_updates)


@pytest.mark.parametrize("form", FORMS)
def test_bandits_actions_gather_at_each_agents_optimum(form, tmp_path):
    """The data are uniform, with a standard deviation of 0.58."""
    learner = train(toys.bandit_dataset(tmp_path / "bandit"), 500, eta=3.0, **FORMS[form])
    for agent, optimum in toys.BANDIT_OPTIMA.items():
        actions = toys.sample(learner, agent)
        assert actions.mean() == pytest.approx(optimum, abs=0.25)
        assert actions.std() < 0.3


def test_without_a_value_both_modes_are_kept(tmp_path):
    dataset = toys.two_mode_dataset(tmp_path / "modes")
    learner = train(dataset, 1200, eta=0.0, actor_hidden=(64, 64))
    for agent in toys.AGENTS:
        shares = toys.mode_shares(toys.sample(learner, agent))
        assert sum(shares) > 0.65
        assert min(shares) > 0.2


@pytest.mark.parametrize("form", FORMS)
def test_value_draws_the_policy_from_the_worse_mode_to_the_better(form, tmp_path):
    learner = train(toys.two_mode_dataset(tmp_path / "modes"), 500, eta=1.0, **FORMS[form])
    for agent, better in toys.BETTER_MODE.items():
        actions = toys.sample(learner, agent)
        assert np.mean(abs(actions + better) < 0.25) < 0.1
        # A value alone carries what was at the worse mode part of the way; weights have none there.
        assert actions.mean() / better > (0.9 if form == "options" else 0.25)
        if form == "options":
            assert np.mean(abs(actions - better) < 0.25) > 0.9


@pytest.mark.parametrize(
    ("form", "eta", "num_updates", "share"),
    [("paper", 3.0, 250, 0.8), ("options", 1.0, 150, 0.95)],
    ids=["paper", "options"],
)
def test_best_discrete_action_of_the_data_is_chosen(form, eta, num_updates, share, tmp_path):
    """Of the data's choices half are the best."""
    dataset = toys.discrete_dataset(tmp_path / "discrete")
    learner = train(dataset, num_updates, eta=eta, **FORMS[form])
    for agent, best in toys.BEST_CHOICE.items():
        assert np.mean(toys.sample(learner, agent) == best) > share
