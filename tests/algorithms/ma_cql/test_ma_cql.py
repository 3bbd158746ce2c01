"""MA-CQL: its actor's loss by hand, a bandit with a known optimum, data with two modes."""

from __future__ import annotations

import pytest
import torch

from rllib_om2p.algorithms.ma_cql import MACQLConfig
from rllib_om2p.algorithms.ma_cql.losses import ActorLoss
from rllib_om2p.core.settings import apply_settings
from tests.algorithms import toys
from tests.algorithms.loops import SHAPES, Plain, make_batch, make_groups, plain_critic
from tests.small_data import write_random


def test_actor_climbs_the_first_critic_agent_by_agent():
    config = MACQLConfig().training(
        actor_hidden=(16, 16), critic_hidden=(16, 16), actor_layer_norm=True
    )
    networks = config.build_networks(make_groups(), torch.Generator().manual_seed(0))
    batch = make_batch()
    losses, _ = ActorLoss(networks)(batch, ())
    expected = []
    for g, (size, _, _) in enumerate(SHAPES):
        for i in range(size):
            obs = batch.groups[g].obs[i]
            action = torch.tanh(Plain(networks.actors[g].mlp, i)(obs))
            expected.append(-plain_critic(networks.critics[g], i, obs, action)[0].mean())
    torch.testing.assert_close(losses, torch.stack(expected))


def small_config(dataset, **settings):
    small = toys.SMALL | {"train_batch_size": 64, "num_sampled_actions": 4}
    return MACQLConfig().offline_data(input_=dataset).training(**small | settings)


@pytest.mark.parametrize("critic", ["own", "vdn"])
def test_it_finds_the_bandits_optimum(critic, tmp_path):
    dataset = toys.bandit_dataset(str(tmp_path / "bandit"))
    learner = toys.train(small_config(dataset, alpha=0.05, critic=critic), 400)
    for agent, optimum in toys.BANDIT_OPTIMA.items():
        assert abs(toys.sample(learner, agent).mean() - optimum) < 0.15, agent


def test_it_goes_to_the_side_of_the_better_mode_and_not_between_the_two(tmp_path):
    """The penalty puts the values between the modes, where no data are, below those at them."""
    dataset = toys.two_mode_dataset(str(tmp_path / "modes"))
    learner = toys.train(small_config(dataset), 250)
    for agent, better in toys.BETTER_MODE.items():
        actions = toys.sample(learner, agent)
        # Nothing says how far beyond the data a value still rises: up to the end of the box.
        assert (actions * better / toys.MODE > toys.MODE - 0.25).mean() > 0.9, agent


@pytest.mark.parametrize("name", ["alpha", "num_sampled_actions", "sample_noise"])
def test_settings_without_meaning_are_refused(name, tmp_path):
    config = small_config(str(write_random(tmp_path / "set")), **{name: 0})
    named = r"alpha \(conservative_weight\)" if name == "alpha" else name
    with pytest.raises(ValueError, match=f"{named} must be positive, got 0"):
        config.validate()


def test_the_weight_has_one_value_whatever_its_name():
    with pytest.raises(ValueError, match="one setting"):
        MACQLConfig().training(alpha=2.0, conservative_weight=3.0)
    with pytest.raises(ValueError, match=r"alpha must be a number, got None; the default is 1\.0"):
        apply_settings(MACQLConfig(), {"alpha": None})
