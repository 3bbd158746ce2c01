"""Guidance against flows that are known: which policy each form of it has as its stationary point.

Actions are N(0, S^2), and good with probability exp(-(a - B)^2 / (2 W^2)), so that good ones are
normal too. The velocity of noise towards N(m, s^2) at z and time r is, with
spread(r) = sqrt((1 - r)^2 + r^2 s^2),

    m (1 - r) / spread^2 + z k(r),    k = d/dr log spread.

The guided velocity, omega times that of the good actions and 1 - omega times that of all, is
therefore linear in z: it carries noise to a normal distribution with standard deviation
s_good^omega S^(1 - omega), and its average velocity is an integral over time. Networks that say
exactly this must be where the expected gradient vanishes, in any direction that they could move.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rllib_om2p.algorithms.vgm2p.losses import ActorDraws, ActorLoss
from rllib_om2p.algorithms.vgm2p.networks import VGM2PNetworks
from rllib_om2p.core.agent_groups import AgentGroup, GroupBatch
from rllib_om2p.core.matching import MeanFlowMatching
from rllib_om2p.data.schema import AgentSpec
from rllib_om2p.nets.velocity import VelocityNet
from rllib_om2p.ops.times import time_table

S, B, W = 0.6, 0.5, 0.6
S_GOOD = (S**-2 + W**-2) ** -0.5
MEAN_GOOD = B * S_GOOD**2 / W**2
REPEATS, BATCH = 20, 1000  # as 40 "agents", so that the mean gradient has a standard error
LABEL_DROPOUT = 0.4
NUM_DIRECTIONS = 5
NOISE = 4.5  # standard errors that a vanishing gradient may show


def spread(r: Tensor, s: float) -> Tensor:
    return torch.sqrt((1 - r) ** 2 + (r * s) ** 2)


def growth(r: Tensor, t: Tensor, omega: float) -> Tensor:
    """Return by what the guided flow from r to t multiplies distances."""
    good = spread(t, S_GOOD) / spread(r, S_GOOD)
    return good**omega * (spread(t, S) / spread(r, S)) ** (1 - omega)


def end_of_guided_flow(z: Tensor, r: Tensor, t: Tensor, omega: float) -> Tensor:
    """Return where the guided flow from z at r is at t; the integral by Gauss-Legendre."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(12))
    s = r + (t - r) * (nodes + 1) / 2
    drift = omega * MEAN_GOOD * (1 - s) / spread(s, S_GOOD) ** 2
    shift = (t - r) / 2 * (growth(s, t, omega) * drift * weights).sum(-1, keepdim=True)
    return growth(r, t, omega) * z + shift


def guided_velocity(z: Tensor, r: Tensor, omega: float) -> Tensor:
    def rate(s: float) -> Tensor:
        return (r * s**2 - (1 - r)) / spread(r, s) ** 2

    drift = omega * MEAN_GOOD * (1 - r) / spread(r, S_GOOD) ** 2
    return drift + (omega * rate(S_GOOD) + (1 - omega) * rate(S)) * z


class Known(VelocityNet):
    """The known average velocities, and directions in which training could move them.

    Attributes:
        moves: How far it is moved in each direction, (REPEATS, 1, NUM_DIRECTIONS); 0.
    """

    def __init__(self, omega: float) -> None:
        super().__init__(REPEATS, 3, 1, ())
        self.omega = omega
        self.moves = nn.Parameter(torch.zeros(REPEATS, 1, NUM_DIRECTIONS))

    def forward(self, obs: Tensor, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        # omega = 0 is the flow to all actions.
        values = []
        for omega in (self.omega, 0.0):
            average = (end_of_guided_flow(z, r, t, omega) - z) / (t - r)
            values.append(torch.where(t > r, average, guided_velocity(z, r, omega)))
        directions = torch.cat((torch.ones_like(z), z, r, t, z * (t - r)), -1)
        known = torch.where(obs[..., 2:] > 0, values[0], values[1])
        return known + (directions * self.moves).sum(-1, keepdim=True)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def expected_gradient(known: float, *, guidance: str, omega: float) -> Tensor:
    """Return the mean gradient in units of its standard error, (NUM_DIRECTIONS,).

    Good actions count, and those without a label; of the others' flow nothing is known.

    Args:
        known: Omega of the known flow that the networks say.
        guidance: Of the loss.
        omega: Of the loss.
    """
    generator = torch.Generator().manual_seed(0)
    agents = tuple(AgentSpec.box(str(i), 1, 1) for i in range(REPEATS))
    group = AgentGroup(agents, tuple(range(REPEATS)))
    networks = VGM2PNetworks([group], lambda group: Known(known), None)
    loss = ActorLoss(
        networks=networks,
        matching=MeanFlowMatching(
            derivative="finite_difference",
            step=1e-6,
            time_table=time_table((0.0,) * 4).double(),
        ),
        omega=omega,
        guidance=guidance,
        guide_others=True,
        label_dropout=LABEL_DROPOUT,
        num_baseline_actions=1,
    )
    shape = (REPEATS, BATCH, 1)
    actions = S * torch.randn(shape, generator=generator)
    is_good = torch.rand(shape, generator=generator) < torch.exp(-((actions - B) ** 2) / (2 * W**2))
    is_dropped, counts = None, is_good
    if guidance == "label_dropout":
        is_dropped = torch.rand(shape, generator=generator) < LABEL_DROPOUT
        counts = is_good | is_dropped
    obs, zeros = torch.zeros(shape), torch.zeros(REPEATS, BATCH)
    part = GroupBatch(obs, actions, obs, zeros, zeros, alive=counts[..., 0].double())
    draws = ActorDraws(
        matching=loss.matching.draw(actions, generator),
        baseline_noise=torch.zeros(shape),
        is_dropped=is_dropped,
    )
    value = loss.matching_loss(0, part, is_good, draws)
    (gradient,) = torch.autograd.grad(value.sum(), networks.actors[0].moves)
    gradient = gradient[:, 0]
    return gradient.mean(0) / (gradient.std(0) / math.sqrt(REPEATS))


@pytest.mark.parametrize("omega", [1.0, 2.0, 3.0])
def test_label_dropout_guides_to_the_known_flow(omega):
    gradient = expected_gradient(omega, guidance="label_dropout", omega=omega)
    assert gradient.abs().max() < NOISE


def test_label_dropout_does_not_stop_at_the_good_actions():
    gradient = expected_gradient(1.0, guidance="label_dropout", omega=3.0)
    assert gradient.abs().max() > 2 * NOISE


@pytest.mark.parametrize("omega", [1.0, 3.0, 10.0])
def test_papers_guidance_leads_to_the_good_actions_whatever_omega_is(omega):
    gradient = expected_gradient(1.0, guidance="advantage", omega=omega)
    assert gradient.abs().max() < NOISE


def test_papers_guidance_does_not_lead_beyond_the_good_actions():
    gradient = expected_gradient(3.0, guidance="advantage", omega=3.0)
    assert gradient.abs().max() > 2 * NOISE


@pytest.mark.parametrize("omega", [1.0, 3.0])
def test_known_flow_follows_the_guided_velocity(omega):
    """The oracle's own oracle: the velocity in small steps (classical Runge-Kutta)."""
    z, num_steps = torch.tensor([[-1.0], [0.7]]), 200
    start, h = z, 1 / num_steps
    for step in range(num_steps):
        r = torch.full_like(z, step * h)
        k_1 = guided_velocity(z, r, omega)
        k_2 = guided_velocity(z + h / 2 * k_1, r + h / 2, omega)
        k_3 = guided_velocity(z + h / 2 * k_2, r + h / 2, omega)
        k_4 = guided_velocity(z + h * k_3, r + h, omega)
        z = z + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
    end = end_of_guided_flow(start, torch.zeros_like(z), torch.ones_like(z), omega)
    torch.testing.assert_close(end, z, rtol=1e-4, atol=1e-4)
    assert (z[1] - z[0]).item() == pytest.approx(1.7 * S_GOOD**omega * S ** (1 - omega), rel=1e-4)
