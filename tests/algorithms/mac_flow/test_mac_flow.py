"""MAC-Flow: shared networks against one that is asked per agent, losses by hand, the toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rllib_om2p.algorithms.mac_flow import MACFlowConfig
from rllib_om2p.core.critic_loss import CriticLoss
from rllib_om2p.core.flow_q import FlowQDraws, FlowQLoss
from rllib_om2p.core.generative import FlowModel, PathDraws
from rllib_om2p.nets import mixers
from tests.algorithms import toys
from tests.algorithms.loops import (
    BATCH,
    SHAPES,
    Plain,
    make_batch,
    make_groups,
    scalar_batch,
    scalar_layout,
    scalars,
    set_sums,
)

ALPHA, STEPS, GAMMA = 2.5, 2, 0.9
NUM_AGENTS = sum(size for size, _, _ in SHAPES)


def make_networks():
    config = MACFlowConfig().training(
        actor_hidden=(16, 16), critic_hidden=(16, 16), actor_layer_norm=True
    )
    return config.build_networks(make_groups(), torch.Generator().manual_seed(0))


def agents(networks, batch):
    """Yield each agent's networks, part of the batch, indices and own inputs."""
    for g, group in enumerate(networks.groups):
        for i, position in enumerate(group.positions):
            identity = torch.eye(NUM_AGENTS)[position].expand(BATCH, -1)
            flow, student = (Plain(s[g].net.mlp, 0) for s in (networks.flows, networks.actors))
            yield g, i, flow, student, lambda obs, identity=identity: torch.cat([obs, identity], -1)


def value(critics, g, own, action):
    members = [Plain(critics[g].net.mlp, k)(torch.cat([own, action], -1))[:, 0] for k in range(2)]
    return torch.stack(members).mean(0)


def test_actor_loss_equals_a_loop_over_agents_with_one_network():
    networks, batch = make_networks(), make_batch()
    loss = FlowQLoss(
        networks=networks,
        flow=FlowModel(STEPS),
        alpha=ALPHA,
        normalize_q=True,
        critic="vdn",
        teams=[range(5)],
    )
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    losses, _ = loss(batch, draws)
    parts, values = [], []
    for g, i, flow, student, own in agents(networks, batch):
        part, drawn = batch.groups[g], draws[g]
        obs, x_0, r = own(part.obs[i]), drawn.path.noise[i], drawn.path.times[i]
        z = (1 - r) * x_0 + r * part.actions[i]
        matching = (flow(torch.cat([obs, z, r], -1)) - (part.actions[i] - x_0)).square().mean()
        wanted = drawn.noise[i]
        for step in range(STEPS):
            time = torch.full((BATCH, 1), step / STEPS)
            wanted = wanted + flow(torch.cat([obs, wanted, time], -1)) / STEPS
        action = student(torch.cat([obs, drawn.noise[i]], -1))
        parts.append(matching + ALPHA * (action - wanted.clamp(-1, 1)).square().mean())
        values.append(value(networks.critics, g, obs, action.clamp(-1, 1)))
    stacked = torch.stack(values)
    team = stacked.mean(0).abs().mean()
    torch.testing.assert_close(losses, torch.stack(parts) - stacked.mean(1) / team)


def test_mean_of_the_agents_values_is_learnt_from_the_teams_reward():
    networks, batch = make_networks(), make_batch()
    with torch.no_grad():
        for parameter in networks.target_critics.parameters():
            parameter.add_(0.05)
    loss = CriticLoss(
        networks=networks,
        gamma=GAMMA,
        aggregate="mean",
        critic="vdn",
        teams=[range(NUM_AGENTS)],
        mix=mixers.mean,
    )
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    got, _ = loss(batch, draws)
    now, after = [], []
    for g, i, _, student, own in agents(networks, batch):
        part = batch.groups[g]
        now.append(
            [
                Plain(networks.critics[g].net.mlp, k)(
                    torch.cat([own(part.obs[i]), part.actions[i]], -1)
                )[:, 0]
                for k in range(2)
            ]
        )
        next_obs = own(part.next_obs[i])
        action = student(torch.cat([next_obs, draws[g][i]], -1)).clamp(-1, 1)
        lives_on = 1 - part.terminateds[i]
        after.append(lives_on * value(networks.target_critics, g, next_obs, action))
    target = batch.team_rewards[0] + GAMMA * sum(after).detach() / NUM_AGENTS
    members = [sum(q[k] for q in now) / NUM_AGENTS for k in range(2)]
    expected = torch.stack([(member - target).square().mean() for member in members]).mean()
    torch.testing.assert_close(got, expected)


def make_two_agents(**settings):
    """Return config, networks and layout of two agents, with weighted sums for networks.

    Their inputs are o, the identity (two features), then z and r, the noise, or the action.
    """
    layout = scalar_layout(num_agents=2)
    config = MACFlowConfig().training(actor_hidden=(), critic_hidden=(), **settings)
    return config, config.build_networks(layout.groups, torch.Generator()), layout


def test_linear_networks_give_the_hand_computed_actor_losses_and_slopes():
    """Hand numbers with e = 0 for the first agent and 1 for the second; alpha = 4, o = 1 for both.

    Flow v = o + e + z - 2 r: x_0 = 0, x_1 = 1, r = 1/4 has z = 1/4, v = 3/4 for 1: 1/16; x_0 = -1,
    x_1 = 1, r = 1/2 has z = 0, v = 1 for 2: 1.
    Teacher in two Euler steps: from -1/2 with v = 1/2 to -1/4 and with v = -1/4 to -3/8; from -1
    with v = 1 to -1/2 and with v = 1/2 to -1/4.
    Student mu = 3/8 o + 1/8 e + 1/2 x_0 is 1/8 and 0: distances 1/4 and 1/16.
    Value: Q_1 = o - e + 8 a, Q_2 = 3 o - e + 8 a, of mean (2 + 4) / 2 = 3 and (0 + 2) / 2 = 1. The
    team's magnitude is 4, each agent's share of it 2.
    Losses: 1/16 + 4 (1/4) - 3/2 = -7/16 and 1 + 4 (1/16) - 1/2 = 3/4.
    Slopes of their sum in the biases: the flow's 2 (-1/4) + 2 (-1) = -5/2; the student's
    4 (2 (1/2) + 2 (1/4)) = 6, less 8/2 for each value.
    """
    config, networks, layout = make_two_agents(alpha=4.0, flow_steps=2)
    set_sums(networks.flows[0].net.mlp, (1.0, 0.0, 1.0, 1.0, -2.0, 0.0))
    set_sums(networks.actors[0].net.mlp, (3 / 8, 0.0, 1 / 8, 1 / 2, 0.0))
    critics = networks.critics[0].net.mlp
    set_sums(critics, (1.0, 0.0, -1.0, 8.0, 0.0), (3.0, 0.0, -1.0, 8.0, 0.0))
    draws = FlowQDraws(
        path=PathDraws(noise=scalars([[0.0], [-1.0]]), times=scalars([[1 / 4], [1 / 2]])),
        noise=scalars([[-1 / 2], [-1.0]]),
    )
    _, actor_phase = config.build_phases(networks, layout)
    losses, metrics = actor_phase.loss(scalar_batch([[1.0], [1.0]], [[1.0], [1.0]]), (draws,))
    assert metrics["flow_loss"].tolist() == pytest.approx([1 / 16, 1])
    assert metrics["distill_loss"].tolist() == pytest.approx([1 / 4, 1 / 16])
    assert metrics["q_policy"].tolist() == pytest.approx([3, 1])
    assert losses.tolist() == pytest.approx([-7 / 16, 3 / 4])
    biases = [networks.flows[0].net.mlp.biases[0], networks.actors[0].net.mlp.biases[0]]
    slopes = [slope.item() for slope in torch.autograd.grad(losses.sum(), biases)]
    assert slopes == pytest.approx([-5 / 2, -2])


@pytest.mark.parametrize(("mixer", "expected"), [("mean", 7 / 8), ("sum", 3 / 2)])
def test_linear_networks_give_the_hand_computed_critic_loss(mixer, expected):
    """Hand numbers with e = 0 for the first agent and 1 for the second, o = 1, a = 1 and 0.

    Q_1 = o - e + 2 a is 3 and 0, Q_2 = o is 1 and 1: means 3/2 and 1, sums 3 and 2.
    Next actions mu = 1/2 x_0 of noise 1 and 3 are 1/2 and, clipped, 1. Qbar_1 = 4 a' + 2 e is 2 and
    6, Qbar_2 = 2; where all go on the teams' are 4 and 2 (sums 8 and 4), of mean 3 (6), so with
    r = 1 and gamma = 1/2 y = 5/2 (4). Where the second agent ends they are 1 and 1 (2 and 2), and
    y = 3/2 (2).
    Means: (1 + 9/4) / 2 = 13/8, and (0 + 1/4) / 2 = 1/8. Sums: (1 + 4) / 2, and (1 + 0) / 2.
    """
    config, networks, layout = make_two_agents(gamma=0.5, mixer=mixer)
    set_sums(networks.actors[0].net.mlp, (0.0, 0.0, 0.0, 1 / 2, 0.0))
    critics, targets = networks.critics[0].net.mlp, networks.target_critics[0].net.mlp
    set_sums(critics, (1.0, 0.0, -1.0, 2.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0))
    set_sums(targets, (0.0, 0.0, 2.0, 4.0, 0.0), (0.0, 0.0, 0.0, 0.0, 2.0))
    batch = scalar_batch(
        [[1.0, 1.0], [1.0, 1.0]],
        [[1.0, 1.0], [0.0, 0.0]],
        rewards=[[2.0, 2.0], [0.0, 0.0]],
        terminateds=[[0.0, 0.0], [0.0, 1.0]],
    )
    critic_phase, _ = config.build_phases(networks, layout)
    loss, _ = critic_phase.loss(batch, (scalars([[1.0, 1.0], [3.0, 3.0]]),))
    assert loss.item() == pytest.approx(expected)


def train(dataset: str, num_updates: int, **settings: object):
    config = MACFlowConfig().offline_data(input_=dataset).training(**toys.SMALL | settings)
    return toys.train(config, num_updates)


@pytest.mark.parametrize("mixer", ["mean", "sum"])
def test_bandit_with_an_optimum_per_agent_is_solved_by_one_network(tmp_path, mixer):
    dataset = toys.bandit_dataset(tmp_path / "bandit")
    learner = train(dataset, 400, alpha=0.1, mixer=mixer)
    stack = learner._networks.actors[0].net.mlp.weights[0]
    assert len(stack) == 1
    for agent, optimum in toys.BANDIT_OPTIMA.items():
        assert learner.module[agent].actor.mlp.weights[0].data_ptr() == stack.data_ptr()
        assert abs(toys.sample(learner, agent) - optimum).mean() < 0.15


def test_better_mode_of_each_agent_is_taken(tmp_path):
    learner = train(toys.two_mode_dataset(tmp_path / "modes"), 400, alpha=0.05)
    for agent, better in toys.BETTER_MODE.items():
        assert np.mean(abs(toys.sample(learner, agent) - better) < 0.25) > 0.75


def test_worse_discrete_action_of_the_data_is_given_up(tmp_path):
    """For the better one or for one that the data lack, of which a critic can only imagine."""
    learner = train(toys.discrete_dataset(tmp_path / "discrete"), 250, alpha=0.3)
    for agent, best in toys.BEST_CHOICE.items():
        (worse,) = set(toys.CHOSEN[agent]) - {best}
        actions = toys.sample(learner, agent)
        assert np.mean(actions == worse) < 0.05
        assert np.mean(actions == best) > 0.6


def test_best_discrete_action_of_the_data_is_chosen_by_a_conservative_critic(tmp_path):
    dataset = toys.discrete_dataset(tmp_path / "discrete")
    learner = train(dataset, 250, alpha=0.3, mixer="sum", conservative_weight=0.5)
    for agent, best in toys.BEST_CHOICE.items():
        assert np.mean(toys.sample(learner, agent) == best) > 0.95


def test_unknown_mixer_is_refused(tmp_path):
    dataset = toys.bandit_dataset(tmp_path / "bandit", num_episodes=200)
    with pytest.raises(ValueError, match="mixer must be one of"):
        train(dataset, 1, mixer="max")


def test_a_penalty_on_values_that_are_averaged_is_refused(tmp_path):
    config = MACFlowConfig().offline_data(input_=toys.bandit_dataset(tmp_path / "bandit"))
    config.training(conservative_weight=1.0)
    with pytest.raises(ValueError, match='set mixer="sum"'):
        config.validate()
    config.training(mixer="sum").validate()
