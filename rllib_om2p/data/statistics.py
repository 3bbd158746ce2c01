"""Statistics of a dataset, gathered row group by row group in one pass.

Knows NumPy and the contract. The writer and the reader feed the same row groups in the same
order, so the statistics in a dataset card equal those of a fresh pass to the last bit.

Observations and rewards of an agent count on the acting rows in which it is alive: final rows and
rows without it are never learned from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rllib_om2p.data.schema import AnyArray, BoolArray, DatasetSpec, team_rewards

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

FloatArray = npt.NDArray[np.float64]


def plain(value: Any) -> Any:
    """Return nested dictionaries of arrays as JSON takes them; floats keep all their digits."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (population), extremes and quantiles of a sample."""

    mean: float
    std: float
    min: float
    max: float
    quantiles: dict[str, float]

    @classmethod
    def of(cls, sample: AnyArray) -> Summary:
        """Summarise a non-empty one-dimensional sample."""
        sample = np.asarray(sample, np.float64)
        values = np.quantile(sample, QUANTILES)
        return cls(
            mean=float(sample.mean()),
            std=float(sample.std()),
            min=float(sample.min()),
            max=float(sample.max()),
            quantiles={f"{q:g}": float(v) for q, v in zip(QUANTILES, values, strict=True)},
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean, standard deviation (population), minimum and maximum per feature, each (F,)."""

    mean: FloatArray
    std: FloatArray
    min: FloatArray
    max: FloatArray


@dataclass(frozen=True, eq=False)
class DatasetStatistics:
    """What is known of a dataset without reading it again.

    Args:
        num_episodes: Episodes.
        num_transitions: Acting rows (joint steps).
        obs: Per agent the moments of its observation features, where it is alive.
        rewards: Per agent the moments of its reward, where it is alive, features of length 1.
        team_reward: Moments of the team's reward per step, features of length 1.
        state: Moments of the global state, None if there is none.
        team_return: The team's undiscounted return per episode.
        agent_returns: Per agent its undiscounted return per episode.
        episode_length: Acting steps per episode.
    """

    num_episodes: int
    num_transitions: int
    obs: dict[str, Moments]
    rewards: dict[str, Moments]
    team_reward: Moments
    state: Moments | None
    team_return: Summary
    agent_returns: dict[str, Summary]
    episode_length: Summary

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; floats keep all their digits."""
        return dict(plain(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetStatistics:
        """Rebuild from `to_dict`."""

        def moments(value: Mapping[str, Any]) -> Moments:
            return Moments(**{key: np.array(item, np.float64) for key, item in value.items()})

        return cls(
            num_episodes=values["num_episodes"],
            num_transitions=values["num_transitions"],
            obs={name: moments(value) for name, value in values["obs"].items()},
            rewards={name: moments(value) for name, value in values["rewards"].items()},
            team_reward=moments(values["team_reward"]),
            state=None if values["state"] is None else moments(values["state"]),
            team_return=Summary(**values["team_return"]),
            agent_returns={n: Summary(**value) for n, value in values["agent_returns"].items()},
            episode_length=Summary(**values["episode_length"]),
        )


class MomentsAccumulator:
    """Streaming mean and variance per feature, merged chunk by chunk.

    Source: Chan, Golub, LeVeque (1983), "Algorithms for computing the sample variance".
    """

    def __init__(self, width: int) -> None:
        self._count = 0
        self._mean = np.zeros(width)
        self._squares = np.zeros(width)
        self._min = np.full(width, np.inf)
        self._max = np.full(width, -np.inf)

    def add(self, chunk: AnyArray) -> None:
        """Merge a chunk of rows, (R, F) or (R,)."""
        rows = len(chunk)
        if rows == 0:
            return
        chunk = np.asarray(chunk).reshape(rows, -1)
        mean = chunk.mean(axis=0, dtype=np.float64)
        centred = chunk - mean
        squares = np.einsum("rf,rf->f", centred, centred)
        total = self._count + rows
        delta = mean - self._mean
        self._mean = self._mean + delta * (rows / total)
        self._squares = self._squares + squares + delta**2 * (self._count * rows / total)
        self._count = total
        self._min = np.minimum(self._min, chunk.min(axis=0))
        self._max = np.maximum(self._max, chunk.max(axis=0))

    def result(self) -> Moments:
        """Return the moments of all rows so far, zeros if there was none."""
        if self._count == 0:
            nothing = np.zeros_like(self._mean)
            return Moments(nothing, nothing, nothing, nothing)
        std = np.sqrt(self._squares / self._count)
        return Moments(self._mean, std, self._min, self._max)


class StatisticsAccumulator:
    """Gathers `DatasetStatistics` from row groups of whole episodes."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec = spec
        self._obs = {agent.name: MomentsAccumulator(agent.obs_dim) for agent in spec.agents}
        self._rewards = {name: MomentsAccumulator(1) for name in spec.agent_ids}
        self._team = MomentsAccumulator(1)
        self._state = MomentsAccumulator(spec.state_dim) if spec.state_dim is not None else None
        self._returns: dict[str, list[FloatArray]] = {name: [] for name in spec.agent_ids}
        self._lengths: list[npt.NDArray[np.int64]] = []

    @staticmethod
    def columns(spec: DatasetSpec) -> list[str]:
        """Return the names of the columns that `add` needs."""
        kinds = ("obs", "reward", "alive") if spec.has_alive else ("obs", "reward")
        names = [f"{kind}_{name}" for name in spec.agent_ids for kind in kinds]
        return names + (["state"] if spec.state_dim is not None else [])

    def add(self, values: Mapping[str, AnyArray], valid: BoolArray) -> None:
        """Merge a row group.

        Args:
            values: Decoded columns by name, (R, width) or (R,).
            valid: False on final rows, which end each episode, (R,).
        """
        ends = np.flatnonzero(~valid)
        starts = np.append(0, ends[:-1] + 1)
        self._lengths.append(ends - starts)
        rewards = {}
        for name in self._spec.agent_ids:
            present = valid & values[f"alive_{name}"] if self._spec.has_alive else valid
            self._obs[name].add(values[f"obs_{name}"][present])
            reward = values[f"reward_{name}"].reshape(-1)
            # Final rows hold a reward of zero, so an episode's sum may include them.
            self._returns[name].append(np.add.reduceat(reward, starts, dtype=np.float64))
            rewards[name] = reward[valid]
            self._rewards[name].add(reward[present])
        self._team.add(team_rewards(self._spec, rewards))
        if self._state is not None:
            self._state.add(values["state"][valid])

    def result(self) -> DatasetStatistics:
        """Return the statistics of all row groups so far (at least one)."""
        lengths = np.concatenate(self._lengths)
        returns = {name: np.concatenate(parts) for name, parts in self._returns.items()}
        return DatasetStatistics(
            num_episodes=len(lengths),
            num_transitions=int(lengths.sum()),
            obs={name: moments.result() for name, moments in self._obs.items()},
            rewards={name: moments.result() for name, moments in self._rewards.items()},
            team_reward=self._team.result(),
            state=None if self._state is None else self._state.result(),
            team_return=Summary.of(team_rewards(self._spec, returns)),
            agent_returns={name: Summary.of(sample) for name, sample in returns.items()},
            episode_length=Summary.of(lengths),
        )
