"""MA-FQL: its loss agent by agent and by hand, a bandit's known optimum, data with two modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rllib_om2p.algorithms.ma_fql import MAFQLConfig
from rllib_om2p.core.flow_q import FlowQDraws, FlowQLoss, FlowQNetworks
from rllib_om2p.core.generative import FlowModel, PathDraws
from tests.algorithms import toys
from tests.algorithms.loops import (
    BATCH,
    SHAPES,
    Plain,
    make_batch,
    make_groups,
    plain_critic,
    scalar_batch,
    scalar_layout,
    scalars,
    set_sums,
)

ALPHA, STEPS = 2.5, 3


def make_networks() -> FlowQNetworks:
    config = MAFQLConfig().training(
        actor_hidden=(16, 16), critic_hidden=(16, 16), actor_layer_norm=True
    )
    return config.build_networks(make_groups(), torch.Generator().manual_seed(0))


def make_loss(networks: FlowQNetworks, *, normalize_q: bool = False) -> FlowQLoss:
    return FlowQLoss(
        networks=networks,
        flow=FlowModel(STEPS),
        alpha=ALPHA,
        normalize_q=normalize_q,
        critic="own",
        teams=[range(5)],
    )


def loop(networks, batch, draws, *, normalize_q):
    """Return every agent's loss by its own three networks."""
    losses = []
    for g, (size, _, _) in enumerate(SHAPES):
        part, drawn = batch.groups[g], draws[g]
        for i in range(size):
            obs, x_1, x_0 = part.obs[i], part.actions[i], drawn.path.noise[i]
            flow, student = Plain(networks.flows[g].mlp, i), Plain(networks.actors[g].mlp, i)
            r = drawn.path.times[i]
            z = (1 - r) * x_0 + r * x_1
            matching = ((flow(torch.cat([obs, z, r], -1)) - (x_1 - x_0)) ** 2).mean()
            noise = wanted = drawn.noise[i]
            for step in range(STEPS):
                time = torch.full((BATCH, 1), step / STEPS)
                wanted = wanted + flow(torch.cat([obs, wanted, time], -1)) / STEPS
            action = student(torch.cat([obs, noise], -1))
            distance = ((action - wanted.clamp(-1, 1).detach()) ** 2).mean()
            q = plain_critic(networks.critics[g], i, obs, action.clamp(-1, 1)).mean(0)
            scale = 1 / q.detach().abs().mean() if normalize_q else 1.0
            losses.append(matching + ALPHA * distance - scale * q.mean())
    return torch.stack(losses)


@pytest.mark.parametrize("normalize_q", [False, True])
def test_loss_and_gradient_equal_a_loop_over_agents(normalize_q):
    networks, batch = make_networks(), make_batch()
    loss = make_loss(networks, normalize_q=normalize_q)
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    losses, metrics = loss(batch, draws)
    expected = loop(networks, batch, draws, normalize_q=normalize_q)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    assert all(metric.shape == (5,) for metric in metrics.values())
    # The flows' gradient is that of matching alone: the student is drawn to them, not they to it.
    parameters = [*networks.flows.parameters(), *networks.actors.parameters()]
    gradients = torch.autograd.grad(losses.sum(), parameters)
    reference = torch.autograd.grad(expected.sum(), parameters)
    for gradient, other in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


def test_what_an_absent_agent_did_does_not_count():
    networks, batch = make_networks(), make_batch()
    alive = torch.ones(SHAPES[0][0], BATCH)
    alive[1, BATCH // 2 :] = 0
    first, second = batch.groups
    second = second._replace(alive=torch.ones(SHAPES[1][0], BATCH))
    noise = torch.randn_like(first.actions).clamp(-1, 1)
    other = first._replace(actions=torch.where(alive[..., None] > 0, first.actions, noise))
    one = batch._replace(groups=(first._replace(alive=alive), second))
    two = batch._replace(groups=(other._replace(alive=alive), second))
    loss = make_loss(networks)
    draws = loss.draw(one, torch.Generator().manual_seed(3))
    assert not torch.equal(first.actions, other.actions)
    torch.testing.assert_close(loss(one, draws)[0], loss(two, draws)[0])


def test_linear_networks_give_the_hand_computed_loss_and_slopes():
    """Hand numbers for v = o + z - 2 r in two Euler steps, mu = 3/8 o + 1/2 x_0, alpha = 4.

    Flow: o = 1, x_0 = 0, x_1 = 1, r = 1/4 has z = 1/4, v = 3/4 for 1; o = 2, x_0 = -1, x_1 = 1,
    r = 1/2 has z = 0, v = 1 for 2. Flow loss = (1/16 + 1) / 2 = 17/32.
    Teacher: o = 1 goes from -1/2 with v = 1/2 to -1/4 and with v = 1 - 1/4 - 1 to -3/8; o = 2 goes
    from 1 with v = 3 to 5/2 and on, clipped to 1.
    Student: mu = 3/8 - 1/4 = 1/8 and 3/4 + 1/2 = 5/4. Distance = (1/4 + 1/16) / 2 = 5/32.
    Value: Q_1 = 4 a + 1, Q_2 = o / 4 + 2 a at 1/8 and, clipped, 1: (3/2 + 1/2) / 2 = 1 and
    (5 + 5/2) / 2 = 15/4, of mean 19/8. Loss = 17/32 + 4 (5/32) - 19/8 = -39/32.
    Slopes in the biases: the flow's (2 (-1/4) + 2 (-1)) / 2 = -5/4; the student's
    4 (2 (1/2) + 2 (1/4)) / 2 = 3, less (3 + 0) / 2 of the value, that is flat outside the box.
    """
    layout = scalar_layout()
    config = MAFQLConfig().training(actor_hidden=(), critic_hidden=(), alpha=4.0, flow_steps=2)
    networks = config.build_networks(layout.groups, torch.Generator())
    set_sums(networks.flows[0].mlp, (1.0, 1.0, -2.0, 0.0))
    set_sums(networks.actors[0].mlp, (3 / 8, 1 / 2, 0.0))
    set_sums(networks.critics[0].mlp, (0.0, 4.0, 1.0), (1 / 4, 2.0, 0.0))
    draws = FlowQDraws(
        path=PathDraws(noise=scalars([[0.0, -1.0]]), times=scalars([[1 / 4, 1 / 2]])),
        noise=scalars([[-1 / 2, 1.0]]),
    )
    _, actor_phase = config.build_phases(networks, layout)
    loss, metrics = actor_phase.loss(scalar_batch([[1.0, 2.0]], [[1.0, 1.0]]), (draws,))
    assert metrics["flow_loss"].item() == pytest.approx(17 / 32)
    assert metrics["distill_loss"].item() == pytest.approx(5 / 32)
    assert metrics["q_policy"].item() == pytest.approx(19 / 8)
    assert loss.item() == pytest.approx(-39 / 32)
    biases = [networks.flows[0].mlp.biases[0], networks.actors[0].mlp.biases[0]]
    slopes = [slope.item() for slope in torch.autograd.grad(loss.sum(), biases)]
    assert slopes == pytest.approx([-5 / 4, 3 / 2])


def train(dataset: str, num_updates: int, **settings: object):
    config = MAFQLConfig().offline_data(input_=dataset).training(**toys.SMALL | settings)
    return toys.train(config, num_updates)


def test_bandit_is_solved_where_the_value_outweighs_the_data(tmp_path):
    learner = train(toys.bandit_dataset(tmp_path / "bandit"), 400, alpha=0.1)
    for agent, optimum in toys.BANDIT_OPTIMA.items():
        assert abs(toys.sample(learner, agent) - optimum).mean() < 0.15


def test_student_keeps_both_modes_of_the_flow(tmp_path):
    learner = train(toys.two_mode_dataset(tmp_path / "modes"), 500, alpha=100.0)
    for agent in toys.AGENTS:
        shares = toys.mode_shares(toys.sample(learner, agent))
        assert sum(shares) > 0.6
        assert min(shares) > 0.2


def test_value_draws_the_student_from_the_worse_mode_to_the_better(tmp_path):
    # Between the modes the critic has no data: it may be flat there, or highest.
    learner = train(toys.two_mode_dataset(tmp_path / "modes"), 300, alpha=0.1)
    for agent, better in toys.BETTER_MODE.items():
        actions = toys.sample(learner, agent)
        assert np.mean(abs(actions + better) < 0.25) < 0.1
        assert actions.mean() / better > 0.3


def test_best_discrete_action_of_the_data_is_chosen(tmp_path):
    learner = train(toys.discrete_dataset(tmp_path / "discrete"), 400, alpha=0.3)
    for agent, best in toys.BEST_CHOICE.items():
        assert np.mean(toys.sample(learner, agent) == best) > 0.8


def test_no_flow_steps_and_negative_weights_are_refused(tmp_path):
    dataset = toys.bandit_dataset(tmp_path / "bandit", num_episodes=200)
    with pytest.raises(ValueError, match="flow_steps must be positive, got 0"):
        train(dataset, 1, flow_steps=0)
    with pytest.raises(ValueError, match="alpha must be at least 0, got -1"):
        train(dataset, 1, alpha=-1)
