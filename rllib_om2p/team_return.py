"""How the rewards of agents form their team's: the one place that knows the conventions.

Knows arrays only; every layer above may use it.
"""

from __future__ import annotations

from typing import Any, Literal, assert_never, get_args

import numpy as np
from numpy.typing import NDArray

TeamReturn = Literal["mean over agents", "agent 0", "sum"]
TEAM_RETURNS: tuple[TeamReturn, ...] = get_args(TeamReturn)


def team_reward(rewards: NDArray[Any], convention: TeamReturn, *, axis: int) -> NDArray[Any]:
    """Return a team's rewards, or returns, from its agents'.

    Args:
        rewards: With one axis of the team's agents, in the dataset's order.
        convention: "mean over agents", "agent 0" where all agents get the team's reward, or "sum".
        axis: That of the agents, which goes.
    """
    if convention == "mean over agents":
        return np.asarray(rewards.mean(axis=axis))
    if convention == "agent 0":
        return np.asarray(rewards.take(0, axis=axis))
    if convention == "sum":
        return np.asarray(rewards.sum(axis=axis))
    assert_never(convention)
