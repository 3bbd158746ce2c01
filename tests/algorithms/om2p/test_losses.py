"""OM2P's losses against a per-agent loop written independently, and against hand numbers."""

from __future__ import annotations

import pytest
import torch

from rllib_om2p.algorithms.om2p import OM2PConfig
from rllib_om2p.algorithms.om2p.losses import ActorDraws, ActorLoss
from rllib_om2p.algorithms.om2p.networks import OM2PNetworks
from rllib_om2p.core.critic_loss import CriticLoss
from rllib_om2p.core.matching import Derivative, MatchingDraws, MeanFlowMatching
from rllib_om2p.ops.times import time_table
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

GAMMA, ETA = 0.9, 0.7


def make_networks(seed: int = 0, **settings: object) -> OM2PNetworks:
    config = OM2PConfig().training(
        actor_hidden=(16, 16), critic_hidden=(16, 16), actor_layer_norm=True, **settings
    )
    networks = config.build_networks(make_groups(), torch.Generator().manual_seed(seed))
    # Targets that differ from the critics, so that a mix-up shows.
    with torch.no_grad():
        for parameter in networks.target_critics.parameters():
            parameter.add_(0.05)
    return networks


def make_critic_loss(networks: OM2PNetworks, **settings: object) -> CriticLoss:
    defaults = {"gamma": GAMMA, "aggregate": "mean", "critic": "own", "teams": [range(5)]}
    return CriticLoss(networks=networks, **defaults | settings)


def make_actor_loss(
    networks: OM2PNetworks, *, derivative: Derivative = "tangent", **kwargs: object
) -> ActorLoss:
    settings = {
        "eta": ETA,
        "bc_weight": 1.0,
        "normalize_q": False,
        "critic": "own",
        "teams": [range(5)],
    }
    matching = MeanFlowMatching(
        derivative=derivative, step=3e-3, time_table=time_table((0.0, 0.0, 0.0, 0.0))
    )
    return ActorLoss(networks=networks, matching=matching, **settings | kwargs)


def action_of(actor: Plain, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    zero, one = torch.zeros(len(obs), 1), torch.ones(len(obs), 1)
    return (noise + actor(torch.cat([obs, noise, zero, one], -1))).clamp(-1, 1)


def test_critic_loss_equals_a_per_agent_loop():
    networks, batch = make_networks(), make_batch()
    loss = make_critic_loss(networks, aggregate="min")
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    losses, metrics = loss(batch, draws)
    expected = []
    for g, (size, _, _) in enumerate(SHAPES):
        part = batch.groups[g]
        for i in range(size):
            actor = Plain(networks.actors[g].mlp, i)
            next_action = action_of(actor, part.next_obs[i], draws[g][i])
            next_q = plain_critic(networks.target_critics[g], i, part.next_obs[i], next_action)
            alive = 1 - part.terminateds[i]
            target = (part.rewards[i] + GAMMA * alive * next_q.min(0).values).detach()
            q = plain_critic(networks.critics[g], i, part.obs[i], part.actions[i])
            expected.append(((q - target) ** 2).mean())
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert metrics["q"].shape == (5,)


@pytest.mark.parametrize("aggregate", ["mean", "min"])
def test_vdn_critic_loss_sums_agents_of_all_groups_and_uses_the_team_reward(aggregate):
    """The smaller is that of the members' sums over the team, not a sum of each agent's smaller."""
    networks, batch = make_networks(), make_batch()
    loss = make_critic_loss(networks, critic="vdn", aggregate=aggregate)
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    value, _ = loss(batch, draws)
    team_q, team_next = 0.0, 0.0
    for g, (size, _, _) in enumerate(SHAPES):
        part = batch.groups[g]
        for i in range(size):
            actor = Plain(networks.actors[g].mlp, i)
            next_action = action_of(actor, part.next_obs[i], draws[g][i])
            next_q = plain_critic(networks.target_critics[g], i, part.next_obs[i], next_action)
            team_next = team_next + (1 - part.terminateds[i]) * next_q
            team_q = team_q + plain_critic(networks.critics[g], i, part.obs[i], part.actions[i])
    after = torch.minimum(*team_next) if aggregate == "min" else team_next.mean(0)
    target = batch.team_rewards[0] + GAMMA * after
    torch.testing.assert_close(value, ((team_q - target.detach()) ** 2).mean())


def test_each_team_has_a_joint_critic_of_its_own():
    networks, batch = make_networks(), make_batch()
    rewards = torch.randn(2, BATCH)
    teams = make_critic_loss(networks, critic="vdn", teams=[(0, 3), (4, 1, 2)])
    draws = teams.draw(batch, torch.Generator().manual_seed(3))
    batch = batch._replace(team_rewards=rewards)
    value, _ = teams(batch, draws)
    alone = []
    for index, members in enumerate(((0, 3), (4, 1, 2))):
        one = make_critic_loss(networks, critic="vdn", teams=[members])
        part = batch._replace(team_rewards=rewards[[index]])
        alone.append(one(part, draws)[0])
    torch.testing.assert_close(value, sum(alone))


@pytest.mark.parametrize("critic", ["own", "vdn"])
def test_an_agent_that_was_cut_off_keeps_the_value_of_what_it_saw_last(critic):
    networks, batch = make_networks(), make_batch()
    loss = make_critic_loss(networks, critic=critic)
    draws = loss.draw(batch, torch.Generator().manual_seed(3))

    def value(now: float, later: float) -> torch.Tensor:
        first, second = (
            g._replace(alive=torch.ones_like(g.rewards), next_alive=torch.ones_like(g.rewards))
            for g in batch.groups
        )
        first.alive[1], first.next_alive[1] = now, later
        return loss(batch._replace(groups=(first, second)), draws)[0]

    torch.testing.assert_close(value(1.0, 0.0), value(1.0, 1.0))
    assert not torch.allclose(value(0.0, 0.0), value(0.0, 1.0)) or critic == "own"


@pytest.mark.parametrize("critic", ["own", "vdn"])
def test_what_an_absent_agent_did_does_not_count(critic):
    networks, batch = make_networks(), make_batch()
    alive = [torch.ones(size, BATCH) for size, _, _ in SHAPES]
    alive[0][1, BATCH // 2 :] = 0
    present = [g._replace(alive=a, next_alive=a) for g, a in zip(batch.groups, alive, strict=True)]
    noise = torch.randn_like(present[0].obs)
    other = present[0]._replace(obs=torch.where(alive[0][..., None] > 0, present[0].obs, noise))
    one = batch._replace(groups=tuple(present))
    two = batch._replace(groups=(other, present[1]))
    assert not torch.equal(one.groups[0].obs, two.groups[0].obs)
    for loss in (make_critic_loss(networks, critic=critic), make_actor_loss(networks)):
        draws = loss.draw(one, torch.Generator().manual_seed(3))
        torch.testing.assert_close(loss(one, draws)[0], loss(two, draws)[0])


@pytest.mark.parametrize("some_are_absent", [False, True])
@pytest.mark.parametrize(
    ("normalize_q", "temperature", "power"),
    [
        (False, None, 0.0),
        (True, None, 0.0),
        (False, 0.5, 0.0),
        (False, None, 1.0),
        (True, 0.5, 0.7),
    ],
)
def test_actor_loss_and_gradient_equal_a_per_agent_loop(
    normalize_q, temperature, power, some_are_absent
):
    networks, batch = make_networks(), make_batch()
    alive = [torch.ones(size, BATCH) for size, _, _ in SHAPES]
    if some_are_absent:
        alive[0][1, BATCH // 2 :], alive[1][0, ::3] = 0, 0
        groups = (g._replace(alive=a) for g, a in zip(batch.groups, alive, strict=True))
        batch = batch._replace(groups=tuple(groups))
    loss = make_actor_loss(
        networks,
        normalize_q=normalize_q,
        advantage_temperature=temperature,
        adaptive_power=power,
        adaptive_constant=0.2,
    )
    draws = loss.draw(batch, torch.Generator().manual_seed(4))
    losses, _ = loss(batch, draws)
    parameters = [p for actor in networks.actors for p in actor.parameters()]
    gradients = torch.autograd.grad(losses.sum(), parameters)
    expected = []
    for g, (size, _, _) in enumerate(SHAPES):
        part, drawn = batch.groups[g], draws[g]
        for i in range(size):
            actor, there = Plain(networks.actors[g].mlp, i), alive[g][i] > 0
            obs, x_1 = part.obs[i, there], part.actions[i, there]
            x_0 = drawn.matching.noise[i, there]
            # Uniform times: the inverse CDF is the identity.
            s1, s2 = drawn.matching.uniforms[:, i, there]
            r, t = torch.minimum(s1, 1 - s2), torch.maximum(s1, 1 - s2)
            z, v = (1 - r) * x_0 + r * x_1, x_1 - x_0

            def velocity(z, r, actor=actor, obs=obs, t=t):
                return actor(torch.cat([obs, z, r, t], -1))

            u, du = torch.func.jvp(velocity, (z, r), (v, torch.ones_like(r)))
            errors = ((u - (v + (t - r) * du).detach()) ** 2).mean(-1)
            errors = errors / (errors.detach() + 0.2) ** power
            weights = torch.ones(len(obs))
            if temperature is not None:
                taken = plain_critic(networks.critics[g], i, obs, x_1).mean(0)
                other = action_of(actor, obs, drawn.baseline_noise[i, there])
                gain = (taken - plain_critic(networks.critics[g], i, obs, other).mean(0)).detach()
                weights = (gain / (temperature * gain.std(correction=0))).softmax(0) * len(obs)
                assert weights.min() < 0.2
            bc = (weights * errors).mean()
            action = action_of(actor, obs, drawn.action_noise[i, there])
            q = plain_critic(networks.critics[g], i, obs, action).mean(0)
            scale = 1 / q.detach().abs().mean() if normalize_q else 1.0
            expected.append(bc - ETA * scale * q.mean())
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-4, atol=1e-5)
    reference = torch.autograd.grad(torch.stack(expected).sum(), parameters)
    for gradient, other in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)


def test_weights_have_no_gradient_and_absent_agents_none():
    networks, batch = make_networks(), make_batch()
    alive = [torch.ones(size, BATCH) for size, _, _ in SHAPES]
    alive[0][1, BATCH // 2 :] = 0
    present = [g._replace(alive=a) for g, a in zip(batch.groups, alive, strict=True)]
    other = present[0]._replace(obs=torch.where(alive[0][..., None] > 0, present[0].obs, 7.0))
    loss = make_actor_loss(networks, eta=0.0, advantage_temperature=0.5)
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    losses, metrics = loss(batch._replace(groups=tuple(present)), draws)
    changed, others = loss(batch._replace(groups=(other, present[1])), draws)
    torch.testing.assert_close(losses, changed)
    torch.testing.assert_close(metrics, others)
    assert ((metrics["effective_fraction"] > 0) & (metrics["effective_fraction"] < 1)).all()
    critics = [p for critic in networks.critics for p in critic.parameters()]
    gradients = torch.autograd.grad(losses.sum(), critics, allow_unused=True)
    assert all(gradient is None for gradient in gradients)


def test_value_from_the_path_judges_where_its_points_jump_to():
    networks, batch = make_networks(), make_batch()
    loss = make_actor_loss(networks, bc_weight=0.0, value_from="path")
    draws = loss.draw(batch, torch.Generator().manual_seed(4))
    losses, metrics = loss(batch, draws)
    parameters = [p for actor in networks.actors for p in actor.parameters()]
    gradients = torch.autograd.grad(losses.sum(), parameters)
    expected = []
    for g, (size, _, _) in enumerate(SHAPES):
        part, drawn = batch.groups[g], draws[g]
        assert drawn.action_noise is None
        for i in range(size):
            actor, obs = Plain(networks.actors[g].mlp, i), part.obs[i]
            s1, s2 = drawn.matching.uniforms[:, i]
            r = torch.minimum(s1, 1 - s2)
            z = (1 - r) * drawn.matching.noise[i] + r * part.actions[i]
            u = actor(torch.cat([obs, z, r, torch.ones_like(r)], -1))
            action = (z + (1 - r) * u).clamp(-1, 1)
            expected.append(plain_critic(networks.critics[g], i, obs, action).mean())
    torch.testing.assert_close(losses, -ETA * torch.stack(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metrics["q_policy"], torch.stack(expected), rtol=1e-5, atol=1e-6)
    reference = torch.autograd.grad(-ETA * torch.stack(expected).sum(), parameters)
    for gradient, other in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_actor_loss_with_finite_difference_is_close_to_the_tangents():
    networks, batch = make_networks(), make_batch()
    exact = make_actor_loss(networks)
    draws = exact.draw(batch, torch.Generator().manual_seed(5))
    estimate = make_actor_loss(networks, derivative="finite_difference")
    torch.testing.assert_close(estimate(batch, draws)[0], exact(batch, draws)[0], rtol=2e-2, atol=0)


def test_ablations_drop_exactly_their_term():
    networks, batch = make_networks(), make_batch()
    both = make_actor_loss(networks, bc_weight=0.4)
    draws = both.draw(batch, torch.Generator().manual_seed(6))
    bc_only, _ = make_actor_loss(networks, eta=0.0)(batch, draws)
    q_only, _ = make_actor_loss(networks, bc_weight=0.0)(batch, draws)
    torch.testing.assert_close(0.4 * bc_only + q_only, both(batch, draws)[0])


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_a_fraction_of_the_jumps_is_empty(fraction):
    actions = torch.zeros(1, 10_000, 1)
    matching = MeanFlowMatching(
        derivative="none", time_table=time_table((0.0,) * 4), instant_fraction=fraction
    )
    draws = matching.draw(actions, torch.Generator().manual_seed(0))
    _, r, t = matching.points(actions, draws)
    assert (r == t).float().mean().item() == pytest.approx(fraction, abs=0.015)


def test_linear_velocity_net_gives_the_hand_computed_matching_loss():
    """Hand numbers for u = 2 z - r + t with one action, so du/dr = 2 v - 1.

    x_0 = 0, x_1 = 1, r = 1/4, t = 3/4; z = 1/4, v = 1,
    u = 2/4 - 1/4 + 3/4 = 1, target = 1 + 1/2 (2 - 1) = 3/2, loss = 1/4.
    """
    config = OM2PConfig().training(actor_hidden=(), eta=0.0)
    networks = config.build_networks(scalar_layout().groups, torch.Generator())
    set_sums(networks.actors[0].mlp, (0.0, 2.0, -1.0, 1.0, 0.0))
    zeros = torch.zeros(1, 1, 1)
    draws = ActorDraws(
        matching=MatchingDraws(
            noise=zeros, uniforms=torch.tensor([0.25, 0.25]).reshape(2, 1, 1, 1), instant=None
        ),
        action_noise=zeros,
    )
    batch = scalar_batch([[0.0]], [[1.0]])
    for derivative in ("tangent", "finite_difference"):
        loss = make_actor_loss(networks, eta=0.0, derivative=derivative)
        assert loss(batch, (draws,))[0].item() == pytest.approx(0.25, rel=1e-3)
    none = make_actor_loss(networks, eta=0.0, derivative="none")
    assert none(batch, (draws,))[0].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("normalize_q", "expected", "slope"), [(False, -5 / 4, -7), (True, -3 / 4, -5)]
)
def test_linear_networks_give_the_hand_computed_loss_and_slope(normalize_q, expected, slope):
    """Hand numbers of eq. 6 for u = 2 z - r + t, Q = o + 4 a - 3, eta = 3, o = 1.

    Uniforms of 1/2 are times s = (1/2)^2 = 1/4 of the default xi, which is Beta(1/2, 1), so r and t
    are 1/4 and 3/4, and L_bc = 1/4 in both transitions, as above.
    a~ of noise -1/4 is -1/4 + (-1/2 + 1) = 1/4; of 1/2 it is 1/2 + 2, clipped to 1. Q = -1 and 2,
    of mean 1/2: loss = 1/4 - 3/2 = -5/4; divided by their mean magnitude 3/2: 1/4 - 3 (1/3) = -3/4.
    In u's bias L_bc has the slope 2 (1 - 3/2) = -1, its target none; Q has 4 and, where it is
    clipped, 0: -1 - 3 (2) = -7, or -1 - 3 (2) / (3/2) = -5.
    """
    layout = scalar_layout()
    config = OM2PConfig().training(
        actor_hidden=(),
        critic_hidden=(),
        num_critics=1,
        eta=3.0,
        normalize_q=normalize_q,
        derivative="tangent",
    )
    networks = config.build_networks(layout.groups, torch.Generator())
    set_sums(networks.actors[0].mlp, (0.0, 2.0, -1.0, 1.0, 0.0))
    set_sums(networks.critics[0].mlp, (1.0, 4.0, -3.0))
    draws = ActorDraws(
        matching=MatchingDraws(
            noise=torch.zeros(1, 2, 1), uniforms=torch.full((2, 1, 2, 1), 0.5), instant=None
        ),
        action_noise=scalars([[-1 / 4, 1 / 2]]),
    )
    _, actor_phase = config.build_phases(networks, layout)
    loss, metrics = actor_phase.loss(scalar_batch([[1.0, 1.0]], [[1.0, 1.0]]), (draws,))
    assert metrics["bc_loss"].item() == pytest.approx(1 / 4)
    assert metrics["q_policy"].item() == pytest.approx(1 / 2)
    assert loss.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(loss.sum(), networks.actors[0].mlp.biases[0])
    assert gradient.item() == pytest.approx(slope)
