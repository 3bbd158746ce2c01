"""Values of unit magnitude, by hand."""

from __future__ import annotations

import torch

from rllib_om2p.core.critic_loss import unit_magnitude

VALUES = torch.tensor([[1.0, -3.0], [2.0, 2.0], [4.0, 0.0]])
TEAMS = ((0, 2), (1,))


def test_own_values_are_divided_by_their_own_mean_magnitude():
    expected = torch.tensor([[0.5, -1.5], [1.0, 1.0], [2.0, 0.0]])
    torch.testing.assert_close(unit_magnitude(VALUES, "own", TEAMS), expected)


def test_team_values_are_divided_by_an_equal_share_of_the_sums():
    """Sums (5, -3) and (2, 2): mean magnitudes 4 and 2, shares 2 and 2."""
    torch.testing.assert_close(unit_magnitude(VALUES, "vdn", TEAMS), VALUES / 2)


def test_absent_agents_have_no_part_in_the_magnitude():
    """Agent 0 is absent at first: own magnitude 3; sums (4, -3) of mean magnitude 3.5."""
    alive = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    own = unit_magnitude(VALUES, "own", TEAMS, alive)
    torch.testing.assert_close(own, VALUES / torch.tensor([[3.0], [2.0], [2.0]]))
    team = unit_magnitude(VALUES, "vdn", TEAMS, alive)
    torch.testing.assert_close(team, VALUES / torch.tensor([[1.75], [2.0], [1.75]]))


def test_a_team_that_is_absent_as_a_whole_counts_where_it_is_present():
    """Agents 0 and 2 are there in the second transition only: |-3 + 0| / 2."""
    alive = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    team = unit_magnitude(VALUES, "vdn", TEAMS, alive)
    torch.testing.assert_close(team[[0, 2]], VALUES[[0, 2]] / 1.5)


def test_values_of_zero_stay_zero_and_the_divisor_has_no_gradient():
    zeros = torch.zeros(1, 4, requires_grad=True)
    assert not unit_magnitude(zeros, "own", ((0,),)).any()
    values = torch.tensor([[2.0, -2.0]], requires_grad=True)
    unit_magnitude(values, "own", ((0,),)).sum().backward()
    torch.testing.assert_close(values.grad, torch.full((1, 2), 0.5))
