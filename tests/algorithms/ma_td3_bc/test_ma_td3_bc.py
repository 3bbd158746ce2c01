"""MA-TD3+BC: its loss agent by agent and by hand, a bandit's known optimum, data with two modes."""

from __future__ import annotations

import math

import pytest
import torch

from rllib_om2p.algorithms.ma_td3_bc import MATD3BCConfig
from rllib_om2p.algorithms.ma_td3_bc.losses import ActorLoss
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

ALPHA = 1.5


def make_networks():
    config = MATD3BCConfig().training(
        actor_hidden=(16, 16), critic_hidden=(16, 16), actor_layer_norm=True
    )
    return config.build_networks(make_groups(), torch.Generator().manual_seed(0))


def make_loss(networks, *, critic="own", teams=(range(5),)):
    return ActorLoss(networks=networks, alpha=ALPHA, critic=critic, teams=teams)


def loop(networks, batch, magnitude_of):
    """Return every agent's loss; `magnitude_of` all values (5, B) gives the agents' divisors."""
    distances, values = [], []
    for g, (size, _, _) in enumerate(SHAPES):
        part = batch.groups[g]
        for i in range(size):
            action = torch.tanh(Plain(networks.actors[g].mlp, i)(part.obs[i]))
            distances.append(((action - part.actions[i]) ** 2).mean())
            values.append(plain_critic(networks.critics[g], i, part.obs[i], action)[0])
    divisors = magnitude_of(torch.stack(values).detach())
    return torch.stack(
        [
            distance - ALPHA * value.mean() / divisor
            for distance, value, divisor in zip(distances, values, divisors, strict=True)
        ]
    )


def test_loss_and_gradient_equal_a_loop_over_agents():
    networks, batch = make_networks(), make_batch()
    losses, metrics = make_loss(networks)(batch, ())
    expected = loop(networks, batch, lambda values: values.abs().mean(1))
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    assert metrics["bc_loss"].shape == metrics["q_policy"].shape == (5,)
    parameters = list(networks.actors.parameters())
    gradients = torch.autograd.grad(losses.sum(), parameters)
    reference = torch.autograd.grad(expected.sum(), parameters)
    for gradient, other in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


def test_team_values_are_normalised_by_an_equal_share_of_the_teams():
    networks, batch = make_networks(), make_batch()
    teams = ((0, 3), (4, 1, 2))
    losses, _ = make_loss(networks, critic="vdn", teams=teams)(batch, ())

    def shares(values):
        first = values[[0, 3]].sum(0).abs().mean() / 2
        second = values[[4, 1, 2]].sum(0).abs().mean() / 3
        return [first, second, second, first, second]

    expected = loop(networks, batch, shares)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("critic", ["own", "vdn"])
def test_what_an_absent_agent_saw_and_did_does_not_count(critic):
    networks, batch = make_networks(), make_batch()
    alive = torch.ones_like(batch.groups[0].rewards)
    alive[1, 8:] = 0
    everyone = batch.groups[1]._replace(alive=torch.ones_like(batch.groups[1].rewards))
    part = batch.groups[0]._replace(alive=alive)
    there = alive[..., None] > 0
    other = part._replace(
        obs=torch.where(there, part.obs, -part.obs),
        actions=torch.where(there, part.actions, -part.actions),
    )
    losses = [
        make_loss(networks, critic=critic)(batch._replace(groups=(first, everyone)), ())[0]
        for first in (part, other)
    ]
    torch.testing.assert_close(*losses)


def test_linear_networks_give_the_hand_computed_loss_and_slope():
    """Hand numbers for pi(o) = tanh(o log(3) / 2), Q_1 = 3 o + 2 a - 1, Q_2 = 100 - 150 o.

    alpha = 3, o = 1 and 0, pi = 1/2 and 0, a = 1, so the mean distance is (1/4 + 1) / 2 = 5/8;
    Q_1 = 3 and -1, of mean magnitude 2 and mean 1; loss = 5/8 - 3 (1/2) = -7/8.
    In the actor's bias, where dpi = 1 - pi^2 = 3/4 and 1, the distance has the slope
    (2 (-1/2) (3/4) + 2 (-1)) / 2 = -11/8, and 3 Q_1 / 2 has 3 (2 (3/4) + 2) / 2 / 2 = 21/8.
    """
    layout = scalar_layout()
    config = MATD3BCConfig().training(actor_hidden=(), critic_hidden=(), alpha=3.0)
    networks = config.build_networks(layout.groups, torch.Generator())
    set_sums(networks.actors[0].mlp, (math.log(3) / 2, 0.0))
    set_sums(networks.critics[0].mlp, (3.0, 2.0, -1.0), (-150.0, 0.0, 100.0))
    _, actor_phase = config.build_phases(networks, layout)
    loss, metrics = actor_phase.loss(scalar_batch([[1.0, 0.0]], [[1.0, 1.0]]), ())
    assert loss.item() == pytest.approx(-7 / 8)
    assert metrics["bc_loss"].item() == pytest.approx(5 / 8)
    assert metrics["q_policy"].item() == pytest.approx(1)
    (slope,) = torch.autograd.grad(loss.sum(), networks.actors[0].mlp.biases[0])
    assert slope.item() == pytest.approx(-4)


def small_config(dataset, **settings):
    return MATD3BCConfig().offline_data(input_=dataset).training(**toys.SMALL | settings)


@pytest.mark.parametrize("critic", ["own", "vdn"])
def test_it_finds_the_bandits_optimum(critic, tmp_path):
    dataset = toys.bandit_dataset(str(tmp_path / "bandit"))
    # The optimum of the loss is near the value's for a large alpha.
    learner = toys.train(small_config(dataset, alpha=20.0, critic=critic), 400)
    for agent, optimum in toys.BANDIT_OPTIMA.items():
        actions = toys.sample(learner, agent)
        assert abs(actions.mean() - optimum) < 0.15, (agent, actions.mean())
        assert actions.std() < 0.25  # random ones have 0.58


def test_one_action_cannot_be_two_modes_but_its_value_moves_it_off_the_worse(tmp_path):
    """Cloning lies between the modes; no data there tells the critic that it is bad."""
    dataset = toys.two_mode_dataset(str(tmp_path / "modes"))
    cloned = toys.train(small_config(dataset, alpha=1e-3), 200)
    valued = toys.train(small_config(dataset, alpha=20.0), 400)
    for agent, better in toys.BETTER_MODE.items():
        assert abs(toys.sample(cloned, agent).mean()) < 0.25
        actions = toys.sample(valued, agent)
        assert actions.mean() * better > 0.1 * toys.MODE, (agent, actions.mean())
        shares = toys.mode_shares(actions)
        assert shares[1 if better > 0 else 0] < 0.02, (agent, shares)


def test_actors_learn_on_every_second_update_and_critics_on_each(tmp_path):
    config = small_config(str(write_random(tmp_path / "set")))
    config.validate()
    learner = config.build_learner()

    def who_learnt():
        networks = learner._networks
        stacks = {"actors": networks.actors, "critics": networks.critics}
        before = {k: [p.clone() for p in s.parameters()] for k, s in stacks.items()}
        learner.update(num_updates=1)
        return {
            name
            for name, stack in stacks.items()
            if not all(map(torch.equal, before[name], stack.parameters()))
        }

    assert [who_learnt() for _ in range(4)] == [{"actors", "critics"}, {"critics"}] * 2


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"alpha": 0.0}, "alpha must be positive, got 0.0"),
        ({"target_noise": -0.1}, "target_noise must be at least 0, got -0.1"),
        ({"target_noise_clip": 0.0}, "target_noise_clip must be positive, got 0.0"),
        ({"policy_delay": 0}, "policy_delay must be positive, got 0"),
    ],
)
def test_settings_without_meaning_are_refused(setting, text, tmp_path):
    config = small_config(str(write_random(tmp_path / "set")), **setting)
    with pytest.raises(ValueError, match=text):
        config.validate()
