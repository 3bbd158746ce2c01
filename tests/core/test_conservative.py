"""The conservative critics' loss against a loop over agents, with scipy's densities."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from rllib_om2p import OM2PConfig
from rllib_om2p.core.conservative import ConservativeCriticLoss
from rllib_om2p.core.deterministic import ConservativeConfig, DeterministicActorCritic
from tests.algorithms.loops import (
    BATCH,
    SHAPES,
    Plain,
    make_batch,
    make_groups,
    make_layout,
    plain_critic,
)
from tests.small_data import write_discrete

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


def conservative_loss(config, networks) -> ConservativeCriticLoss:
    loss = config.critic_phase(networks, make_layout()).loss
    assert isinstance(loss, ConservativeCriticLoss)
    return loss


def around(mean: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return scipy's truncated normal draws and their log densities, per row of a batch."""
    mean = mean.detach()[:, None].double().numpy()
    law = stats.truncnorm((-1 - mean) / STD, (1 - mean) / STD, loc=mean, scale=STD)
    actions = law.ppf(uniforms.double().numpy())
    log_density = torch.from_numpy(law.logpdf(actions)).sum(-1).float()
    return torch.from_numpy(actions).float(), log_density


def deterministic(networks, group_index, agent):
    """Return one agent's policy, from observations and noise to actions (B, A)."""
    actor = Plain(networks.actors[group_index].mlp, agent)
    return lambda obs, noise: torch.tanh(actor(obs))


def one_jump(networks, group_index, agent):
    """Return one agent's mean-flow policy, from observations and noise to actions (B, A)."""
    actor = Plain(networks.actors[group_index].mlp, agent)

    def act(obs, noise):
        times = torch.tensor([0.0, 1.0]).expand(len(obs), 2)
        return (noise + actor(torch.cat([obs, noise, times], -1))).clamp(-1, 1)

    return act


def penalty_of(networks, group_index, agent, part, uniforms, policy, noise):
    """Return one agent's penalty, a number, of uniforms (3, B, M, A) and noise (B, A)."""
    act = policy(networks, group_index, agent)
    dim = uniforms.shape[-1]
    even = (
        2 * uniforms[0] - 1,
        torch.full((BATCH, NUM_ACTIONS), -dim * math.log(2)),
    )
    now = around(act(part.obs[agent], noise), uniforms[1])
    after = around(act(part.next_obs[agent], noise), uniforms[2])
    ratios = []
    for actions, log_density in (even, now, after):
        for m in range(NUM_ACTIONS):
            q = plain_critic(networks.critics[group_index], agent, part.obs[agent], actions[:, m])
            ratios.append(q.exp() / log_density[:, m].exp())
    integral = torch.stack(ratios).mean(0)
    data = plain_critic(networks.critics[group_index], agent, part.obs[agent], part.actions[agent])
    return (integral.log() - data).mean()


def penalties_of(networks, batch, draws, policy) -> Tensor:
    """Return every agent's penalty, (N,)."""
    return torch.stack(
        [
            penalty_of(
                networks,
                g,
                i,
                batch.groups[g],
                draws.uniforms[g][:, i],
                policy,
                draws.temporal[g][i],
            )
            for g, (size, _, _) in enumerate(SHAPES)
            for i in range(size)
        ]
    )


@pytest.mark.parametrize("critic", ["own", "vdn"])
def test_penalty_comes_to_every_agents_temporal_difference(critic):
    config = make_config(critic=critic)
    networks, batch = make_networks(config), make_batch()
    loss = conservative_loss(config, networks)
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    losses, metrics = loss(batch, draws)
    temporal, _ = loss.temporal(batch, draws.temporal)
    penalties = penalties_of(networks, batch, draws, deterministic)
    torch.testing.assert_close(metrics["penalty"], penalties, rtol=1e-4, atol=1e-4)
    added = penalties if critic == "own" else penalties.sum()
    torch.testing.assert_close(losses, temporal + ALPHA * added, rtol=1e-4, atol=1e-4)
    assert losses.shape == ((5,) if critic == "own" else ())


def test_proposals_of_a_policy_of_noise_lie_around_what_it_makes_of_the_targets_noise():
    config = OM2PConfig().training(
        actor_hidden=(16, 16),
        critic_hidden=(16, 16),
        actor_layer_norm=True,
        conservative_weight=ALPHA,
        num_sampled_actions=NUM_ACTIONS,
        sample_noise=STD,
    )
    networks = config.build_networks(make_groups(), torch.Generator().manual_seed(0))
    batch = make_batch()
    loss = conservative_loss(config, networks)
    draws = loss.draw(batch, torch.Generator().manual_seed(3))
    expected = penalties_of(networks, batch, draws, one_jump)
    penalty = loss(batch, draws)[1]["penalty"]
    torch.testing.assert_close(penalty, expected, rtol=1e-4, atol=1e-4)


def test_discrete_actions_are_all_asked_for_if_legal(tmp_path):
    config = OM2PConfig().offline_data(input_=str(write_discrete(tmp_path / "set")))
    config.training(actor_hidden=(8, 8), critic_hidden=(8, 8), train_batch_size=64)
    config.training(conservative_weight=ALPHA)
    config.debugging(seed=0).validate()
    learner = config.build_learner()
    networks, batch = learner._networks, learner._sample()
    (phase,) = [phase for phase in learner._phases if phase.name == "critic"]
    penalties = phase.loss(batch, phase.draw(batch, torch.Generator()))[1]["penalty"]
    (index,) = [i for i, group in enumerate(networks.groups) if group.is_discrete]
    group, critic = batch.groups[index], networks.critics[index]
    position = sum(len(other) for other in networks.groups[:index])
    assert not group.alive.all()
    for i in range(len(networks.groups[index])):
        present, errors = group.alive[i] > 0, []
        for row in torch.nonzero(present)[:, 0].tolist():
            values = []
            for choice in torch.nonzero(group.action_mask[i, row])[:, 0].tolist():
                corner = torch.full((group.actions.shape[-1],), -1.0)
                corner[choice] = 1.0
                values.append(plain_critic(critic, i, group.obs[i, [row]], corner[None])[:, 0])
            data = plain_critic(critic, i, group.obs[i, [row]], group.actions[i, [row]])[:, 0]
            errors.append((torch.stack(values).exp().sum(0).log() - data).mean())
        torch.testing.assert_close(
            penalties[position + i], torch.stack(errors).mean(), rtol=1e-4, atol=1e-5
        )


def test_without_a_weight_there_is_no_penalty():
    config = OM2PConfig().training(actor_hidden=(8, 8), critic_hidden=(8, 8))
    networks = config.build_networks(make_groups(), torch.Generator().manual_seed(0))
    phase = config.critic_phase(networks, make_layout())
    draws = phase.draw(make_batch(), torch.Generator().manual_seed(3))
    assert "penalty" not in phase.loss(make_batch(), draws)[1]


def test_the_papers_name_of_the_weight_is_the_weight():
    config = ConservativeConfig()
    assert config.alpha == config.conservative_weight == 1.0
    assert config.training(alpha=3.0).conservative_weight == 3.0
    assert config.copy(copy_frozen=False).training(conservative_weight=2.0).alpha == 2.0


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
