"""MA-CQL: its losses by hand and agent by agent, a bandit's known optimum, data with two modes."""

from __future__ import annotations

import math

import pytest
import torch

from rllib_om2p.algorithms.ma_cql import MACQLConfig
from rllib_om2p.algorithms.ma_cql.losses import ActorLoss
from rllib_om2p.core.conservative import CriticDraws
from rllib_om2p.core.settings import apply_settings
from tests.algorithms import toys
from tests.algorithms.loops import (
    SHAPES,
    Plain,
    make_batch,
    make_groups,
    plain_critic,
    scalar_batch,
    scalar_layout,
    set_sums,
)
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


def test_linear_networks_give_the_hand_computed_critic_loss():
    """Hand numbers with one action of each proposal around pi(o) = tanh(o log(3) / 2), s = 1.

    o = 0, o' = 1, so pi(o) = 0, pi(o') = 1/2; a = 1; Q_1 = 3 + (a - 1) log 4, Q_2 = 4 anywhere.
    Uniform: of 1/4 it is -1/2, with density 1/2.
    Around 0: of 1/2 it is 0, with density 0.39894 / 0.68269 = 0.58437 (a normal's height, and what
    lies within one deviation).
    Around 1/2: 0.69146 - 0.06681 = 0.62465 lies in the box; of (1/2 - 0.06681) / 0.62465 = 0.69349
    it is 1/2, with density 0.39894 / 0.62465 = 0.63866.
    exp(Q_1 - Q_1(1)) = 4^(b - 1) = 1/8, 1/4, 1/2, over the densities 1/4, 0.42781, 0.78289, whose
    mean is 0.48690: penalty_1 = log 0.48690 = -0.71970. Those of Q_2 are 2, 1.71125, 1.56578, of
    mean 1.75901: penalty_2 = 0.56475. Their mean is -0.07747.
    Qbar_1 = 4 a' + 4, Qbar_2 = 9 and pibar(o') = -1/2, so y = 1 + 1/2 min(2, 9) = 2;
    Q_1 = 3 and Q_2 = 4 are off by 1 and 2: 5/2. With alpha = 2 the loss is 5/2 - 0.15495.
    """
    layout = scalar_layout()
    config = MACQLConfig().training(
        actor_hidden=(),
        critic_hidden=(),
        alpha=2.0,
        num_sampled_actions=1,
        sample_noise=1.0,
        gamma=0.5,
    )
    networks = config.build_networks(layout.groups, torch.Generator())
    set_sums(networks.actors[0].mlp, (math.log(3) / 2, 0.0))
    set_sums(networks.target_actors[0].mlp, (-math.log(3) / 2, 0.0))
    set_sums(networks.critics[0].mlp, (0.0, math.log(4), 3 - math.log(4)), (0.0, 0.0, 4.0))
    set_sums(networks.target_critics[0].mlp, (0.0, 4.0, 4.0), (0.0, 0.0, 9.0))
    batch = scalar_batch([[0.0]], [[1.0]], next_obs=[[1.0]], rewards=[[1.0]])
    uniforms = torch.tensor([0.25, 0.5, 0.69349]).reshape(3, 1, 1, 1, 1)
    critic_phase, _ = config.build_phases(networks, layout)
    draws = CriticDraws(temporal=(torch.zeros(1, 1, 1),), uniforms=(uniforms,))
    loss, metrics = critic_phase.loss(batch, draws)
    assert metrics["penalty"].item() == pytest.approx(-0.07747, abs=2e-5)
    assert loss.item() == pytest.approx(2.34505, abs=4e-5)


def test_linear_networks_give_the_hand_computed_actor_loss_and_slope():
    """Hand numbers for pi(o) = tanh(o log(3) / 2), Q_1 = 2 o + 4 a + 1, Q_2 = 100 - 150 o.

    o = 1 and 0, pi = 1/2 and 0, Q_1 = 5 and 1: loss = -3. In the actor's bias, where
    dpi = 1 - pi^2 = 3/4 and 1, the slope is -4 (3/4 + 1) / 2 = -7/2.
    """
    layout = scalar_layout()
    config = MACQLConfig().training(actor_hidden=(), critic_hidden=())
    networks = config.build_networks(layout.groups, torch.Generator())
    set_sums(networks.actors[0].mlp, (math.log(3) / 2, 0.0))
    set_sums(networks.critics[0].mlp, (2.0, 4.0, 1.0), (-150.0, 0.0, 100.0))
    _, actor_phase = config.build_phases(networks, layout)
    loss, _ = actor_phase.loss(scalar_batch([[1.0, 0.0]], [[0.0, 0.0]]), ())
    assert loss.item() == pytest.approx(-3)
    (slope,) = torch.autograd.grad(loss.sum(), networks.actors[0].mlp.biases[0])
    assert slope.item() == pytest.approx(-7 / 2)


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
