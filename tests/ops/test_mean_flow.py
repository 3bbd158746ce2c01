"""Mean-flow maths against closed forms and hand numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rllib_om2p.ops.mean_flow import (
    adaptive_mean_flow_loss,
    check_finite_difference_step,
    conditional_velocity,
    end_of_path,
    finite_difference,
    interpolate,
    mean_flow_loss,
    mean_flow_target,
    one_step_action,
)

F64 = torch.float64


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def random_times(seed: int = 0, num: int = 500) -> tuple[Tensor, Tensor]:
    draws = torch.rand(2, 3, num, 1, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return draws.amin(0), draws.amax(0)


def linear_field(a: float):  # noqa: ANN201
    """Average velocity of the flow dz/dt = a z, and its total derivative by r along the flow."""

    def average(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        jump = t - r
        return z * torch.where(jump > 0, torch.expm1(a * jump) / jump.clamp(min=1e-300), a)

    def derivative(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        r = r.detach().requires_grad_()
        by_z, by_r = torch.autograd.grad(average(z, r, t).sum(), (z, r))
        return by_z * (a * z.detach()) + by_r

    return average, derivative


def difference(z: Tensor, velocity: Tensor, r: Tensor, t: Tensor) -> Tensor:
    return finite_difference(lambda z, r, t: z, z, velocity, r, t, step=0.1, value=z)


@pytest.mark.parametrize("a", [-3.0, -0.5, 0.7, 2.0])
def test_average_velocity_of_a_linear_field_is_its_own_target(a: float) -> None:
    average, derivative = linear_field(a)
    r, t = random_times()
    z = normal(3, 500, 1)
    target = mean_flow_target(a * z, derivative(z, r, t), r, t)
    torch.testing.assert_close(target, average(z, r, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("a", [-3.0, 0.7])
def test_target_by_finite_difference_approaches_the_same_fixed_point(a: float) -> None:
    average, _ = linear_field(a)
    r, t = random_times(num=200)
    # Away from the end of the jump: beyond t this closed form is another function.
    r, t = r * 0.9, r * 0.9 + 0.02 + t * 0.05
    z = normal(3, 200, 1)
    errors = []
    for step in (1e-2, 1e-3, 1e-4):
        value = average(z, r, t)
        derivative = finite_difference(average, z, a * z, r, t, step=step, value=value)
        target = mean_flow_target(a * z, derivative, r, t)
        errors.append(float((target - average(z, r, t)).abs().max()))
    assert errors[2] < 1e-3
    # First order in the step.
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_one_step_from_any_r_reaches_the_linear_flow_at_t() -> None:
    average, _ = linear_field(-1.5)
    r, t = random_times()
    z = normal(3, 500, 1)
    torch.testing.assert_close(z + (t - r) * average(z, r, t), z * torch.exp(-1.5 * (t - r)))


def test_path_goes_from_noise_to_action_at_the_conditional_velocity() -> None:
    noise, actions = normal(3, 7, 2), normal(3, 7, 2, seed=1)
    zero = torch.zeros(3, 7, 1, dtype=F64)
    assert torch.equal(interpolate(noise, actions, zero), noise)
    assert torch.equal(interpolate(noise, actions, zero + 1), actions)
    velocity = conditional_velocity(noise, actions)
    step = interpolate(noise, actions, zero + 0.75) - interpolate(noise, actions, zero + 0.25)
    torch.testing.assert_close(step / 0.5, velocity)


def test_path_and_velocity_by_hand() -> None:
    noise, actions = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[0.5, 1.0]]])
    z = interpolate(noise, actions, torch.tensor([[[0.25]]]))
    torch.testing.assert_close(z, torch.tensor([[[1.625, -0.5]]]))
    torch.testing.assert_close(conditional_velocity(noise, actions), torch.tensor([[[-1.5, 2.0]]]))


def test_target_by_hand() -> None:
    target = mean_flow_target(
        torch.tensor([[[1.0, -2.0]]]),
        torch.tensor([[[4.0, 0.5]]]),
        torch.tensor([[[0.25]]]),
        torch.tensor([[[0.75]]]),
    )
    torch.testing.assert_close(target, torch.tensor([[[3.0, -1.75]]]))


def test_target_is_velocity_when_interval_is_empty() -> None:
    velocity, derivative = normal(3, 9, 2), 1e6 * normal(3, 9, 2, seed=1)
    r, _ = random_times(num=9)
    assert torch.equal(mean_flow_target(velocity, derivative, r, r), velocity)


def test_target_carries_no_gradient() -> None:
    velocity = normal(3, 9, 2).requires_grad_()
    derivative = (2 * velocity).exp()
    r, t = random_times(num=9)
    assert not mean_flow_target(velocity, derivative, r, t).requires_grad


def test_finite_difference_is_exact_for_a_velocity_linear_along_the_path() -> None:
    r, t = random_times(num=20)
    z, velocity = normal(3, 20, 2), normal(3, 20, 2, seed=1)

    def velocity_fn(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return 3 * z - 2 * r + t

    value = velocity_fn(z, r, t)
    derivative = finite_difference(velocity_fn, z, velocity, r, t, step=3e-3, value=value)
    torch.testing.assert_close(derivative, 3 * velocity - 2)


def test_finite_difference_takes_one_forward_and_no_graph() -> None:
    calls = []

    def velocity_fn(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        calls.append(r)
        return torch.sin(z) + r * t

    r, t = random_times(num=20)
    z, velocity = normal(3, 20, 2), normal(3, 20, 2, seed=1)
    value = velocity_fn(z, r, t).requires_grad_()
    calls.clear()
    given = finite_difference(velocity_fn, z, velocity, r, t, step=3e-3, value=value)
    assert len(calls) == 1
    assert not given.requires_grad


@pytest.mark.parametrize("step", [1e-4, 3e-3, 0.5])
def test_finite_difference_past_the_end_is_finite_and_does_not_move_an_empty_jump(
    step: float,
) -> None:
    # r + step > t and > 1: outside the trained triangle, where the network is still defined.
    weight = normal(2, 2)

    def velocity_fn(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(z @ weight + r - 2 * t)

    z, velocity = normal(3, 4, 2), normal(3, 4, 2, seed=1)
    jump = torch.tensor([0.0, 1e-6, step / 2, step], dtype=F64).reshape(1, 4, 1).expand(3, 4, 1)
    t = torch.ones_like(jump)
    r = t - jump
    value = velocity_fn(z, r, t)
    derivative = finite_difference(velocity_fn, z, velocity, r, t, step=step, value=value)
    target = mean_flow_target(velocity, derivative, r, t)
    assert bool(torch.isfinite(derivative).all())
    assert torch.equal(target[:, 0], velocity[:, 0])
    moved = velocity_fn(z + step * velocity, r + step, t) - velocity_fn(z, r, t)
    assert bool(((target - velocity).abs() <= moved.abs() + 1e-12).all())


@pytest.mark.parametrize(
    ("step", "dtype"),
    [
        (9e-5, torch.float32),
        (1e-12, torch.float32),
        (1e-14, torch.float64),
        (3e-3, torch.bfloat16),
        (3e-3, torch.float16),
        (0.5, torch.bfloat16),
    ],
)
def test_finite_difference_drowned_by_rounding_is_refused_naming_the_tangent(
    step: float, dtype: torch.dtype
) -> None:
    with pytest.raises(ValueError, match='"tangent"'):
        check_finite_difference_step(step, dtype)


@pytest.mark.parametrize("step", [0.0, -1e-3, 1.0, math.nan])
def test_finite_difference_step_outside_the_unit_interval_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        check_finite_difference_step(step, torch.float32)


@pytest.mark.parametrize(
    ("step", "dtype"),
    [(1e-4, torch.float32), (3e-3, torch.float32), (0.1, torch.float32), (1e-6, torch.float64)],
)
def test_resolvable_finite_difference_steps_pass(step: float, dtype: torch.dtype) -> None:
    check_finite_difference_step(step, dtype)


def test_one_step_action_by_hand() -> None:
    noise = torch.tensor([[[0.5, -0.25, 0.75]]])

    def velocity_fn(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        assert (float(r), float(t)) == (0.0, 1.0)
        return torch.tensor([[[0.25, -2.0, 1.0]]])

    actions = one_step_action(velocity_fn, noise)
    torch.testing.assert_close(actions, torch.tensor([[[0.75, -1.0, 1.0]]]))


def test_points_of_the_path_jump_to_its_end_and_noise_acts_in_one_step() -> None:
    def velocity_fn(z: torch.Tensor, r: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 2 * z - r + t

    z, r = torch.tensor([[[0.2, -0.4]]]), torch.tensor([[[0.25]]])
    # 0.2 + 0.75 (0.4 - 0.25 + 1) = 1.0625, clipped; -0.4 + 0.75 (-0.8 - 0.25 + 1) = -0.4375
    torch.testing.assert_close(end_of_path(velocity_fn, z, r), torch.tensor([[[1.0, -0.4375]]]))
    start = torch.zeros_like(r)
    torch.testing.assert_close(end_of_path(velocity_fn, z, start), one_step_action(velocity_fn, z))
    torch.testing.assert_close(end_of_path(velocity_fn, z, torch.ones_like(r)), z)


def test_one_step_action_solves_a_linear_flow_in_any_number_of_steps() -> None:
    average, _ = linear_field(-1.5)
    noise = normal(3, 50, 2)
    expected = (noise * math.exp(-1.5)).clamp(-1, 1)
    for num_steps in (1, 2, 5):
        torch.testing.assert_close(one_step_action(average, noise, num_steps=num_steps), expected)


def test_one_step_action_passes_the_gradient_inside_the_box() -> None:
    shift = torch.zeros(3, dtype=F64, requires_grad=True)
    noise = torch.tensor([[[0.5, -2.0, 1.5]]], dtype=F64)
    one_step_action(lambda z, r, t: shift.expand_as(z), noise).sum().backward()
    assert shift.grad is not None
    assert shift.grad.tolist() == [1.0, 0.0, 0.0]


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        one_step_action(lambda z, r, t: z, normal(1, 1, 1), num_steps=0)


def test_loss_by_hand_is_one_number_per_agent() -> None:
    u = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, 3.0], [3.0, 3.0]]])
    target = torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[3.0, 3.0], [3.0, 1.0]]])
    torch.testing.assert_close(mean_flow_loss(u, target), torch.tensor([1.5, 1.0]))


@pytest.mark.parametrize("shape", [(256,), (3, 256), (256, 1), (3, 256, 2), (1, 256, 1)])
def test_times_that_would_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    wrong, right = torch.zeros(shape), torch.zeros(3, 256, 1)
    actions = torch.zeros(3, 256, 2)
    with pytest.raises(ValueError, match=r"must be \(3, 256, 1\), got"):
        mean_flow_target(actions, actions, wrong, right)
    with pytest.raises(ValueError, match=r"must be \(3, 256, 1\), got"):
        mean_flow_target(actions, actions, right, wrong)
    with pytest.raises(ValueError, match=r"r must be \(3, 256, 1\), got"):
        interpolate(actions, actions, wrong)
    with pytest.raises(ValueError, match=r"must be \(3, 256, 1\), got"):
        difference(actions, actions, right, wrong)


def test_missing_trailing_axes_are_named_in_the_error() -> None:
    actions = torch.zeros(3, 256, 2)
    with pytest.raises(ValueError, match=r"\(3, 256, 1\), got \(256,\); add trailing axes\."):
        mean_flow_target(actions, actions, torch.zeros(256), torch.zeros(256))


def test_tensors_of_different_shapes_are_refused() -> None:
    one, other = torch.zeros(3, 8, 2), torch.zeros(1, 8, 2)
    times = torch.zeros(3, 8, 1)
    for call in (
        lambda: interpolate(one, other, times),
        lambda: conditional_velocity(one, other),
        lambda: mean_flow_target(one, other, times, times),
        lambda: difference(one, other, times, times),
        lambda: mean_flow_loss(one, other),
    ):
        with pytest.raises(ValueError, match=r"must be \(3, 8, 2\) as .*, got \(1, 8, 2\)"):
            call()


def test_adaptive_loss_by_hand() -> None:
    # Errors 3 and 0 in mean over the axes; weights 1 / (3 + 1)^(1/2) and 1 / (0 + 1)^(1/2).
    u, target = torch.tensor([[[3.0, 1.0], [2.0, 2.0]]]), torch.tensor([[[1.0, 1.0 - 2**0.5]] * 2])
    target[0, 1] = 2.0
    loss = adaptive_mean_flow_loss(u, target, power=0.5, constant=1.0)
    torch.testing.assert_close(loss, torch.tensor([3 / 2 / 2]))
    present = torch.tensor([[1.0, 0.0]])
    loss = adaptive_mean_flow_loss(u, target, present, power=0.5, constant=1.0)
    torch.testing.assert_close(loss, torch.tensor([3 / 2]))


def test_adaptive_loss_with_power_zero_is_the_plain_one() -> None:
    u, target = normal(3, 7, 2), normal(3, 7, 2, seed=1)
    plain = mean_flow_loss(u, target)
    torch.testing.assert_close(adaptive_mean_flow_loss(u, target, power=0, constant=1e-3), plain)


def test_adaptive_weight_is_no_part_of_the_gradient() -> None:
    """d/du of w e with w constant is 2 w (u - target): with power 1 it falls like 1 / error."""
    u, zero = torch.tensor([[[1.0], [100.0]]], requires_grad=True), torch.zeros(1, 2, 1)
    loss = adaptive_mean_flow_loss(u, zero, power=1, constant=1e-3)
    (gradient,) = torch.autograd.grad(loss.sum(), u)
    expected = torch.tensor([1 / 1.001, 100 / 10_000.001]).view(1, 2, 1)
    torch.testing.assert_close(gradient, expected)
