"""Critic ensembles against plain modules; value decomposition by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from rllib_om2p.nets.critics import CriticEnsemble, values_of_candidates
from rllib_om2p.nets.mixers import mean, vdn
from rllib_om2p.nets.sharing import SharedNet
from tests.benchmarks.per_agent import plain_mlp
from tests.benchmarks.stacked import load_slices


@pytest.mark.parametrize("num_critics", [1, 2, 3])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_member_k_of_agent_g_is_slice_k_times_agents_plus_g(
    num_critics: int, layer_norm: bool
) -> None:
    num_agents = 4
    ensemble = CriticEnsemble(num_agents, num_critics, 5, 2, (16, 16), layer_norm=layer_norm)
    nets = [
        plain_mlp(7, (16, 16), 1, layer_norm=layer_norm) for _ in range(num_critics * num_agents)
    ]
    load_slices(ensemble.mlp, nets)
    obs, actions = torch.randn(num_agents, 9, 5), torch.randn(num_agents, 9, 2)
    q = ensemble(obs, actions)
    assert q.shape == (num_critics, num_agents, 9)
    for k in range(num_critics):
        for g in range(num_agents):
            pair = torch.cat((obs[g], actions[g]), -1)
            expected = nets[k * num_agents + g](pair)[:, 0]
            torch.testing.assert_close(q[k, g], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_first_members_alone_have_the_values_that_they_have_among_all(layer_norm: bool) -> None:
    ensemble = CriticEnsemble(2, 3, 5, 2, (16, 16), layer_norm=layer_norm)
    for parameter in ensemble.parameters():
        torch.nn.init.normal_(parameter)
    obs, actions = torch.randn(2, 9, 5), torch.randn(2, 9, 2)
    q = ensemble(obs, actions)
    for members in (1, 2):
        torch.testing.assert_close(ensemble(obs, actions, members=members), q[:members])


def test_candidates_are_valued_at_their_own_observation() -> None:
    ensemble = CriticEnsemble(2, 2, 5, 3, (16,))
    obs, candidates = torch.randn(2, 9, 5), torch.randn(2, 9, 4, 3)
    q = values_of_candidates(ensemble, obs, candidates)
    assert q.shape == (2, 2, 9, 4)
    for m in range(4):
        torch.testing.assert_close(q[..., m], ensemble(obs, candidates[:, :, m]))
    first = values_of_candidates(partial(ensemble, members=1), obs, candidates)
    torch.testing.assert_close(first, q[:1])


def test_candidates_of_agents_that_share_their_critics_keep_their_own_identity() -> None:
    shared = SharedNet(CriticEnsemble(1, 2, 5 + 2, 3, (16,)), torch.eye(2), stack_axis=1)
    obs, candidates = torch.randn(2, 9, 5), torch.randn(2, 9, 4, 3)
    q = values_of_candidates(shared, obs, candidates)
    assert q.shape == (2, 2, 9, 4)
    for m in range(4):
        torch.testing.assert_close(q[..., m], shared(obs, candidates[:, :, m]))


def test_frozen_critics_still_pass_the_gradient_to_the_actions() -> None:
    ensemble = CriticEnsemble(2, 2, 5, 2, (16,)).requires_grad_(False)
    actions = torch.randn(2, 9, 2, requires_grad=True)
    ensemble(torch.randn(2, 9, 5), actions).sum().backward()
    assert actions.grad is not None
    assert bool(actions.grad.any())


def test_inputs_of_another_shape_are_refused() -> None:
    ensemble = CriticEnsemble(3, 2, 5, 2, (8,))
    with pytest.raises(ValueError, match=r"obs must be \(3, batch, 5\), got \(9, 5\)"):
        ensemble(torch.zeros(9, 5), torch.zeros(3, 9, 2))
    with pytest.raises(ValueError, match=r"actions must be \(3, batch, 2\), got \(1, 9, 2\)"):
        ensemble(torch.zeros(3, 9, 5), torch.zeros(1, 9, 2))


def test_vdn_sums_all_agents_of_all_groups_by_hand() -> None:
    first = torch.tensor([[[1.0, 2.0], [10.0, 20.0]], [[3.0, 4.0], [30.0, 40.0]]])
    second = torch.tensor([[[100.0, 200.0]], [[300.0, 400.0]]])
    assert vdn([first], [[0, 1]]).tolist() == [[[11.0, 22.0]], [[33.0, 44.0]]]
    both = vdn([first, second], [[0, 1, 2]])
    assert both.tolist() == [[[111.0, 222.0]], [[333.0, 444.0]]]
    teams = vdn([first, second], [[2, 0], [1]])
    assert teams.tolist() == [
        [[101.0, 202.0], [10.0, 20.0]],
        [[303.0, 404.0], [30.0, 40.0]],
    ]


def test_mean_over_each_teams_agents_by_hand() -> None:
    first = torch.tensor([[[1.0, 2.0], [10.0, 20.0]]])
    second = torch.tensor([[[100.0, 200.0]]])
    teams = mean([first, second], [[2, 0], [1]])
    assert teams.tolist() == [[[50.5, 101.0], [10.0, 20.0]]]


def test_vdn_gives_every_agent_the_team_gradient() -> None:
    groups = [torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 1, 4, requires_grad=True)]
    weight = torch.randn(2, 1, 4)
    (vdn(groups, [[0, 1, 2, 3]]) * weight).sum().backward()
    for group in groups:
        torch.testing.assert_close(group.grad, weight.expand_as(group))


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 3, 1), (2, 4)])
def test_vdn_of_groups_that_would_broadcast_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"every group must be \(num_critics, agents, batch\)"):
        vdn([torch.zeros(2, 3, 4), torch.zeros(shape)], [[0]])


def test_vdn_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got \[\]"):
        vdn([], [])
