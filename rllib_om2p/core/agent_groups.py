"""Agents of equal shape as one stack: which columns become which (group, batch) tensors.

Knows nothing of losses or of RLlib. Agents with equal observation and action sizes form a group, in
the order of the dataset; each group's tensors are (G, B, feature) views of the sampled rows.

Everything that depends on the data alone happens once, when rows enter the table, not per batch:
observations are normalised, actions are mapped to [-1, 1], rewards are standardised, and the team's
reward and termination are computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rllib_om2p.data.schema import AgentSpec, DatasetSpec
from rllib_om2p.data.statistics import DatasetStatistics

# A feature whose standard deviation is below this is a constant: it is centred, not scaled.
CONSTANT_FEATURE_STD = 1e-6


@dataclass(frozen=True)
class AgentGroup:
    """Agents that share one stack of parameters.

    Attributes:
        agents: Their specs, in the dataset's order.
        positions: Their positions in the dataset's list of agents.
    """

    agents: tuple[AgentSpec, ...]
    positions: tuple[int, ...]

    @property
    def agent_ids(self) -> tuple[str, ...]:
        """The ids of the agents, in the order of the stack."""
        return tuple(agent.name for agent in self.agents)

    @property
    def obs_dim(self) -> int:
        """Observation size of each agent of the group."""
        return self.agents[0].obs_dim

    @property
    def action_dim(self) -> int:
        """Action size of each agent of the group (number of actions when discrete)."""
        return self.agents[0].action_dim

    def __len__(self) -> int:
        """The number of agents in the group."""
        return len(self.agents)


def make_groups(spec: DatasetSpec) -> tuple[AgentGroup, ...]:
    """Return the groups of a dataset's agents, ordered by their first agent."""
    members: dict[tuple[int, int], list[int]] = {}
    for position, agent in enumerate(spec.agents):
        members.setdefault((agent.obs_dim, agent.action_dim), []).append(position)
    return tuple(
        AgentGroup(tuple(spec.agents[p] for p in positions), tuple(positions))
        for positions in members.values()
    )


class GroupBatch(NamedTuple):
    """One group's part of a batch; G agents, B transitions.

    Attributes:
        obs: Normalised observations, (G, B, O).
        actions: Actions in [-1, 1], (G, B, A).
        next_obs: Normalised next observations, (G, B, O).
        rewards: Each agent's own reward, standardised if the config says so, (G, B).
        terminateds: 1 where the agent's episode ended for good, (G, B).
    """

    obs: Tensor
    actions: Tensor
    next_obs: Tensor
    rewards: Tensor
    terminateds: Tensor


class JointBatch(NamedTuple):
    """A batch of joint transitions.

    Attributes:
        groups: One entry per group.
        team_rewards: The team's reward by the dataset's convention, standardised likewise, (B,).
        team_terminateds: 1 where the episode ended for good for every agent, (B,).
    """

    groups: tuple[GroupBatch, ...]
    team_rewards: Tensor
    team_terminateds: Tensor


@dataclass(frozen=True)
class RowLayout:
    """Where each quantity of a joint transition stands in a row of the table.

    The table's row is: observations of all groups | actions of all groups | rewards | terminateds |
    team reward | team terminated, each ordered by group.

    Attributes:
        spec: The dataset's description.
        groups: Its groups.
        columns: The dataset's columns in the order in which the reader must pack them.
    """

    spec: DatasetSpec
    groups: tuple[AgentGroup, ...]
    columns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Derive the order of the columns."""
        names = [agent.name for group in self.groups for agent in group.agents]
        kinds = ("obs", "action", "reward", "terminated")
        columns = [f"{kind}_{name}" for kind in kinds for name in names]
        object.__setattr__(self, "columns", (*columns, "truncated"))

    @property
    def num_agents(self) -> int:
        """The number of agents."""
        return sum(len(group) for group in self.groups)

    @property
    def obs_width(self) -> int:
        """The number of leading columns that hold observations."""
        return sum(len(group) * group.obs_dim for group in self.groups)

    @property
    def action_width(self) -> int:
        """The number of columns that hold actions."""
        return sum(len(group) * group.action_dim for group in self.groups)

    @property
    def width(self) -> int:
        """The number of float32 columns of the table."""
        return self.obs_width + self.action_width + 2 * self.num_agents + 2

    def view(self, rows: Tensor, next_obs: Tensor) -> JointBatch:
        """Return the batch that sampled rows mean, as views without copies.

        Args:
            rows: Rows of the table, (B, width).
            next_obs: The observation columns of the rows that follow, (B, obs_width).
        """
        batch_size = rows.shape[0]
        obs_start, action_start = 0, self.obs_width
        reward_start = action_start + self.action_width
        terminated_start = reward_start + self.num_agents
        groups = []
        for group in self.groups:
            size = len(group)
            obs_end = obs_start + size * group.obs_dim
            action_end = action_start + size * group.action_dim
            groups.append(
                GroupBatch(
                    obs=rows[:, obs_start:obs_end].view(batch_size, size, -1).transpose(0, 1),
                    actions=rows[:, action_start:action_end]
                    .view(batch_size, size, -1)
                    .transpose(0, 1),
                    next_obs=next_obs[:, obs_start:obs_end]
                    .view(batch_size, size, -1)
                    .transpose(0, 1),
                    rewards=rows[:, reward_start : reward_start + size].T,
                    terminateds=rows[:, terminated_start : terminated_start + size].T,
                )
            )
            obs_start, action_start = obs_end, action_end
            reward_start += size
            terminated_start += size
        return JointBatch(tuple(groups), rows[:, -2], rows[:, -1])


@dataclass(frozen=True)
class RowTransform:
    """Turns packed rows of the dataset into rows of the table.

    Attributes:
        layout: The order of the columns.
        obs_mean, obs_std: Observation normalisation, (obs_width,).
        action_low, action_high: The action boxes, (action_width,).
        reward_mean, reward_std: Per agent in the layout's order, then the team's, (N + 1,).
        bootstrap_at_truncation: False counts a time limit as the end of the episode.
    """

    layout: RowLayout
    obs_mean: np.ndarray
    obs_std: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    reward_mean: np.ndarray
    reward_std: np.ndarray
    bootstrap_at_truncation: bool = True

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return (R, layout.width) float32 rows from packed (R, C) rows."""
        layout, num_agents = self.layout, self.layout.num_agents
        action_start = layout.obs_width
        reward_start = action_start + layout.action_width
        terminated_start = reward_start + num_agents
        out = np.empty((len(rows), layout.width), np.float32)
        out[:, :action_start] = (rows[:, :action_start] - self.obs_mean) / self.obs_std
        out[:, action_start:reward_start] = (
            2.0 * (rows[:, action_start:reward_start] - self.action_low)
        ) / (self.action_high - self.action_low) - 1.0
        rewards = rows[:, reward_start:terminated_start]
        team = team_reward(layout, rewards)
        out[:, reward_start:terminated_start] = (rewards - self.reward_mean[:-1]) / self.reward_std[
            :-1
        ]
        out[:, -2] = (team - self.reward_mean[-1]) / self.reward_std[-1]
        terminateds = rows[:, terminated_start : terminated_start + num_agents] > 0
        if not self.bootstrap_at_truncation:
            terminateds = terminateds | (rows[:, -1:] > 0)
        out[:, terminated_start : terminated_start + num_agents] = terminateds
        out[:, -1] = terminateds.all(1)
        return out


def team_reward(layout: RowLayout, rewards: np.ndarray) -> np.ndarray:
    """Return the team's reward, (R,), from the agents' rewards (R, N) in the layout's order."""
    convention = layout.spec.team_return
    if convention == "mean over agents":
        return rewards.mean(1)
    if convention == "sum":
        return rewards.sum(1)
    first = [position for group in layout.groups for position in group.positions].index(0)
    return rewards[:, first]


def fit_transform(
    layout: RowLayout,
    statistics: DatasetStatistics,
    *,
    normalize_observations: bool,
    standardize_rewards: bool,
    bootstrap_at_truncation: bool,
) -> RowTransform:
    """Return the transform whose constants are fitted on the whole dataset, equal on all learners.

    Args:
        layout: The order of the columns.
        statistics: Means and standard deviations over all transitions of the dataset.
        normalize_observations: Centre and scale observations; otherwise they stay as they are.
        standardize_rewards: Centre and scale rewards, per agent and for the team.
        bootstrap_at_truncation: See RowTransform.
    """
    agents = [agent for group in layout.groups for agent in group.agents]
    obs_mean, obs_std = np.zeros(layout.obs_width), np.ones(layout.obs_width)
    if normalize_observations:
        obs_mean = np.concatenate([statistics.obs[a.name].mean for a in agents])
        obs_std = np.concatenate([statistics.obs[a.name].std for a in agents])
        obs_std = np.where(obs_std < CONSTANT_FEATURE_STD, 1.0, obs_std)
    reward_mean, reward_std = np.zeros(len(agents) + 1), np.ones(len(agents) + 1)
    if standardize_rewards:
        moments = [*(statistics.rewards[a.name] for a in agents), statistics.team_reward]
        reward_mean = np.concatenate([m.mean for m in moments])
        reward_std = np.concatenate([m.std for m in moments])
        reward_std = np.where(reward_std < CONSTANT_FEATURE_STD, 1.0, reward_std)
    return RowTransform(
        layout=layout,
        obs_mean=obs_mean.astype(np.float32),
        obs_std=obs_std.astype(np.float32),
        action_low=np.concatenate([np.asarray(a.action_low, np.float32) for a in agents]),
        action_high=np.concatenate([np.asarray(a.action_high, np.float32) for a in agents]),
        reward_mean=reward_mean.astype(np.float32),
        reward_std=reward_std.astype(np.float32),
        bootstrap_at_truncation=bootstrap_at_truncation,
    )


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
