"""From the dataset's packed rows to the rows of the table; fitted on the whole dataset.

Knows columns, not losses or RLlib. Everything that depends on the data alone happens here, once,
when rows enter the table, not per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rllib_om2p.core.agent_groups import RowLayout, Team
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.statistics import MomentsAccumulator
from rllib_om2p.team_return import TeamReturn, team_reward

# A feature whose standard deviation is below this is a constant: it is centred, not scaled.
CONSTANT_FEATURE_STD = 1e-6


@dataclass(frozen=True)
class RowTransform:
    """Turns packed rows of the dataset into rows of the table.

    Attributes:
        layout: The order of the columns.
        obs_mean, obs_std: Observation normalisation, (obs_width,).
        action_low, action_high: The action boxes, (action_width,).
        reward_mean, reward_std: Per agent in the layout's order, (N,).
        team_reward_mean, team_reward_std: Per team, (M,).
        bootstrap_at_truncation: False counts a time limit as the end of the episode.
    """

    layout: RowLayout
    obs_mean: np.ndarray
    obs_std: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    reward_mean: np.ndarray
    reward_std: np.ndarray
    team_reward_mean: np.ndarray
    team_reward_std: np.ndarray
    bootstrap_at_truncation: bool = True

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return (R, layout.width) float32 rows from packed (R, C) rows of whole episodes.

        Packed rows have the table's sections up to the agents' terminateds, then `truncated`.

        Args:
            rows: Episode after episode.
        """
        layout, at = self.layout, self.layout.sections
        out = np.empty((len(rows), layout.width), np.float32)
        out[:, at["obs"]] = (rows[:, at["obs"]] - self.obs_mean) / self.obs_std
        for section in ("action_mask", "alive"):
            out[:, at[section]] = rows[:, at[section]]
        span = self.action_high - self.action_low
        out[:, at["action"]] = 2.0 * (rows[:, at["action"]] - self.action_low) / span - 1.0
        rewards = rows[:, at["reward"]]
        out[:, at["reward"]] = (rewards - self.reward_mean) / self.reward_std
        team = team_rewards(rewards, layout.teams, layout.spec.team_return)
        out[:, at["team_reward"]] = (team - self.team_reward_mean) / self.team_reward_std
        terminateds = rows[:, at["terminated"]] > 0
        if not self.bootstrap_at_truncation:
            terminateds = terminateds | (rows[:, -1:] > 0)
            if self.layout.spec.has_alive:  # an agent may be cut off before the others
                alive = rows[:, at["alive"]] > 0
                terminateds[:-1] |= alive[:-1] & ~alive[1:]
        out[:, at["terminated"]] = terminateds
        return out


def team_rewards(rewards: np.ndarray, teams: Sequence[Team], convention: TeamReturn) -> np.ndarray:
    """Return each team's reward, (R, M), from the agents' rewards (R, N) in the layout's order."""
    columns = [team_reward(rewards[:, list(team.agents)], convention, axis=1) for team in teams]
    return np.stack(columns, axis=1)


def fit_transform(
    layout: RowLayout,
    dataset: OfflineDataset,
    *,
    normalize_observations: bool,
    standardize_rewards: bool,
    bootstrap_at_truncation: bool,
) -> RowTransform:
    """Return the transform whose constants are fitted on the whole dataset, equal on all learners.

    Rewards are centred only where no episode ends for good and no agent leaves. What comes after an
    end is worth 0; were 0 the mean reward, ending would be worth as much as earning that for ever,
    and a walker would do well to fall.

    Args:
        layout: The order of the columns.
        dataset: Whose statistics count.
        normalize_observations: Centre and scale observations; otherwise they stay as they are.
        standardize_rewards: Scale rewards and, where that changes no aim, centre them, per agent
            and per team.
        bootstrap_at_truncation: See RowTransform.
    """
    agents, num_teams = layout.agents, len(layout.teams)
    statistics = dataset.statistics()
    obs_mean, obs_std = np.zeros(layout.obs_width), np.ones(layout.obs_width)
    if normalize_observations:
        obs_mean = np.concatenate([statistics.obs[a.name].mean for a in agents])
        obs_std = _scale(np.concatenate([statistics.obs[a.name].std for a in agents]))
    reward_mean, reward_std = np.zeros(len(agents)), np.ones(len(agents))
    team_mean, team_std = np.zeros(num_teams), np.ones(num_teams)
    if standardize_rewards:
        reward_mean = np.concatenate([statistics.rewards[a.name].mean for a in agents])
        reward_std = _scale(np.concatenate([statistics.rewards[a.name].std for a in agents]))
        if num_teams == 1:
            team_mean, team_std = statistics.team_reward.mean, statistics.team_reward.std
        else:
            team_mean, team_std = _team_moments(layout, dataset)
        team_std = _scale(team_std)
        if not bootstrap_at_truncation or _has_ends(dataset):
            reward_mean, team_mean = np.zeros_like(reward_mean), np.zeros_like(team_mean)
    return RowTransform(
        layout=layout,
        obs_mean=obs_mean.astype(np.float32),
        obs_std=obs_std.astype(np.float32),
        action_low=np.concatenate([np.asarray(a.action_low, np.float32) for a in agents]),
        action_high=np.concatenate([np.asarray(a.action_high, np.float32) for a in agents]),
        reward_mean=reward_mean.astype(np.float32),
        reward_std=reward_std.astype(np.float32),
        team_reward_mean=team_mean.astype(np.float32),
        team_reward_std=team_std.astype(np.float32),
        bootstrap_at_truncation=bootstrap_at_truncation,
    )


def _scale(std: np.ndarray) -> np.ndarray:
    return np.where(std < CONSTANT_FEATURE_STD, 1.0, std)


def _has_ends(dataset: OfflineDataset) -> bool:
    if dataset.spec.has_alive:
        return True
    names = [f"terminated_{agent.name}" for agent in dataset.spec.agents]
    return dataset.is_ever_true(names)


def _team_moments(layout: RowLayout, dataset: OfflineDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each team's reward, (M,); the card knows all agents' only."""
    moments = MomentsAccumulator(len(layout.teams))
    names = [f"reward_{agent.name}" for agent in layout.agents]
    for block in dataset.blocks(names, use_ray=False):
        rewards = block.rows[block.valid]
        moments.add(team_rewards(rewards, layout.teams, layout.spec.team_return))
    result = moments.result()
    return result.mean, result.std


def observation_constants(
    transform: RowTransform, group_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the normalisation (mean, std) of one group's agents, each (G, O)."""
    groups = transform.layout.groups
    start = sum(len(group) * group.obs_dim for group in groups[:group_index])
    group = groups[group_index]
    end = start + len(group) * group.obs_dim
    shape = (len(group), group.obs_dim)
    return (
        torch.from_numpy(transform.obs_mean[start:end].reshape(shape).copy()),
        torch.from_numpy(transform.obs_std[start:end].reshape(shape).copy()),
    )
