"""OMAR: its actor's loss agent by agent and by hand, a bandit, data with two modes."""

from __future__ import annotations

import math

import pytest
import torch

from rllib_om2p.algorithms.omar import OMARConfig
from rllib_om2p.algorithms.omar.losses import ActorLoss
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

COEFFICIENT, ROUNDS, CANDIDATES, STD = 0.7, 2, 3, 1.5


def best_of_search(ensemble, agent, obs, policy_action, noise):
    """Return one agent's best known actions (B, A) of noise (R, B, M, A), row by row."""
    rows = []
    for row in range(len(obs)):
        here = obs[[row]]
        known = [policy_action[row]]
        mean, std = torch.zeros(noise.shape[-1]), STD
        for draw in noise[:, row]:
            drawn = torch.clip(mean + std * draw, -1, 1)
            q = plain_critic(ensemble, agent, here.expand(len(drawn), -1), drawn)[0]
            weights = (q.exp() / q.exp().sum())[:, None]
            mean = (weights * drawn).sum(0)
            std = ((drawn - mean) ** 2).mean(0) ** 0.5
            known += list(drawn)
        known = torch.stack(known)
        q = plain_critic(ensemble, agent, here.expand(len(known), -1), known)[0]
        rows.append(known[q.argmax()])
    return torch.stack(rows)


@pytest.mark.parametrize("coefficient", [0.0, COEFFICIENT, 1.0])
def test_loss_and_gradient_equal_a_loop_over_agents(coefficient):
    config = OMARConfig().training(
        actor_hidden=(16, 16), critic_hidden=(16, 16), actor_layer_norm=True
    )
    networks = config.build_networks(make_groups(), torch.Generator().manual_seed(0))
    batch = make_batch()
    loss = ActorLoss(
        networks=networks,
        coefficient=coefficient,
        num_rounds=ROUNDS,
        num_candidates=CANDIDATES,
        std=STD,
        num_elites=None,
    )
    draws = loss.draw(batch, torch.Generator().manual_seed(4))
    losses, metrics = loss(batch, draws)
    expected, distances = [], []
    for g, (size, _, _) in enumerate(SHAPES):
        for i in range(size):
            obs = batch.groups[g].obs[i]
            action = torch.tanh(Plain(networks.actors[g].mlp, i)(obs))
            best = best_of_search(networks.critics[g], i, obs, action, draws[g][:, i]).detach()
            value = plain_critic(networks.critics[g], i, obs, action)[0].mean()
            distances.append(((action - best) ** 2).mean())
            expected.append(coefficient * distances[-1] - (1 - coefficient) * value)
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["mimic_loss"], torch.stack(distances).detach())
    parameters = list(networks.actors.parameters())
    gradients = torch.autograd.grad(losses.sum(), parameters)
    reference = torch.autograd.grad(torch.stack(expected).sum(), parameters)
    for gradient, other in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("num_elites", "distance"), [(None, 13 / 48), (1, 1 / 6)])
def test_linear_networks_give_the_hand_computed_loss_and_slope(num_elites, distance):
    """Hand numbers for pi(o) = tanh(o log(3) / 2), Q_1 = a log 7 + 3, Q_2 = 100, c = 1/2.

    Round 1 around 0 with deviation 1: draws 1/2, -1/2 are the candidates; their weights
    exp(Q_1) are as 7 : 1, so the mean is 7/16 - 1/16 = 3/8 and the variance
    ((1/8)^2 + (7/8)^2) / 2 = 25/64. Round 2: draws 3/5, -1 become 3/8 + 5/8 (3/5) = 3/4 and -1/4.
    Where pi(0) = 0 the best is 3/4, at the distance 9/16. pi(2) = 4/5 is the best itself. Had round
    2 the draws -1, -1, the best is 1/2 of round 1, at 1/4 from pi(0). So distance =
    (9/16 + 1/4) / 3; with one elite round 2 only repeats 1/2: distance = (1/4 + 1/4) / 3.
    Q_1 has the mean 3 + (4/5 log 7) / 3, loss = 1/2 distance - 3/2 - 2/15 log 7.
    In the actor's bias dpi = 1 - pi^2 is 1, 9/25 and 1. The distance has the slope
    (-2 (3/4) - 2 (1/2)) / 3 = -5/6 (elite: -2/3); Q_1 has 59/25 log 7 / 3.
    """
    layout = scalar_layout()
    config = OMARConfig().training(
        actor_hidden=(),
        critic_hidden=(),
        coefficient=0.5,
        num_rounds=2,
        num_candidates=2,
        initial_std=1.0,
        num_elites=num_elites,
    )
    networks = config.build_networks(layout.groups, torch.Generator())
    set_sums(networks.actors[0].mlp, (math.log(3) / 2, 0.0))
    set_sums(networks.critics[0].mlp, (0.0, math.log(7), 3.0), (0.0, 0.0, 100.0))
    draws = torch.tensor([[[0.5, -0.5]] * 3, [[0.6, -1.0], [0.6, -1.0], [-1.0, -1.0]]])
    _, actor_phase = config.build_phases(networks, layout)
    batch = scalar_batch([[0.0, 2.0, 0.0]], [[0.0, 0.0, 0.0]])
    loss, metrics = actor_phase.loss(batch, (draws[:, None, ..., None],))
    assert metrics["mimic_loss"].item() == pytest.approx(distance)
    assert loss.item() == pytest.approx(distance / 2 - 3 / 2 - 2 / 15 * math.log(7))
    (slope,) = torch.autograd.grad(loss.sum(), networks.actors[0].mlp.biases[0])
    mimicking = -2 / 3 if num_elites else -5 / 6
    assert slope.item() == pytest.approx(mimicking / 2 - 59 / 150 * math.log(7))


def small_config(dataset, **settings):
    small = toys.SMALL | {"train_batch_size": 64, "num_sampled_actions": 4}
    return OMARConfig().offline_data(input_=dataset).training(**small | settings)


def test_it_finds_the_bandits_optimum(tmp_path):
    dataset = toys.bandit_dataset(str(tmp_path / "bandit"))
    learner = toys.train(small_config(dataset, alpha=0.05), 400)
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


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"coefficient": 1.1}, r"coefficient must be in \[0, 1\], got 1.1"),
        ({"num_rounds": 0}, "num_rounds must be positive, got 0"),
        ({"num_candidates": 0}, "num_candidates must be positive, got 0"),
        ({"initial_std": 0.0}, "initial_std must be positive, got 0.0"),
        ({"num_elites": 11}, r"num_elites must be in \[1, num_candidates\] or None, got 11 of 10"),
    ],
)
def test_settings_without_meaning_are_refused(setting, text, tmp_path):
    config = small_config(str(write_random(tmp_path / "set")), **setting)
    with pytest.raises(ValueError, match=text):
        config.validate()
