"""MA-SfBC: its targets and its selection candidate by candidate, its losses by hand, the toys."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rllib_om2p.algorithms.ma_sfbc import MASfBCConfig
from rllib_om2p.algorithms.ma_sfbc.losses import BehaviourLoss, InSupportCriticLoss
from rllib_om2p.core.generative import PathDraws
from rllib_om2p.ops.diffusion import LAST_TIME, sampling_times, signal_and_noise
from tests.algorithms import toys
from tests.algorithms.loops import (
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

ALPHA, STEPS, CANDIDATES, GAMMA = 1.5, 3, 4, 0.9


def make_networks():
    config = MASfBCConfig().training(
        actor_hidden=(16, 16),
        critic_hidden=(16, 16),
        actor_layer_norm=True,
        diffusion_steps=STEPS,
    )
    networks = config.build_networks(make_groups(), torch.Generator().manual_seed(0))
    # Targets that differ from the critics, so that a mix-up shows.
    with torch.no_grad():
        for parameter in networks.target_critics.parameters():
            parameter.add_(0.05)
    return networks


def plain_sample(net: Plain, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the sampler's action by the noise schedule's closed form, (B, A)."""
    z, times = noise, torch.tensor(sampling_times(STEPS))
    alphas, sigmas = signal_and_noise(times.double())
    for step in range(STEPS):
        predicted = net(torch.cat([obs, z, times[step].expand(len(obs), 1)], -1))
        alpha, sigma = alphas[step].float(), sigmas[step].float()
        clean = ((z - sigma * predicted) / alpha).clamp(-1, 1)
        left = (z - alpha * clean) / sigma
        z = alphas[step + 1].float() * clean + sigmas[step + 1].float() * left
    return z.clamp(-1, 1)


def test_behaviours_loss_equals_a_loop_over_agents():
    networks, batch = make_networks(), make_batch()
    loss = BehaviourLoss(networks)
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    expected = []
    for g, (size, _, _) in enumerate(SHAPES):
        part = batch.groups[g]
        for i in range(size):
            r, x_0 = LAST_TIME * draws[g].times[i], draws[g].noise[i]
            alpha, sigma = signal_and_noise(r)
            z = alpha * part.actions[i] + sigma * x_0
            predicted = Plain(networks.actors[g].mlp, i)(torch.cat([part.obs[i], z, r], -1))
            expected.append((predicted - x_0).square().mean())
    torch.testing.assert_close(loss(batch, draws)[0], torch.stack(expected))


def test_critic_loss_equals_a_loop_over_agents_and_candidates():
    networks, batch = make_networks(), make_batch()
    loss = InSupportCriticLoss(
        networks=networks,
        gamma=GAMMA,
        aggregate="min",
        critic="own",
        teams=[range(5)],
        num_candidates=CANDIDATES,
        alpha=ALPHA,
    )
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    expected = []
    for g, (size, _, _) in enumerate(SHAPES):
        part = batch.groups[g]
        for i in range(size):
            net, obs = Plain(networks.actors[g].mlp, i), part.next_obs[i]
            candidates = [plain_sample(net, obs, draws[g][i, :, m]) for m in range(CANDIDATES)]
            q = torch.stack(
                [plain_critic(networks.target_critics[g], i, obs, a) for a in candidates]
            )
            weights = torch.exp(ALPHA * q.mean(1))
            value = (weights[:, None] * q).sum(0) / weights.sum(0)
            target = part.rewards[i] + GAMMA * (1 - part.terminateds[i]) * value.min(0).values
            now = plain_critic(networks.critics[g], i, part.obs[i], part.actions[i])
            expected.append((now - target.detach()).square().mean())
    losses, _ = loss(batch, draws)
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_linear_noise_predictor_gives_the_hand_computed_behaviours_loss():
    """Hand numbers for e = o + 2 z + r.

    A draw of 0.68524 is the time 0.999 (0.68524) = 0.68455; with u = 1 - 0.68455 = 0.31545
    0.1 u + 9.95 u^2 = 0.03154 + 0.99011 = 1.02165 = log 25/9, so alpha = 3/5 and sigma = 4/5.
    x_0 = 2, x_1 = -1: z = -3/5 + 8/5 = 1; o = 1, e = 1 + 2 + 0.68455; loss = 1.68455^2 = 2.83771.
    """
    layout = scalar_layout()
    config = MASfBCConfig().training(actor_hidden=(), critic_hidden=())
    networks = config.build_networks(layout.groups, torch.Generator())
    set_sums(networks.actors[0].mlp, (1.0, 2.0, 1.0, 0.0))
    draws = PathDraws(noise=scalars([[2.0]]), times=scalars([[0.68524]]))
    behaviour_phase, _ = config.build_phases(networks, layout)
    loss, _ = behaviour_phase.loss(scalar_batch([[1.0]], [[-1.0]]), (draws,))
    assert loss.item() == pytest.approx(2.83771, rel=1e-4)


def test_linear_networks_give_the_hand_computed_critic_loss():
    """Hand numbers for two candidates in one step with e = 100 (o' - 2), and alpha = log(3) / 2.

    At o' = 2 noise of 2 and -2 is far outside the box as a clean action, so the candidates are 1
    and -1.
    Qbar_1 = 3 a + 2 o', Qbar_2 = -a have the mean 2 + a, so the weights are as
    exp(+-alpha), 3/4 and 1/4, and the mean candidate is 1/2: V_1 = 11/2, V_2 = -1/2, of mean 5/2.
    r = 3/4, gamma = 1/2: y = 2; Q_1 = 2 o + 4 a and Q_2 = 4 at o = 1, a = 1/4 are off by 1 and 2:
    5/2. Where the episode ends and r = 1, y = 1: off by 2 and 3: 13/2. Loss = (5/2 + 13/2) / 2.
    """
    layout = scalar_layout()
    config = MASfBCConfig().training(
        actor_hidden=(),
        critic_hidden=(),
        diffusion_steps=1,
        num_candidates=2,
        alpha=math.log(3) / 2,
        gamma=0.5,
    )
    networks = config.build_networks(layout.groups, torch.Generator())
    set_sums(networks.actors[0].mlp, (100.0, 0.0, 0.0, -200.0))
    set_sums(networks.critics[0].mlp, (2.0, 4.0, 0.0), (0.0, 0.0, 4.0))
    set_sums(networks.target_critics[0].mlp, (2.0, 3.0, 0.0), (0.0, -1.0, 0.0))
    batch = scalar_batch(
        [[1.0, 1.0]],
        [[1 / 4, 1 / 4]],
        next_obs=[[2.0, 2.0]],
        rewards=[[3 / 4, 1.0]],
        terminateds=[[0.0, 1.0]],
    )
    noise = torch.tensor([2.0, -2.0])[None, None, :, None].expand(1, 2, 2, 1)
    _, critic_phase = config.build_phases(networks, layout)
    loss, _ = critic_phase.loss(batch, (noise,))
    assert loss.item() == pytest.approx(9 / 2)


def train(dataset: str, num_updates: int, **settings: object):
    small = {"num_candidates": 6, "diffusion_steps": 6, "actor_hidden": (64, 64), "alpha": 10.0}
    config = MASfBCConfig().offline_data(input_=dataset).training(**toys.SMALL | small | settings)
    return toys.train(config, num_updates)


def test_candidate_is_drawn_as_often_as_its_value_says(tmp_path):
    dataset = toys.bandit_dataset(tmp_path / "bandit", num_episodes=200)
    module = train(dataset, 1, acting_candidates=3, acting_alpha=5.0).module["first"]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 3, 2, generator=generator)
    noise[..., 0] = torch.tensor([-1.0, 0.2, 1.5])
    obs = torch.zeros(1, len(noise), toys.OBS_DIM)
    actions = module.act(obs, noise)[0, :, 0]
    candidates = torch.stack(
        [
            module.diffusion.sample(module.actor, obs[:, :1], noise[None, :1, m, :1])[0, 0]
            for m in range(3)
        ]
    )
    values = module.critic(obs[:, :3], candidates[None]).mean(0)[0]
    shares = torch.stack([(actions - c).abs().lt(1e-5).float().mean() for c in candidates[:, 0]])
    torch.testing.assert_close(shares, torch.softmax(5 * values, 0), rtol=0, atol=0.015)


def test_candidates_near_the_bandits_optimum_are_selected(tmp_path):
    dataset = toys.bandit_dataset(tmp_path / "bandit")
    learner = train(dataset, 250, alpha=30.0)
    for agent, optimum in toys.BANDIT_OPTIMA.items():
        assert abs(toys.sample(learner, agent) - optimum).mean() < 0.25


def test_behaviour_keeps_both_modes_and_selection_takes_the_better_one(tmp_path):
    dataset = toys.two_mode_dataset(tmp_path / "modes")
    learner = train(dataset, 900, num_candidates=1)
    obs = torch.zeros(1, 1000, toys.OBS_DIM)
    noise = torch.randn(1000, 4, 2, generator=torch.Generator().manual_seed(0))
    for agent, better in toys.BETTER_MODE.items():
        module = learner.module[agent]
        cloned, selected = (module.act(obs, drawn) for drawn in (noise[:, :1], noise))
        assert min(toys.mode_shares(cloned.detach().flatten().numpy())) > 0.25
        right, left = toys.mode_shares(selected.detach().flatten().numpy() * np.sign(better))
        assert right > 0.6
        assert left < 0.15


def test_best_discrete_action_of_the_data_is_selected(tmp_path):
    learner = train(toys.discrete_dataset(tmp_path / "discrete"), 250)
    for agent, best in toys.BEST_CHOICE.items():
        assert np.mean(toys.sample(learner, agent) == best) > 0.9


def test_no_candidates_are_refused(tmp_path):
    dataset = toys.bandit_dataset(tmp_path / "bandit", num_episodes=200)
    with pytest.raises(ValueError, match="num_candidates must be positive, got 0"):
        train(dataset, 1, num_candidates=0)


def test_a_penalty_on_actions_that_nobody_asks_for_is_refused(tmp_path):
    config = MASfBCConfig().offline_data(input_=toys.bandit_dataset(tmp_path / "bandit"))
    with pytest.raises(ValueError, match="nothing to do in MA-SfBC"):
        config.training(conservative_weight=1.0).validate()
