"""Stacked policies against networks of torch.nn, agent by agent."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from rllib_om2p.nets.policies import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    DeterministicPolicy,
    GaussianPolicy,
    NoisePolicy,
)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_each_agent_acts_by_the_tanh_of_its_own_network():
    policy = DeterministicPolicy(3, 4, 2, (8,), generator=torch.Generator().manual_seed(0))
    obs = normal(3, 6, 4)
    (first, second), biases = policy.mlp.weights, policy.mlp.biases
    with torch.no_grad():
        biases[0].copy_(normal(3, 1, 8))
        actions = policy(obs)
    for agent in range(3):
        hidden = functional.gelu(obs[agent] @ first[agent] + biases[0][agent], approximate="tanh")
        expected = torch.tanh(hidden @ second[agent] + biases[1][agent])
        torch.testing.assert_close(actions[agent], expected)


def test_observations_of_another_shape_are_refused():
    policy = DeterministicPolicy(3, 4, 2, (8,))
    with pytest.raises(ValueError, match=r"obs must be \(3, batch, 4\)"):
        policy(normal(2, 6, 4))


def test_each_agents_mean_and_deviation_are_the_halves_of_its_own_output():
    policy = GaussianPolicy(3, 4, 2, (8,), generator=torch.Generator().manual_seed(0))
    obs = normal(3, 6, 4)
    mean, log_std = policy(obs)
    output = policy.mlp(obs)
    torch.testing.assert_close(mean, torch.tanh(output[..., :2]))
    torch.testing.assert_close(log_std, output[..., 2:])


def test_deviations_stay_between_their_limits():
    policy = GaussianPolicy(1, 1, 1, ())
    with torch.no_grad():
        policy.mlp.weights[0].fill_(1.0)
    _, log_std = policy(torch.tensor([[[-100.0], [100.0]]]))
    assert log_std.flatten().tolist() == [LOG_STD_MIN, LOG_STD_MAX]


def test_noise_stands_behind_the_observation():
    policy = NoisePolicy(3, 4, 2, (8,))
    obs, noise = normal(3, 6, 4), normal(3, 6, 2)
    torch.testing.assert_close(policy(obs, noise), policy.mlp(torch.cat((obs, noise), -1)))
    with pytest.raises(ValueError, match=r"noise must be \(3, batch, 2\)"):
        policy(obs, normal(3, 6, 3))
