"""Flow matching against the velocity fields of distributions for which they are known."""

from __future__ import annotations

import pytest
import torch

from rllib_om2p.ops.flow_matching import euler_action, flow_matching_loss

MEAN, SD = 0.3, 0.1


def field_of_a_normal(z: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """The velocity that carries N(0, 1) to N(MEAN, SD^2) along straight conditional paths."""
    variance = (1 - r) ** 2 + (r * SD) ** 2
    return MEAN + (r * SD**2 - (1 - r)) / variance * (z - r * MEAN)


def test_loss_by_hand() -> None:
    noise = torch.tensor([[[0.0, 1.0], [2.0, -1.0]]])
    actions = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    velocity = torch.tensor([[[0.0, 0.0], [-2.0, 4.0]]])
    # Errors 1, 0 and 0, 3: (1 + 0 + 0 + 9) / 4; the first transition alone: 1 / 2.
    assert flow_matching_loss(velocity, noise, actions).tolist() == [2.5]
    first = torch.tensor([[1.0, 0.0]])
    assert flow_matching_loss(velocity, noise, actions, first).tolist() == [0.5]


def test_constant_velocity_is_integrated_exactly_and_clipped() -> None:
    noise = torch.tensor([[[-0.5], [0.25], [0.9]]])
    actions = euler_action(lambda z, r: torch.full_like(z, 0.5), noise, num_steps=3)
    torch.testing.assert_close(actions, torch.tensor([[[0.0], [0.75], [1.0]]]))
    points = euler_action(lambda z, r: torch.full_like(z, 0.5), noise, num_steps=3, clip=False)
    torch.testing.assert_close(points, torch.tensor([[[0.0], [0.75], [1.4]]]))


def test_linear_velocity_grows_by_one_factor_per_step() -> None:
    noise = torch.tensor([[[0.1]]])
    actions = euler_action(lambda z, r: z, noise, num_steps=4)
    torch.testing.assert_close(actions, 0.1 * torch.tensor([[[1.25**4]]]))


@pytest.mark.parametrize(("num_steps", "error"), [(10, 0.12), (100, 0.014), (1000, 0.0014)])
def test_known_flow_carries_noise_to_data_with_an_error_of_first_order(
    num_steps: int, error: float
) -> None:
    noise = torch.linspace(-3, 3, 41, dtype=torch.float64).reshape(1, -1, 1)
    actions = euler_action(field_of_a_normal, noise, num_steps=num_steps)
    assert float((actions - (MEAN + SD * noise)).abs().max()) < error


def test_known_field_minimises_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 100_000, 1, generator=generator, dtype=torch.float64)
    actions = MEAN + SD * torch.randn(noise.shape, generator=generator, dtype=torch.float64)
    r = torch.rand(noise.shape, generator=generator, dtype=torch.float64)
    z = (1 - r) * noise + r * actions
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = flow_matching_loss(scale * field_of_a_normal(z, r) + shift, noise, actions)
    for gradient in torch.autograd.grad(loss.sum(), (scale, shift)):
        assert float(gradient.abs()) < 0.01


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        euler_action(lambda z, r: z, torch.zeros(1, 1, 1), num_steps=0)
