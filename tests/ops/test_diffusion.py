"""Variance-preserving diffusion against its closed forms and distributions with known noise."""

from __future__ import annotations

import math

import pytest
import torch

from rllib_om2p.ops.diffusion import (
    LAST_TIME,
    diffuse,
    diffusion_action,
    sampling_times,
    signal_and_noise,
)

MEAN, SD = 0.3, 0.1
NOISE = torch.linspace(-3, 3, 41, dtype=torch.float64).reshape(1, -1, 1)


def noise_of_a_normal(z: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """E[x_0 | z_r = z] where actions are N(MEAN, SD^2)."""
    alpha, sigma = signal_and_noise(r)
    return sigma * (z - alpha * MEAN) / ((alpha * SD) ** 2 + sigma**2)


def test_signal_and_noise_by_hand() -> None:
    # u = 1 at r = 0: exponent 0.1 + 19.9 / 2 = 10.05; u = 1/2: 0.05 + 19.9 / 8 = 2.5375.
    alpha, sigma = signal_and_noise(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    squares = torch.tensor([math.exp(-10.05), math.exp(-2.5375), 1.0], dtype=torch.float64)
    torch.testing.assert_close(alpha**2, squares)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3, dtype=torch.float64))


def test_path_starts_at_noise_and_ends_at_the_action() -> None:
    noise, actions = torch.full((1, 2, 1), 2.0), torch.full((1, 2, 1), -0.5)
    r = torch.tensor([[[0.0], [1.0]]])
    first, last = diffuse(noise, actions, r)[0, :, 0].tolist()
    assert first == pytest.approx(2.0, abs=0.01)
    assert last == -0.5


@pytest.mark.parametrize("num_steps", [1, 2, 15])
def test_sampler_removes_an_equal_factor_of_noise_per_step(num_steps: int) -> None:
    times = sampling_times(num_steps)
    assert len(times) == num_steps + 1
    assert times[0] == 0
    assert times[-1] == pytest.approx(LAST_TIME)
    alpha, sigma = signal_and_noise(torch.tensor(times, dtype=torch.float64))
    steps = torch.log(alpha / sigma).diff()
    torch.testing.assert_close(steps, steps[:1].expand(num_steps))


@pytest.mark.parametrize("num_steps", [1, 2, 15])
def test_a_single_action_is_sampled_exactly_by_any_number_of_steps(num_steps: int) -> None:
    def predict(z: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        alpha, sigma = signal_and_noise(r)
        return (z - alpha * MEAN) / sigma

    got = diffusion_action(predict, NOISE, num_steps=num_steps)
    # What is left of the noise at the last time.
    torch.testing.assert_close(got, torch.full_like(NOISE, MEAN), rtol=0, atol=0.035)


@pytest.mark.parametrize(("num_steps", "error"), [(15, 0.06), (150, 0.006), (1500, 0.0015)])
def test_known_noise_carries_noise_to_data_with_an_error_of_first_order(
    num_steps: int, error: float
) -> None:
    actions = diffusion_action(noise_of_a_normal, NOISE, num_steps=num_steps)
    assert float((actions - (MEAN + SD * NOISE)).abs().max()) < error


def test_predictions_outside_the_box_are_clipped_on_the_way() -> None:
    actions = diffusion_action(lambda z, r: torch.full_like(z, -1e3), NOISE, num_steps=5)
    torch.testing.assert_close(actions, torch.ones_like(NOISE), rtol=0, atol=0.05)


def test_points_of_discrete_actions_are_left_as_predicted_by_the_last_step() -> None:
    def predict(z: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        alpha, sigma = signal_and_noise(r)
        return (z - alpha * 3.0) / sigma  # the clean action is 3

    points = diffusion_action(predict, NOISE, num_steps=5, clip=False)
    torch.testing.assert_close(points, torch.full_like(NOISE, 3.0), rtol=0, atol=1e-3)
    assert diffusion_action(predict, NOISE, num_steps=5).amax() <= 1


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        diffusion_action(lambda z, r: z, NOISE, num_steps=0)
