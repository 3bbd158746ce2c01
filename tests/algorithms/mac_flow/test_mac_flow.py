"""MAC-Flow: shared networks against the one network asked per agent, mixed values, the toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rllib_om2p.algorithms.mac_flow import MACFlowConfig
from rllib_om2p.core.critic_loss import CriticLoss
from rllib_om2p.core.flow_q import FlowQLoss
from rllib_om2p.core.generative import FlowModel
from rllib_om2p.nets import mixers
from tests.algorithms import toys
from tests.algorithms.loops import BATCH, SHAPES, Plain, make_batch, make_groups

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
