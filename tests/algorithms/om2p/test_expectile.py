"""State values as expectiles of the data's actions: loops, closed forms, and what is learnt."""

from __future__ import annotations

import pytest
import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.algorithms.om2p.expectile import ExpectileCriticLoss, ValueLoss
from rllib_om2p.core.critic_loss import CriticLoss
from tests.algorithms import toys
from tests.algorithms.om2p.test_losses import (
    BATCH,
    GAMMA,
    SHAPES,
    Plain,
    make_batch,
    make_networks,
    plain_critic,
)

EXPECTILE = 0.8
TEAMS = ((0, 3), (4, 1, 2))


def make_losses(networks, critic="own", teams=(tuple(range(5)),)):
    common = {"networks": networks, "aggregate": "min", "critic": critic, "teams": teams}
    return ValueLoss(expectile=EXPECTILE, **common), ExpectileCriticLoss(gamma=GAMMA, **common)


def expectile_error(difference: torch.Tensor) -> torch.Tensor:
    weight = torch.where(difference < 0, 1 - EXPECTILE, EXPECTILE)
    return weight * difference**2


def agents():
    """Yield (group, index in it) in the order of the groups."""
    for group, (size, _, _) in enumerate(SHAPES):
        for index in range(size):
            yield group, index


def value_of(networks, group: int, index: int, obs: torch.Tensor) -> torch.Tensor:
    return Plain(networks.values[group], index)(obs[index])[:, 0]


def test_own_values_and_critics_equal_a_per_agent_loop():
    networks, batch = make_networks(critic_loss="expectile"), make_batch()
    value_loss, critic_loss = make_losses(networks)
    values, critics = [], []
    for g, i in agents():
        part = batch.groups[g]
        with torch.no_grad():
            target_q = plain_critic(networks.target_critics[g], i, part.obs[i], part.actions[i])
            next_value = value_of(networks, g, i, part.next_obs)
        value = value_of(networks, g, i, part.obs)
        values.append(expectile_error(target_q.min(0).values - value).mean())
        target = part.rewards[i] + GAMMA * (1 - part.terminateds[i]) * next_value
        q = plain_critic(networks.critics[g], i, part.obs[i], part.actions[i])
        critics.append(((q - target) ** 2).mean())
    for loss, expected in ((value_loss, values), (critic_loss, critics)):
        got, metrics = loss(batch, ())
        torch.testing.assert_close(got, torch.stack(expected), rtol=1e-5, atol=1e-5)
        assert all(metric.shape == (5,) for metric in metrics.values())


def test_team_values_and_critics_equal_sums_over_each_team():
    networks, batch = make_networks(critic_loss="expectile"), make_batch()
    batch = batch._replace(team_rewards=torch.randn(2, BATCH))
    value_loss, critic_loss = make_losses(networks, "vdn", TEAMS)
    order = list(agents())
    expected_value, expected_q = 0.0, 0.0
    for m, team in enumerate(TEAMS):
        q, target_q, value, after = 0.0, 0.0, 0.0, 0.0
        for g, i in (order[agent] for agent in team):
            part = batch.groups[g]
            obs, actions = part.obs[i], part.actions[i]
            target_q = target_q + plain_critic(networks.target_critics[g], i, obs, actions)
            q = q + plain_critic(networks.critics[g], i, obs, actions)
            value = value + value_of(networks, g, i, part.obs)
            after = after + (1 - part.terminateds[i]) * value_of(networks, g, i, part.next_obs)
        error = expectile_error(target_q.min(0).values.detach() - value)
        expected_value = expected_value + error.mean()
        target = batch.team_rewards[m] + GAMMA * after.detach()
        expected_q = expected_q + ((q - target) ** 2).mean()
    torch.testing.assert_close(value_loss(batch, ())[0], expected_value)
    torch.testing.assert_close(critic_loss(batch, ())[0], expected_q)


@pytest.mark.parametrize("critic", ["own", "vdn"])
def test_what_an_absent_agent_did_does_not_count(critic):
    networks, batch = make_networks(critic_loss="expectile"), make_batch()
    alive = [torch.ones(size, BATCH) for size, _, _ in SHAPES]
    alive[0][1, BATCH // 2 :] = 0
    present = [g._replace(alive=a, next_alive=a) for g, a in zip(batch.groups, alive, strict=True)]
    noise = torch.randn_like(present[0].obs)
    other = present[0]._replace(obs=torch.where(alive[0][..., None] > 0, present[0].obs, noise))
    for loss in make_losses(networks, critic):
        one, _ = loss(batch._replace(groups=tuple(present)), ())
        two, _ = loss(batch._replace(groups=(other, present[1])), ())
        torch.testing.assert_close(one, two)


def test_critics_and_values_do_not_know_the_policies():
    networks, batch = make_networks(critic_loss="expectile"), make_batch()
    own = CriticLoss(
        networks=networks, gamma=GAMMA, aggregate="min", critic="own", teams=[range(5)]
    )
    noise = own.draw(batch, torch.Generator().manual_seed(0))
    losses = make_losses(networks)
    before, td = [loss(batch, ())[0] for loss in losses], own(batch, noise)[0]
    with torch.no_grad():
        for parameter in networks.actors.parameters():
            parameter.add_(0.3)
    after = [loss(batch, ())[0] for loss in losses]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not torch.equal(td, own(batch, noise)[0])


def test_values_of_a_bandit_are_the_expectile_of_its_rewards(tmp_path):
    """Rewards are 0 near the better mode and -(2 mode)^2 near the other, each half of the time.

    v with tau (0 - v) = (1 - tau) (v + 4 mode^2) is -(1 - tau) 4 mode^2, up to the modes' noise.
    """
    config = OM2PConfig().offline_data(input_=toys.two_mode_dataset(tmp_path / "set"))
    config.offline_data(standardize_rewards=False)
    config.training(**toys.SMALL, critic_loss="expectile", expectile=EXPECTILE)
    learner = toys.train(config, 300)
    obs = torch.randn(2, 200, toys.OBS_DIM, generator=torch.Generator().manual_seed(0))
    values = learner._networks.value(0, obs)[0].detach()
    expected = torch.full((2,), -(1 - EXPECTILE) * 4 * toys.MODE**2)
    torch.testing.assert_close(values.mean(1), expected, atol=0.1, rtol=0)
