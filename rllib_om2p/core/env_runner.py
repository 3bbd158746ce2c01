"""The env runner of evaluations: RLlib's own, which also knows what a team returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.utils.annotations import override

from rllib_om2p.data.schema import team_rewards

if TYPE_CHECKING:
    from collections.abc import Collection

    from rllib_om2p.data.schema import DatasetSpec

TEAM_RETURN_MEAN = "team_return_mean"
_OF_TEAM = f"{TEAM_RETURN_MEAN}/"
# Sums, since RLlib's mean over env runners counts each runner once, however much it played.
_SUM, _NUM_EPISODES = "team_return_sum", "num_team_episodes"


class TeamEnvRunner(MultiAgentEnvRunner):  # type: ignore[misc]
    """Logs the team's return of every episode by the dataset's convention."""

    @override(MultiAgentEnvRunner)
    def _log_episode_metrics(
        self,
        length: int,
        ret: float,
        sec: float,
        agents: Mapping[str, float] | None = None,
        modules: Mapping[str, float] | None = None,
        agent_steps: Mapping[str, int] | None = None,
    ) -> None:
        """Log what RLlib logs, and the teams' returns.

        Not of RLlib's means over agents: each is over the episodes in which the agent appeared.
        """
        super()._log_episode_metrics(length, ret, sec, agents, modules, agent_steps)
        spec, teams = self.config.dataset_spec, self.config.teams or {}
        named: dict[str, Collection[str] | None] = {TEAM_RETURN_MEAN: None}
        named |= {f"{_OF_TEAM}{team}": members for team, members in teams.items()}
        for name, members in named.items():
            value = episode_team_return(spec, agents or {}, members)
            self.metrics.log_value((_SUM, name), value, reduce="sum")
        self.metrics.log_value(_NUM_EPISODES, 1, reduce="sum")


def episode_team_return(
    spec: DatasetSpec, returns: Mapping[str, float], members: Collection[str] | None = None
) -> float:
    """Return the team's return of one episode, in which an agent that never came earned nothing.

    Args:
        spec: Names the agents and the convention.
        returns: Of the agents that were there.
        members: The agents of the team; all if None.
    """
    complete = {agent: np.array(returns.get(agent, 0.0)) for agent in spec.agent_ids}
    return float(team_rewards(spec, complete, members))


def teams_returns(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean returns over episodes by their names in results, of all env runners."""
    # NaN where no episode ended since the evaluation before.
    count = float(results.get(_NUM_EPISODES, 0))
    if not count > 0:
        return {}
    return {name: float(total) / count for name, total in results.get(_SUM, {}).items()}


def returns_by_team(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean returns of the config's `teams` by team, out of an evaluation's results."""
    return {
        name.removeprefix(_OF_TEAM): value
        for name, value in results.items()
        if name.startswith(_OF_TEAM)
    }
