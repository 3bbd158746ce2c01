"""`conservative_weight` on the data of one policy that is the best there is: nothing is to be won.

A critic of noisy rewards that come with nearly one action imagines better ones, and a policy that
follows it leaves the data. The penalty is what keeps it there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rllib_om2p.algorithms import ALGORITHMS
from tests.algorithms import toys

METHODS: dict[str, dict[str, Any]] = {
    "MAFQL": {"alpha": 0.3},
    "OM2P": {"eta": 1.0, "critic": "vdn", "value_from": "path"},
}


def distance_from_data(name: str, dataset: str, weight: float) -> float:
    """Return how far the agents' actions are from the one that the data show, on average."""
    config = ALGORITHMS[name][1]().offline_data(input_=dataset)
    config.training(**toys.SMALL | METHODS[name] | {"num_sampled_actions": 4})
    learner = toys.train(config.training(conservative_weight=weight), 400)
    actions = {agent: toys.sample(learner, agent) for agent in toys.AGENTS}
    return float(np.mean([abs(actions[a] - toys.BANDIT_OPTIMA[a]).mean() for a in actions]))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_critic_imagines_leads_out_of_the_data_and_the_penalty_keeps_the_policy_there(
    name, tmp_path
):
    dataset = toys.narrow_dataset(tmp_path / "narrow")
    assert distance_from_data(name, dataset, 0.0) > 0.07
    assert distance_from_data(name, dataset, 1.0) < 0.05
