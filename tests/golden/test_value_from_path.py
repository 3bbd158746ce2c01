"""A bandit with two modes and a critic that is known: what a value costs the matching loss.

Actions are -0.4 or 0.2 with noise 0.1, and the critic is the action itself, so that the value of a
policy is its mean action: -0.1 for the data. Where the value moves only the jump from noise to
action (OM2P eq. 6), the network bends at that one corner, and its targets, which hold du/dr there,
move away with it: the matching loss multiplies and next to nothing is won. Where the value moves
all jumps to the action, the same weight wins what the loss of the data costs. Five networks with
independent weights and data are trained side by side as five agents.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rllib_om2p.algorithms.om2p import OM2PConfig
from rllib_om2p.algorithms.om2p.losses import ActorLoss, ValueFrom
from rllib_om2p.core.agent_groups import AgentGroup, GroupBatch, JointBatch
from rllib_om2p.core.matching import MeanFlowMatching
from rllib_om2p.data.schema import AgentSpec
from rllib_om2p.ops.times import time_table

NUM_SEEDS = 5
NUM_UPDATES = 1500
ETA = 0.3


class Identity(nn.Module):
    """A critic whose value of an action is the action."""

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        return actions.sum(-1)[None]


def make_batch(size: int, generator: torch.Generator) -> JointBatch:
    shape = (NUM_SEEDS, size, 1)
    mode = torch.where(torch.rand(shape, generator=generator) < 0.5, -0.4, 0.2)
    actions = mode + 0.1 * torch.randn(shape, generator=generator)
    obs, flat = torch.zeros(shape), torch.zeros(shape[:2])
    group = GroupBatch(obs, actions, obs, flat, flat)
    return JointBatch((group,), torch.zeros(1), torch.zeros(1))


def train(eta: float, value_from: ValueFrom) -> tuple[Tensor, Tensor]:
    """Return each network's matching loss and mean one-step action, both (NUM_SEEDS,)."""
    generator = torch.Generator().manual_seed(0)
    specs = tuple(AgentSpec(f"a{i}", 1, 1, (-1.0,), (1.0,)) for i in range(NUM_SEEDS))
    config = OM2PConfig().training(actor_hidden=(32, 32), eta=0.0)
    networks = config.build_networks([AgentGroup(specs, tuple(range(NUM_SEEDS)))], generator)
    networks.critics = nn.ModuleList([Identity()])
    matching = MeanFlowMatching(derivative="tangent", time_table=time_table(config.xi))
    loss = ActorLoss(
        networks=networks,
        eta=eta,
        bc_weight=1.0,
        normalize_q=False,
        critic="own",
        teams=[range(NUM_SEEDS)],
        matching=matching,
        value_from=value_from,
    )
    optimizer = torch.optim.Adam(networks.actors.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, NUM_UPDATES)
    for _ in range(NUM_UPDATES):
        batch = make_batch(256, generator)
        optimizer.zero_grad()
        loss(batch, loss.draw(batch, generator))[0].sum().backward()
        optimizer.step()
        schedule.step()
    batch = make_batch(8192, generator)
    noise = torch.randn(batch.groups[0].actions.shape, generator=generator)
    with torch.no_grad():
        _, metrics = loss(batch, loss.draw(batch, generator))
        actions = networks.propose(0, batch.groups[0].obs, noise)
    return metrics["bc_loss"], actions.mean(dim=(1, 2))


@pytest.fixture(scope="module")
def clones() -> tuple[Tensor, Tensor]:
    return train(0.0, "noise")


def test_cloning_alone_has_the_value_of_the_data(clones):
    losses, values = clones
    assert (losses < 0.2).all()
    assert (values + 0.1).abs().max() < 0.05


def test_a_value_of_one_jump_breaks_the_matching_loss_and_wins_little(clones):
    losses, values = train(ETA, "noise")
    assert (losses > 3 * clones[0]).all()
    assert (values - clones[1]).max() < 0.15


def test_a_value_of_all_jumps_wins_what_the_matching_loss_pays_for(clones):
    losses, values = train(ETA, "path")
    assert (losses < 2 * clones[0]).all()
    assert (values - clones[1]).min() > 0.25
