"""The conservative critics' loss against a loop over agents, with scipy's densities."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from rllib_om2p.core.conservative import ConservativeConfig
from rllib_om2p.core.deterministic import DeterministicActorCritic
from tests.algorithms.loops import (
    BATCH,
    SHAPES,
    Plain,
    make_batch,
    make_groups,
    make_layout,
    plain_critic,
)

ALPHA, NUM_ACTIONS, STD = 0.7, 4, 0.3


def make_config(**settings: object) -> ConservativeConfig:
    return ConservativeConfig().training(
        actor_hidden=(16, 16),
        critic_hidden=(16, 16),
        actor_layer_norm=True,
        alpha=ALPHA,
        num_sampled_actions=NUM_ACTIONS,
        sample_noise=STD,
        **settings,
    )


def make_networks(config: ConservativeConfig) -> DeterministicActorCritic:
    return config.build_networks(make_groups(), torch.Generator().manual_seed(0))


def around(mean: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return scipy's truncated normal draws and their log densities, per row of a batch."""
    mean = mean.detach()[:, None].double().numpy()
    law = stats.truncnorm((-1 - mean) / STD, (1 - mean) / STD, loc=mean, scale=STD)
    actions = law.ppf(uniforms.double().numpy())
    log_density = torch.from_numpy(law.logpdf(actions)).sum(-1).float()
    return torch.from_numpy(actions).float(), log_density


def penalty_of(networks, group_index, agent, part, uniforms) -> Tensor:
    """Return one agent's penalty, a number, of uniforms (3, B, M, A)."""
    actor = Plain(networks.actors[group_index].mlp, agent)
    dim = uniforms.shape[-1]
    even = (
        2 * uniforms[0] - 1,
        torch.full((BATCH, NUM_ACTIONS), -dim * math.log(2)),
    )
    now = around(torch.tanh(actor(part.obs[agent])), uniforms[1])
    after = around(torch.tanh(actor(part.next_obs[agent])), uniforms[2])
    ratios = []
    for actions, log_density in (even, now, after):
        for m in range(NUM_ACTIONS):
            q = plain_critic(networks.critics[group_index], agent, part.obs[agent], actions[:, m])
            ratios.append(q.exp() / log_density[:, m].exp())
    integral = torch.stack(ratios).mean(0)
    data = plain_critic(networks.critics[group_index], agent, part.obs[agent], part.actions[agent])
    return (integral.log() - data).mean()


@pytest.mark.parametrize("critic", ["own", "vdn"])
def test_penalty_comes_to_every_agents_temporal_difference(critic):
    config = make_config(critic=critic)
    networks, batch = make_networks(config), make_batch()
    loss = config.critic_phase(networks, make_layout()).loss
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    losses, metrics = loss(batch, draws)
    temporal, _ = loss.temporal(batch, draws.temporal)
    penalties = torch.stack(
        [
            penalty_of(networks, g, i, batch.groups[g], draws.uniforms[g][:, i])
            for g, (size, _, _) in enumerate(SHAPES)
            for i in range(size)
        ]
    )
    torch.testing.assert_close(metrics["penalty"], penalties, rtol=1e-4, atol=1e-4)
    added = penalties if critic == "own" else penalties.sum()
    torch.testing.assert_close(losses, temporal + ALPHA * added, rtol=1e-4, atol=1e-4)
    assert losses.shape == ((5,) if critic == "own" else ())


def test_gradient_reaches_the_critics_alone():
    config = make_config()
    networks, batch = make_networks(config), make_batch()
    phase = config.critic_phase(networks, make_layout())
    losses, _ = phase.loss(batch, phase.draw(batch, torch.Generator().manual_seed(3)))
    losses.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in networks.critics.parameters())
    assert all(p.grad is None for p in networks.actors.parameters())


def test_what_an_absent_agent_did_is_not_penalised():
    config = make_config()
    networks, batch = make_networks(config), make_batch()
    alive = torch.ones_like(batch.groups[0].rewards)
    alive[1, BATCH // 2 :] = 0
    part = batch.groups[0]._replace(alive=alive, next_alive=alive)
    other = part._replace(actions=torch.where(alive[..., None] > 0, part.actions, -part.actions))
    loss = config.critic_phase(networks, make_layout()).loss
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    one, two = (
        loss(batch._replace(groups=(first, batch.groups[1])), draws)[0] for first in (part, other)
    )
    torch.testing.assert_close(one, two)


def test_penalty_is_averaged_over_the_rows_that_the_temporal_difference_is():
    """An own loss is the mean over the rows where the agent is present, the team's over all."""
    batch = make_batch()
    alive = torch.ones_like(batch.groups[0].rewards)
    alive[1, BATCH // 4 :] = 0
    part = batch.groups[0]._replace(alive=alive, next_alive=alive)
    batch = batch._replace(groups=(part, batch.groups[1]))
    penalties = {}
    for critic in ("own", "vdn"):
        config = make_config(critic=critic)
        loss = config.critic_phase(make_networks(config), make_layout()).loss
        draws = loss.draw(batch, torch.Generator().manual_seed(3))
        penalties[critic] = loss(batch, draws)[1]["penalty"]
    shares = torch.tensor([1.0, 0.25, 1.0, 1.0, 1.0])
    torch.testing.assert_close(penalties["vdn"], shares * penalties["own"])
