"""Held-out episodes as tensors: what a critic of the whole team is fitted on.

Knows episodes of the contract; nothing of policies, learners or RLlib.

Axes: R rows (steps and final observations), T steps, E episodes, N agents.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rllib_om2p.core.transform import CONSTANT_FEATURE_STD
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, Episode, team_rewards


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out episodes as rows; the row after a step's holds the next observation.

    Attributes:
        agents: In the dataset's order.
        obs: Each agent's raw observations, (R, O).
        masks: Legal actions of agents that have them, (R, A).
        alive: 1 where an agent is present, (R, N).
        actions: All agents' actions in [-1, 1], side by side, (R, A).
        rewards: The team's, (R,).
        steps: Number of the step in its episode, (R,).
        is_last: Whether the episode ends with this step, (R,).
        acting: The rows of steps, (T,).
        starts: The rows of first observations, (E,).
        time_limit: Steps of the longest possible episode.
    """

    agents: tuple[AgentSpec, ...]
    obs: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    alive: Tensor
    actions: Tensor
    rewards: Tensor
    steps: Tensor
    is_last: Tensor
    acting: Tensor
    starts: Tensor
    time_limit: int

    @classmethod
    def of(cls, dataset: OfflineDataset) -> HeldOut:
        """Read the episodes of a dataset, which is to be small."""
        spec, episodes = dataset.spec, list(dataset.episodes())
        lengths = np.array([len(episode) for episode in episodes])
        ends = np.cumsum(lengths + 1)
        rows, starts = int(ends[-1]), ends - lengths - 1
        steps = np.arange(rows) - np.repeat(starts, lengths + 1)
        acting = np.ones(rows, bool)
        acting[ends - 1] = False
        is_last = np.zeros(rows, bool)
        is_last[ends - 2] = True
        rewards, actions = np.zeros(rows), np.zeros((rows, sum(a.action_dim for a in spec.agents)))
        rewards[acting] = np.concatenate([team_rewards(spec, e.rewards) for e in episodes])
        actions[acting] = np.concatenate([_joint_actions(spec.agents, e) for e in episodes])
        alive = [np.stack([_present(e, a.name) for a in spec.agents], 1) for e in episodes]
        masked = [a.name for a in spec.agents if a.name in (episodes[0].action_masks or {})]
        return cls(
            agents=spec.agents,
            obs={a.name: _rows([e.obs[a.name] for e in episodes]) for a in spec.agents},
            masks={n: _rows([(e.action_masks or {})[n] for e in episodes]) for n in masked},
            alive=_rows(alive),
            actions=_rows([actions]),
            rewards=_rows([rewards]),
            steps=torch.from_numpy(steps),
            is_last=torch.from_numpy(is_last),
            acting=torch.from_numpy(np.flatnonzero(acting)),
            starts=torch.from_numpy(starts),
            time_limit=max(spec.time_limit or 0, int(lengths.max())),
        )

    @property
    def mean_length(self) -> float:
        """Mean number of steps of an episode."""
        return len(self.acting) / len(self.starts)

    @functools.cached_property
    def inputs(self) -> Tensor:
        """Return what the critic sees besides actions, (R, I): normalised observations, time."""
        joint = torch.cat([self.obs[agent.name] for agent in self.agents], 1)
        seen = joint[self.acting]
        std, mean = torch.std_mean(seen, dim=0, correction=0)
        scaled = (joint - mean) / torch.where(std < CONSTANT_FEATURE_STD, 1.0, std)
        return torch.cat([scaled, self.alive, (self.steps / self.time_limit)[:, None]], 1)

    def returns_to_go(self, gamma: float) -> Tensor:
        """Return the discounted sum of the rewards from each row to its episode's end, (R,)."""
        result, later = np.zeros(len(self.rewards)), 0.0
        rewards, is_final = self.rewards.tolist(), np.ones(len(result), bool)
        is_final[self.acting] = False
        for row in range(len(result) - 1, -1, -1):
            later = 0.0 if is_final[row] else rewards[row] + gamma * later
            result[row] = later
        return torch.from_numpy(result.astype(np.float32))


def unit_actions(agent: AgentSpec, actions: np.ndarray) -> Tensor:
    """Return an agent's actions in [-1, 1]; discrete ones are 1 where chosen and -1 elsewhere."""
    if agent.num_actions is not None:
        return torch.from_numpy(2.0 * np.eye(agent.num_actions, dtype="f4")[actions] - 1.0)
    low, high = np.asarray(agent.action_low), np.asarray(agent.action_high)
    return torch.from_numpy((2.0 * (actions - low) / (high - low) - 1.0).astype("f4"))


def _joint_actions(agents: tuple[AgentSpec, ...], episode: Episode) -> np.ndarray:
    present = {agent.name: _present(episode, agent.name)[:-1, None] for agent in agents}
    parts = [unit_actions(a, episode.actions[a.name]).numpy() * present[a.name] for a in agents]
    return np.concatenate(parts, 1)


def _present(episode: Episode, agent_id: str) -> np.ndarray:
    if episode.alive is None:
        return np.ones(len(episode) + 1)
    return episode.alive[agent_id].astype(np.float64)


def _rows(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))
