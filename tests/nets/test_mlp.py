"""The stacked MLP against plain torch.nn modules and torch.func.jvp."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rllib_om2p.nets.mlp import StackedMLP
from tests.benchmarks.per_agent import plain_mlp
from tests.benchmarks.stacked import load_slices

F64 = torch.float64
SHAPES = [(1, ()), (1, (16,)), (3, (32, 24)), (5, (16, 16, 16, 16))]


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def build(
    num_stacks: int, hidden: tuple[int, ...], *, layer_norm: bool
) -> tuple[StackedMLP, list[torch.nn.Sequential]]:
    """Return a stack and plain networks of the same weights, away from their initial values."""
    stack = StackedMLP(num_stacks, 7, hidden, 3, layer_norm=layer_norm).double()
    nets = [plain_mlp(7, hidden, 3, layer_norm=layer_norm).double() for _ in range(num_stacks)]
    generator = torch.Generator().manual_seed(num_stacks)
    with torch.no_grad():
        for net in nets:
            for parameter in net.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
                parameter.add_(0.3 * noise)
    load_slices(stack, nets)
    return stack, nets


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("num_stacks", "hidden"), SHAPES)
def test_stack_equals_a_loop_of_plain_modules(
    num_stacks: int, hidden: tuple[int, ...], layer_norm: bool
) -> None:
    stack, nets = build(num_stacks, hidden, layer_norm=layer_norm)
    x = normal(num_stacks, 11, 7).requires_grad_()
    copies = [part.detach().clone().requires_grad_() for part in x]
    weight = normal(num_stacks, 11, 3, seed=1)
    y = stack(x)
    expected = torch.stack([net(part) for net, part in zip(nets, copies, strict=True)])
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(
        x.grad, torch.stack([part.grad for part in copies]), rtol=1e-9, atol=1e-9
    )
    gradients = StackedMLP(num_stacks, 7, hidden, 3, layer_norm=layer_norm).double()
    with torch.no_grad():
        for net in nets:
            for parameter in net.parameters():
                parameter.copy_(parameter.grad)
    load_slices(gradients, nets)
    for (name, parameter), gradient in zip(
        stack.named_parameters(), gradients.parameters(), strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("num_stacks", "hidden"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tangent_equals_forward_mode_autodiff(
    num_stacks: int, hidden: tuple[int, ...], layer_norm: bool, dtype: torch.dtype
) -> None:
    stack = build(num_stacks, hidden, layer_norm=layer_norm)[0].to(dtype)
    x, dx = normal(num_stacks, 11, 7).to(dtype), normal(num_stacks, 11, 7, seed=1).to(dtype)
    y, dy = stack.forward_with_tangent(x, dx)
    expected_y, expected_dy = torch.func.jvp(stack, (x,), (dx,))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(y, expected_y, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dy, expected_dy, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_outputs_beside_the_tangent_have_the_gradients_of_forward(layer_norm: bool) -> None:
    stack, _ = build(3, (16, 16), layer_norm=layer_norm)
    x, dx = normal(3, 11, 7).requires_grad_(), normal(3, 11, 7, seed=1).requires_grad_()
    parameters = (x, *stack.parameters())
    expected = torch.autograd.grad(stack(x).square().sum(), parameters)
    y, dy = stack.forward_with_tangent(x, dx)
    assert not dy.requires_grad
    for got, want in zip(torch.autograd.grad(y.square().sum(), parameters), expected, strict=True):
        assert torch.equal(got, want)


def test_tangent_in_bfloat16_autocast_keeps_a_few_percent() -> None:
    stack = StackedMLP(3, 7, (256, 256, 256, 256), 3, generator=torch.Generator().manual_seed(0))
    x, dx = normal(3, 64, 7).float(), normal(3, 64, 7, seed=1).float()
    exact = torch.func.jvp(stack, (x,), (dx,))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = stack.forward_with_tangent(x, dx)
    for got, want in zip(rounded, exact, strict=True):
        assert got.dtype == torch.float32
        assert float((got - want).norm() / want.norm()) < 2e-2


def test_initial_weights_are_glorot_uniform_per_slice_and_biases_zero() -> None:
    stack = StackedMLP(4, 100, (300,), 50, generator=torch.Generator().manual_seed(0))
    for weight, fans in zip(stack.weights, (400, 350), strict=True):
        bound = (6 / fans) ** 0.5
        for part in weight:
            assert float(part.abs().max()) <= bound
            assert float(part.abs().max()) > 0.99 * bound
            assert float(part.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not any(bool(bias.any()) for bias in stack.biases)
    assert not torch.equal(stack.weights[0][0], stack.weights[0][1])


def test_generator_decides_the_initial_weights() -> None:
    def weights(seed: int) -> Tensor:
        return StackedMLP(2, 4, (8,), 1, generator=torch.Generator().manual_seed(seed)).weights[0]

    torch.manual_seed(0)
    first = weights(5)
    torch.manual_seed(1)
    assert torch.equal(first, weights(5))
    assert not torch.equal(first, weights(6))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_every_parameter_leads_with_the_stack_axis(layer_norm: bool) -> None:
    stack = StackedMLP(3, 7, (16, 8), 2, layer_norm=layer_norm)
    shapes = {name: tuple(parameter.shape) for name, parameter in stack.named_parameters()}
    expected = {
        "weights.0": (3, 7, 16),
        "weights.1": (3, 16, 8),
        "weights.2": (3, 8, 2),
        "biases.0": (3, 1, 16),
        "biases.1": (3, 1, 8),
        "biases.2": (3, 1, 2),
    }
    if layer_norm:
        expected |= {f"{kind}.0": (3, 1, 16) for kind in ("scales", "shifts")}
        expected |= {f"{kind}.1": (3, 1, 8) for kind in ("scales", "shifts")}
    assert shapes == expected


@pytest.mark.parametrize("shape", [(11, 7), (1, 11, 7), (3, 11, 8), (3, 11, 7, 1)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    stack = StackedMLP(3, 7, (8,), 2)
    with pytest.raises(ValueError, match=r"x must be \(3, batch, 7\), got"):
        stack(torch.zeros(shape))
    with pytest.raises(ValueError, match="must be"):
        stack.forward_with_tangent(torch.zeros(3, 11, 7), torch.zeros(shape))


def test_empty_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes must be at least 1, got 0 stacks"):
        StackedMLP(0, 7, (8,), 2)
    with pytest.raises(ValueError, match=r"\(7, 0, 2\)"):
        StackedMLP(1, 7, (0,), 2)
