"""VGM2P's actor loss against a per-agent loop written independently, and against hand numbers."""

from __future__ import annotations

import pytest
import torch

from rllib_om2p.algorithms.vgm2p import VGM2PConfig, VGM2PNetworks
from rllib_om2p.algorithms.vgm2p.losses import ActorDraws, ActorLoss
from rllib_om2p.algorithms.vgm2p.networks import with_good_label, with_labels, without_label
from rllib_om2p.core.advantage import advantage_of_data
from rllib_om2p.core.agent_groups import AgentGroup, GroupBatch, JointBatch
from rllib_om2p.core.matching import MatchingDraws, MeanFlowMatching
from rllib_om2p.data.schema import AgentSpec
from rllib_om2p.ops.times import time_table
from tests.algorithms.loops import BATCH, SHAPES, Plain, make_batch, make_groups, plain_critic

OMEGA = 3.0
GUIDANCES = ("advantage", "label_dropout")


@pytest.fixture
def double_precision():
    """Float64, in which the loop and the stack differ by less than what a wrong term would."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_networks(**settings: object) -> VGM2PNetworks:
    config = VGM2PConfig().training(
        actor_hidden=(16, 16), critic_hidden=(16, 16), actor_layer_norm=True, **settings
    )
    return config.build_networks(make_groups(), torch.Generator().manual_seed(0))


def make_loss(networks: VGM2PNetworks, **kwargs: object) -> ActorLoss:
    derivative = kwargs.pop("derivative", "tangent")
    table = time_table((0.0, 0.0, 0.0, 0.0)).to(torch.get_default_dtype())
    matching = MeanFlowMatching(derivative=derivative, step=3e-3, time_table=table)
    settings = {
        "omega": OMEGA,
        "guidance": "advantage",
        "guide_others": True,
        "label_dropout": 0.3,
        "num_baseline_actions": 3,
    }
    return ActorLoss(networks=networks, matching=matching, **settings | kwargs)


def draw(loss: ActorLoss, batch: JointBatch) -> tuple[ActorDraws, ...]:
    return loss.draw(batch, torch.Generator().manual_seed(4))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("guide_others", [True, False])
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_loss_and_gradient_equal_a_per_agent_loop(guidance, guide_others):
    networks, batch = make_networks(), make_batch()
    loss = make_loss(networks, guidance=guidance, guide_others=guide_others)
    draws = draw(loss, batch)
    losses, metrics = loss(batch, draws)
    parameters = [p for actor in networks.actors for p in actor.parameters()]
    gradients = torch.autograd.grad(losses.sum(), parameters)
    expected, good_fractions = [], []
    for g, (size, _, _) in enumerate(SHAPES):
        for i in range(size):
            part = batch.groups[g]
            bc_loss, good = matching_of_agent(networks, part, draws[g], g, i, guide_others)
            expected.append(bc_loss)
            good_fractions.append(good.to(losses.dtype).mean())
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-6, atol=0)
    torch.testing.assert_close(metrics["good_fraction"], torch.stack(good_fractions))
    assert 0 < metrics["good_fraction"].mean() < 1
    reference = torch.autograd.grad(torch.stack(expected).sum(), parameters)
    for gradient, other in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


def matching_of_agent(networks, part, drawn, g, i, guide_others):
    """Return one agent's loss and labels, from its own weights and its own rows alone."""
    actor, obs, x_1 = Plain(networks.actors[g].mlp, i), part.obs[i], part.actions[i]
    good, none = torch.tensor([0.0, 1.0]).expand(BATCH, 2), torch.zeros(BATCH, 2)

    def velocity(label, z, r, t):
        return actor(torch.cat([obs, label, z, r, t], -1))

    baseline = 0.0
    for x_0 in drawn.baseline_noise[i].view(3, BATCH, -1):
        jump = velocity(good, x_0, torch.zeros(BATCH, 1), torch.ones(BATCH, 1))
        values = plain_critic(networks.critics[g], i, obs, (x_0 + jump).clamp(-1, 1))
        baseline = baseline + values.mean(0) / 3
    c = plain_critic(networks.critics[g], i, obs, x_1).mean(0) - baseline >= 0
    label = torch.stack([~c, c], -1).to(obs.dtype)
    x_0 = drawn.matching.noise[i]
    s1, s2 = drawn.matching.uniforms[:, i]
    r, t = torch.minimum(s1, 1 - s2), torch.maximum(s1, 1 - s2)
    z, v = (1 - r) * x_0 + r * x_1, x_1 - x_0
    if drawn.is_dropped is None:
        guided = OMEGA * v + (1 - OMEGA) * velocity(good, z, r, r)
    else:
        dropped = drawn.is_dropped[i]
        label = torch.where(dropped, none, label)
        guided = torch.where(dropped, v, OMEGA * v + (1 - OMEGA) * velocity(none, z, r, r))
    if not guide_others:
        guided = torch.where(c[:, None], guided, v)
    guided = guided.detach()
    u, du = torch.func.jvp(
        lambda z, r: velocity(label, z, r, t), (z, r), (guided, torch.ones_like(r))
    )
    return ((u - (guided + (t - r) * du).detach()) ** 2).mean(), c


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_finite_difference_is_close_to_the_tangents(guidance):
    networks, batch = make_networks(), make_batch()
    exact = make_loss(networks, guidance=guidance)
    draws = draw(exact, batch)
    estimate = make_loss(networks, guidance=guidance, derivative="finite_difference")
    torch.testing.assert_close(estimate(batch, draws)[0], exact(batch, draws)[0], rtol=2e-2, atol=0)


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_omega_one_is_cloning_under_labels(guidance):
    networks, batch = make_networks(), make_batch()
    loss = make_loss(networks, omega=1.0, guidance=guidance)
    draws = draw(loss, batch)
    for index, (group, drawn) in enumerate(zip(batch.groups, draws, strict=True)):
        is_good = (advantage_of_data(loss.networks, index, group, drawn.baseline_noise) >= 0)[
            ..., None
        ]
        labelled = with_labels(group.obs, is_good, drawn.is_dropped)
        actor = networks.actors[index]
        cloning = loss.matching(actor, labelled, group.actions, drawn.matching)
        torch.testing.assert_close(loss.matching_loss(index, group, is_good, drawn), cloning)


def test_omega_only_scales_the_gradient_of_good_actions_where_the_jump_is_empty():
    """With t = r the paper's target is u + omega (v - u), whose error is omega (u - v)."""
    networks, batch = make_networks(), make_batch()
    group, parameters = batch.groups[0], list(networks.actors[0].parameters())
    all_good = torch.ones(*group.actions.shape[:2], 1, dtype=torch.bool)

    def gradients(omega):
        loss = make_loss(networks, omega=omega)
        drawn = draw(loss, batch)[0]
        matching = drawn.matching._replace(instant=all_good)
        value = loss.matching_loss(0, group, all_good, drawn._replace(matching=matching))
        return torch.autograd.grad(value.sum(), parameters)

    for weighted, plain in zip(gradients(5.0), gradients(1.0), strict=True):
        torch.testing.assert_close(weighted, 5 * plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("is_good", "expected"), [(True, 56.25), (False, 20.25)])
def test_linear_velocity_net_gives_the_hand_computed_loss(is_good, expected):
    """Hand numbers for u = 2 z - r + t + 3 [good], so du/dr = 2 dz/dr - 1; time 0 is noise.

    x_0 = 0, x_1 = 1, r = 1/4, t = 3/4; z = 1/4, v = 1, omega = 2;
    u(z, r, r | good) = 2/4 + 3 = 7/2, guided = 2 - 7/2 = -3/2, du/dr = 2 (-3/2) - 1 = -4,
    target = -3/2 + 1/2 (-4) = -7/2; u(z, r, t) is 4 under "good" and 1 otherwise.
    """
    group = AgentGroup((AgentSpec("a", 1, 1, (-1.0,), (1.0,)),), (0,))
    config = VGM2PConfig().training(actor_hidden=(), critic_hidden=(4,))
    networks = config.build_networks([group], torch.Generator())
    weights = torch.tensor([0.0, 0.0, 3.0, 2.0, -1.0, 1.0])  # obs, not good, good, z, r, t
    with torch.no_grad():
        networks.actors[0].mlp.weights[0].copy_(weights[None, :, None])
    zeros, ones = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    part = GroupBatch(zeros, ones, zeros, zeros[..., 0], zeros[..., 0])
    draws = ActorDraws(
        matching=MatchingDraws(zeros, torch.tensor([0.25, 0.25]).reshape(2, 1, 1, 1), None),
        baseline_noise=zeros,
        is_dropped=None,
    )
    labels = torch.full((1, 1, 1), is_good)
    for derivative in ("tangent", "finite_difference"):
        loss = make_loss(networks, omega=2.0, derivative=derivative)
        value = loss.matching_loss(0, part, labels, draws)
        assert value.item() == pytest.approx(expected, rel=1e-3)


def test_an_advantage_of_zero_is_good():
    networks, batch = make_networks(), make_batch()
    with torch.no_grad():
        for critic in networks.critics:
            critic.mlp.weights[-1].zero_()
    loss = make_loss(networks)
    _, metrics = loss(batch, draw(loss, batch))
    assert metrics["good_fraction"].tolist() == [1.0] * 5
    assert metrics["advantage"].tolist() == [0.0] * 5


def test_baseline_of_several_actions_is_the_mean_of_theirs():
    networks, batch = make_networks(), make_batch()
    several, one = make_loss(networks), make_loss(networks, num_baseline_actions=1)
    group = batch.groups[0]
    noise = draw(several, batch)[0].baseline_noise
    assert noise.shape == (3, 3 * BATCH, 2)
    alone = [advantage_of_data(one.networks, 0, group, part) for part in noise.split(BATCH, dim=1)]
    assert not torch.allclose(alone[0], alone[1])
    torch.testing.assert_close(advantage_of_data(several.networks, 0, group, noise), sum(alone) / 3)


def test_what_an_absent_agent_did_does_not_count():
    networks, batch = make_networks(), make_batch()
    alive = [torch.ones(size, BATCH) for size, _, _ in SHAPES]
    alive[0][1, BATCH // 2 :] = 0
    present = [g._replace(alive=a) for g, a in zip(batch.groups, alive, strict=True)]
    other_obs = torch.where(alive[0][..., None] > 0, present[0].obs, 7.0)
    loss = make_loss(networks)
    draws = draw(loss, batch)
    one = loss(batch._replace(groups=tuple(present)), draws)
    changed = (present[0]._replace(obs=other_obs), present[1])
    two = loss(batch._replace(groups=changed), draws)
    torch.testing.assert_close(one[0], two[0])
    torch.testing.assert_close(one[1], two[1])


def test_discrete_baseline_actions_are_legal():
    """Only action 0 is legal and the data took it, so that no action is better or worse."""
    agents = (AgentSpec.discrete("a", 3, 4), AgentSpec.discrete("b", 3, 4))
    config = VGM2PConfig().training(actor_hidden=(8,), critic_hidden=(8,))
    networks = config.build_networks([AgentGroup(agents, (0, 1))], torch.Generator())
    taken = torch.tensor([1.0, -1.0, -1.0, -1.0]).expand(2, BATCH, 4)
    obs, zeros = torch.randn(2, BATCH, 3), torch.zeros(2, BATCH)
    free = GroupBatch(obs, taken, obs, zeros, zeros)
    masked = free._replace(action_mask=(taken > 0).float())
    loss, noise = make_loss(networks), torch.randn(2, 3 * BATCH, 4)
    assert advantage_of_data(loss.networks, 0, free, noise).abs().max() > 0.01
    torch.testing.assert_close(advantage_of_data(loss.networks, 0, masked, noise), zeros)


def test_the_fraction_of_labels_that_is_dropped_is_label_dropout():
    batch = make_batch()
    large = [group._replace(actions=torch.zeros(2, 10_000, 1)) for group in batch.groups]
    loss = make_loss(make_networks(), guidance="label_dropout", label_dropout=0.1)
    for drawn in draw(loss, batch._replace(groups=tuple(large))):
        shares = drawn.is_dropped.float().mean(dim=(1, 2)).tolist()
        assert shares == pytest.approx([0.1, 0.1], abs=0.015)
    assert draw(make_loss(make_networks()), batch)[0].is_dropped is None


def test_labels_are_one_hot_and_nothing_where_dropped():
    obs = torch.zeros(1, 3, 1)
    is_good = torch.tensor([True, False, True])[None, :, None]
    is_dropped = torch.tensor([False, False, True])[None, :, None]
    assert with_labels(obs, is_good, is_dropped)[0].tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert with_good_label(obs)[0].tolist() == [[0, 0, 1]] * 3
    assert without_label(obs)[0].tolist() == [[0, 0, 0]] * 3
