"""A whole OM2P update on stacked networks against a per-agent loop in plain torch."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.benchmarks.measure import count_operations
from tests.benchmarks.per_agent import PerAgentUpdate
from tests.benchmarks.problem import Settings, Sizes, draw, make_batch
from tests.benchmarks.stacked import StackedUpdate, copy_weights

SIZES = Sizes(num_agents=3, obs_dim=5, action_dim=2, hidden=(32, 32), batch_size=16)
DERIVATIVES = [("tangent", "jvp"), ("finite_difference", "finite_difference")]


def snapshot(update: StackedUpdate) -> list[torch.Tensor]:
    nets = update.policy, update.critic, update.target_critic
    return [parameter.detach().clone() for net in nets for parameter in net.parameters()]


@pytest.mark.parametrize(("stacked_derivative", "plain_derivative"), DERIVATIVES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_updates_equal_a_per_agent_loop(
    stacked_derivative: str, plain_derivative: str, eta: float
) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    settings = Settings(eta=eta, tau=0.1)
    stacked = StackedUpdate(SIZES, settings, derivative=stacked_derivative)
    plain = PerAgentUpdate(SIZES, settings, derivative=plain_derivative)
    stacked.to(torch.float64)
    plain.to(torch.float64)
    copy_weights(stacked, plain)
    for _ in range(10):
        batch = make_batch(SIZES, generator, torch.float64)
        draws = draw(SIZES, generator, torch.float64)
        for got, want in zip(stacked(batch, draws), plain(batch, draws), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    expected = copy.deepcopy(stacked)
    copy_weights(expected, plain)
    for got, want in zip(snapshot(stacked), snapshot(expected), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_losses_in_bfloat16_autocast_stay_near_float32() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    single, half = StackedUpdate(SIZES), StackedUpdate(SIZES, autocast=True)
    for name in ("policy", "critic", "target_critic"):
        getattr(half, name).load_state_dict(getattr(single, name).state_dict())
    batch, draws = make_batch(SIZES, generator), draw(SIZES, generator)
    for want, got in zip(single(batch, draws), half(batch, draws), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("derivative", ["tangent", "finite_difference"])
def test_number_of_operations_does_not_depend_on_the_number_of_agents(derivative: str) -> None:
    counts = []
    for num_agents in (1, 3, 8):
        sizes = Sizes(num_agents=num_agents, obs_dim=5, hidden=(16, 16), batch_size=8)
        counts.append(count_operations(StackedUpdate(sizes, derivative=derivative), sizes))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.slow
@pytest.mark.timeout(600)  # two cold compilations
@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_losses_equal_eager_ones(autocast: bool) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    eager = StackedUpdate(SIZES, autocast=autocast)
    compiled = StackedUpdate(SIZES, autocast=autocast, compile_losses=True)
    for name in ("policy", "critic", "target_critic"):
        getattr(compiled, name).load_state_dict(getattr(eager, name).state_dict())
    tolerance = 3e-2 if autocast else 1e-5
    for _ in range(3):
        batch, draws = make_batch(SIZES, generator), draw(SIZES, generator)
        for got, want in zip(compiled(batch, draws), eager(batch, draws), strict=True):
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
