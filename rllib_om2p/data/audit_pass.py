"""One pass over a dataset for its audit: endings, actions, coverage, duplicates, returns.

Knows decoded rows and NumPy. Per transition only two 64-bit hashes stay in memory.

Axes: R rows, C features, E episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rllib_om2p.data.audit_presence import Presence, PresenceCounter, is_present
from rllib_om2p.data.checks import RowIndex, episode_starts
from rllib_om2p.data.schema import AgentSpec, AnyArray, DatasetSpec, team_rewards
from rllib_om2p.data.statistics import Moments, MomentsAccumulator

# An action this close to an end of its box, as a share of the range, counts as saturated.
SATURATION_MARGIN = 1e-3
NUM_BINS = 40
# Returns are sums of float32 rewards in float64.
ROUNDING = 1e-9
# Values compared at once, so that no second array of all of them is made.
_SLICE = 1_000_000

HashArray = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Coverage:
    """How much of the data is new.

    Args:
        unique_obs: Share of joint observations (or states) that differ bitwise from all before.
        unique_obs_actions: Share of joint (observation, action) rows that do.
    """

    unique_obs: float
    unique_obs_actions: float


@dataclass(frozen=True, eq=False)
class ActionAudit:
    """How an agent uses its action space.

    Args:
        moments: Per feature mean, deviation and range; one-hot features when discrete.
        at_low: Per feature the share of actions at the lower end of the box.
        at_high: Per feature the share at the upper end; the frequency of an action when discrete.
    """

    moments: Moments
    at_low: npt.NDArray[np.float64]
    at_high: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Endings:
    """How episodes end: numbers of episodes.

    Args:
        terminated: At least one agent terminated, not truncated.
        truncated: Truncated and no agent terminated.
        both: Truncated and at least one agent terminated.
        neither: No flag at all.
        at_limit_without_truncation: As long as the time limit, but without any flag.
        terminated_at_limit: Terminated, not truncated, and as long as the time limit, or, where
            none is known, as the longest episode.
    """

    terminated: int
    truncated: int
    both: int
    neither: int
    at_limit_without_truncation: int
    terminated_at_limit: int


@dataclass(frozen=True)
class Histogram:
    """How often which return occurs.

    Args:
        edges: Of the bins, one more than there are bins.
        counts: Episodes in each bin.
    """

    edges: list[float]
    counts: list[int]


class Gatherer:
    """Collects in one pass what the statistics do not hold."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec = spec
        agents = [agent.name for agent in spec.agents]
        self._views = [f"obs_{name}" for name in agents]
        self._views += ["state"] if spec.state_dim is not None else []
        self._action_names = [f"action_{name}" for name in agents]
        self._reward_names = [f"reward_{name}" for name in agents]
        self._end_names = [*(f"terminated_{name}" for name in agents), "truncated"]
        self._moments = {a.name: MomentsAccumulator(a.action_dim) for a in spec.agents}
        self._at_low = {a.name: np.zeros(a.action_dim, np.int64) for a in spec.agents}
        self._at_high = {a.name: np.zeros(a.action_dim, np.int64) for a in spec.agents}
        self._presence = PresenceCounter(spec)
        self._num_acted = dict.fromkeys(agents, 0)
        self._num_transitions = 0
        self._obs_hashes: list[HashArray] = []
        self._pair_hashes: list[HashArray] = []
        self._episode_hashes: list[HashArray] = []
        self._episode_ids: list[npt.NDArray[np.int64]] = []
        self._ends: list[tuple[Any, Any, Any]] = []
        self._returns: list[npt.NDArray[np.float64]] = []

    @property
    def columns(self) -> list[str]:
        """The columns that `add` needs."""
        names = [*self._views, *self._action_names, *self._reward_names, *self._end_names]
        return [*dict.fromkeys([*names, *PresenceCounter.columns(self._spec)])]

    def add(self, values: dict[str, AnyArray], index: RowIndex) -> None:
        """Take in a row group."""
        valid, starts = index.valid, episode_starts(index.episode_ids)
        self._num_transitions += int(valid.sum())
        self._presence.add(values, index)
        for agent in self._spec.agents:
            present = is_present(values, agent.name, valid)
            self._add_actions(agent, values[f"action_{agent.name}"][present])
        obs = _hash_rows([values[name] for name in self._views], salt=0)
        acts = _hash_rows([values[name] for name in self._action_names], salt=1)
        rewards = _hash_rows([values[name] for name in self._reward_names], salt=2)
        self._obs_hashes.append(obs[valid])
        self._pair_hashes.append((obs + acts)[valid])
        steps = _mix(index.steps.astype(np.uint64))
        whole = _mix((obs + acts + rewards) ^ steps)
        self._episode_hashes.append(np.add.reduceat(whole, starts))
        self._episode_ids.append(index.episode_ids[starts])
        team = team_rewards(self._spec, {n: values[f"reward_{n}"] for n in self._spec.agent_ids})
        self._returns.append(np.add.reduceat(team, starts))
        terminated = np.logical_or.reduce([values[name] for name in self._end_names[:-1]])
        self._ends.append(
            (
                np.logical_or.reduceat(terminated, starts),
                np.logical_or.reduceat(values["truncated"], starts),
                np.add.reduceat(valid.astype(np.int64), starts),
            )
        )

    def _add_actions(self, agent: AgentSpec, actions: AnyArray) -> None:
        if agent.num_actions is not None:
            actions = np.eye(agent.num_actions, dtype=np.float32)[actions]
        self._num_acted[agent.name] += len(actions)
        low, high = np.array(agent.action_low), np.array(agent.action_high)
        margin = SATURATION_MARGIN * (high - low)
        self._moments[agent.name].add(actions)
        self._at_low[agent.name] += (actions <= low + margin).sum(axis=0)
        self._at_high[agent.name] += (actions >= high - margin).sum(axis=0)

    def actions(self) -> dict[str, ActionAudit]:
        """Return how each agent used its actions."""
        return {
            name: ActionAudit(
                self._moments[name].result(),
                self._at_low[name] / max(count, 1),
                self._at_high[name] / max(count, 1),
            )
            for name, count in self._num_acted.items()
        }

    def presence(self) -> dict[str, Presence]:
        """Return when each agent was away and what its masks and its absence contradict."""
        return self._presence.result()

    def coverage(self) -> Coverage:
        """Return how much of the data is new."""
        return Coverage(
            _num_distinct(self._obs_hashes) / self._num_transitions,
            _num_distinct(self._pair_hashes) / self._num_transitions,
        )

    def duplicates(self) -> list[list[int]]:
        """Return the ids of episodes that are equal, in groups."""
        hashes = np.concatenate(self._episode_hashes)
        ids = np.concatenate(self._episode_ids)
        order = np.argsort(hashes, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(hashes[order])) + 1)
        return sorted([int(ids[i]) for i in run] for run in runs if len(run) > 1)

    def returns(self) -> Histogram:
        """Return how often which team return occurs."""
        returns = np.concatenate(self._returns)
        low, high = float(returns.min()), float(returns.max())
        if is_rounding(high - low, returns):
            low, high = low - 0.5, high + 0.5
        counts, edges = np.histogram(returns, bins=NUM_BINS, range=(low, high))
        return Histogram(edges.tolist(), counts.tolist())

    def endings(self) -> Endings:
        """Return how episodes end."""
        terminated, truncated, length = (
            np.concatenate(parts) for parts in zip(*self._ends, strict=True)
        )
        neither = ~terminated & ~truncated
        limit = self._spec.time_limit
        at_limit = length == (int(length.max()) if limit is None else limit)
        return Endings(
            terminated=int((terminated & ~truncated).sum()),
            truncated=int((truncated & ~terminated).sum()),
            both=int((terminated & truncated).sum()),
            neither=int(neither.sum()),
            at_limit_without_truncation=0 if limit is None else int((neither & at_limit).sum()),
            terminated_at_limit=int((terminated & ~truncated & at_limit).sum()),
        )


def is_rounding(difference: float, values: AnyArray) -> bool:
    """Whether numbers that differ by no more than this are equal but for rounding."""
    return difference <= ROUNDING * float(np.abs(values).max())


def _num_distinct(hashes: Sequence[HashArray]) -> int:
    """Return how many different values there are; sorts one copy in place."""
    values = np.concatenate(hashes)
    values.sort()
    return 1 + sum(
        int(np.count_nonzero(np.diff(values[start : start + _SLICE + 1])))
        for start in range(0, len(values), _SLICE)
    )


def _mix(values: HashArray) -> HashArray:
    """Scatter the bits of 64-bit values. Source: the finaliser of SplitMix64 (Steele, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hash_rows(arrays: Sequence[AnyArray], *, salt: int) -> HashArray:
    """Return a 64-bit hash of the bytes of each row, over all arrays side by side."""
    rows = len(arrays[0])
    words = np.concatenate(
        [np.ascontiguousarray(a).reshape(rows, -1).view(np.uint32) for a in arrays], axis=1
    )
    num_words = words.shape[1]
    keys: HashArray = (
        np.random.default_rng(salt).integers(2**63, size=(num_words,)).astype(np.uint64)
    )
    total = np.zeros(rows, np.uint64)
    for number in range(num_words):
        total += _mix(words[:, number].astype(np.uint64) + keys[number])
    return _mix(total)
