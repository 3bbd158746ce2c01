"""The velocity network: input order, tangent, finite difference, shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.mean_flow import finite_difference, interpolate
from rllib_om2p.ops.times import sample_times, time_table
from tests.benchmarks.per_agent import plain_mlp
from tests.benchmarks.stacked import load_slices


def inputs(num_agents: int, batch: int = 256, seed: int = 0) -> tuple[Tensor, ...]:
    """Return obs, z, r, t and the velocity of random noise and actions."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(num_agents, batch, 18, generator=generator)
    noise = torch.randn(num_agents, batch, 2, generator=generator)
    actions = torch.randn(num_agents, batch, 2, generator=generator).clamp(-1, 1)
    uniforms = torch.rand(2, num_agents, batch, 1, generator=generator)
    r, t = sample_times(uniforms, time_table((0, 0, 0, 0)))
    return obs, interpolate(noise, actions, r), r, t, actions - noise


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("num_agents", [1, 3])
def test_tangent_equals_forward_mode_autodiff_with_t_fixed(
    num_agents: int, layer_norm: bool
) -> None:
    net = VelocityNet(num_agents, 18, 2, (64, 64, 64), layer_norm=layer_norm)
    obs, z, r, t, velocity = inputs(num_agents)
    ones = torch.ones_like(r)
    u, du = net.forward_with_tangent(obs, z, r, t, dz=velocity, dr=ones)
    expected_u, expected_du = torch.func.jvp(
        lambda z, r: net(obs, z, r, t), (z, r), (velocity, ones)
    )
    torch.testing.assert_close(u, expected_u, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(du, expected_du, rtol=1e-5, atol=1e-5)


def test_tangent_moves_r_by_its_own_direction() -> None:
    net = VelocityNet(2, 18, 2, (32, 32))
    obs, z, r, t, velocity = inputs(2)
    _, du = net.forward_with_tangent(obs, z, r, t, dz=velocity, dr=0.5 * r)
    _, expected = torch.func.jvp(lambda z, r: net(obs, z, r, t), (z, r), (velocity, 0.5 * r))
    torch.testing.assert_close(du, expected, rtol=1e-5, atol=1e-5)


def test_input_order_is_obs_z_r_t() -> None:
    net, plain = VelocityNet(1, 18, 2, (32,)), plain_mlp(22, (32,), 2, layer_norm=False)
    load_slices(net.mlp, [plain])
    obs, z, r, t, _ = inputs(1)
    expected = plain(torch.cat((obs, z, r, t), -1))
    torch.testing.assert_close(net(obs, z, r, t), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_finite_difference_approximates_the_tangent(
    layer_norm: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    # The paper's size at initialisation in float32; the larger steps err by curvature, the
    # smallest by rounding.
    generator = torch.Generator().manual_seed(0)
    net = VelocityNet(3, 18, 2, (512,) * 4, layer_norm=layer_norm, generator=generator)
    obs, z, r, t, velocity = inputs(3)
    u, exact = net.forward_with_tangent(obs, z, r, t, dz=velocity, dr=torch.ones_like(r))
    bounds = {1e-2: 1e-2, 3e-3: 5e-3, 1e-3: 5e-3, 1e-4: 5e-2}
    errors = {
        step: relative_error(
            finite_difference(
                lambda z, r, t: net(obs, z, r, t), z, velocity, r, t, step=step, value=u.detach()
            ),
            exact,
        )
        for step in bounds
    }
    with capsys.disabled():
        shown = ", ".join(f"{step:g}: {100 * error:.2f} %" for step, error in errors.items())
        print(f"\n  finite difference against tangent (layer_norm={layer_norm}): {shown}")
    assert all(errors[step] < bound for step, bound in bounds.items()), errors


def test_bfloat16_ruins_the_finite_difference_and_spares_the_tangent() -> None:
    net = VelocityNet(3, 18, 2, (256,) * 4, generator=torch.Generator().manual_seed(0))
    obs, z, r, t, velocity = inputs(3)
    ones = torch.ones_like(r)
    _, exact = net.forward_with_tangent(obs, z, r, t, dz=velocity, dr=ones)
    with torch.autocast("cpu", torch.bfloat16):
        _, rounded = net.forward_with_tangent(obs, z, r, t, dz=velocity, dr=ones)
        value = net(obs, z, r, t).detach()
        difference = finite_difference(
            lambda z, r, t: net(obs, z, r, t), z, velocity, r, t, step=3e-3, value=value
        )
    assert relative_error(rounded, exact) < 2e-2
    assert relative_error(difference, exact) > 0.5


def test_agents_do_not_touch_each_other() -> None:
    net = VelocityNet(3, 18, 2, (32, 32))
    obs, z, r, t, _ = inputs(3)
    net(obs, z, r, t)[1].sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad[1].any())
        assert not bool(parameter.grad[[0, 2]].any())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("obs", (256, 18)),
        ("obs", (3, 256, 17)),
        ("z", (3, 256, 1)),
        ("z", (1, 256, 2)),
        ("r", (256,)),
        ("r", (3, 256)),
        ("t", (3, 1, 1)),
    ],
)
def test_inputs_that_would_broadcast_are_refused(name: str, shape: tuple[int, ...]) -> None:
    net = VelocityNet(3, 18, 2, (8,))
    obs, z, r, t, velocity = inputs(3)
    given = {"obs": obs, "z": z, "r": r, "t": t, name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=r"must be .*, got"):
        net(**given)
    with pytest.raises(ValueError, match=r"must be .*, got"):
        net.forward_with_tangent(**given, dz=velocity, dr=torch.ones_like(r))


def test_directions_of_another_shape_are_refused() -> None:
    net = VelocityNet(3, 18, 2, (8,))
    obs, z, r, t, velocity = inputs(3)
    with pytest.raises(ValueError, match=r"dz must be \(3, 256, 2\) as z"):
        net.forward_with_tangent(obs, z, r, t, dz=velocity[:1], dr=r)
    with pytest.raises(ValueError, match=r"dr must be \(3, 256, 1\), got \(256,\)"):
        net.forward_with_tangent(obs, z, r, t, dz=velocity, dr=torch.ones(256))
