"""Audits a dataset: what is in it, what is odd about it, as a report for people.

Knows the reader and NumPy. Two passes at most, row group by row group; per transition only two
64-bit hashes stay in memory.

Axes: R rows, C features, E episodes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rllib_om2p.data.checks import RowIndex, episode_starts
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, AnyArray, DatasetSpec
from rllib_om2p.data.statistics import DatasetStatistics, Moments, MomentsAccumulator, Summary

# An action this close to an end of its box, as a share of the range, counts as saturated.
SATURATION_MARGIN = 1e-3
MAX_NAMED = 10

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
    """

    terminated: int
    truncated: int
    both: int
    neither: int
    at_limit_without_truncation: int


@dataclass(frozen=True, eq=False)
class Audit:
    """The findings about one dataset.

    Args:
        spec: What the dataset says about itself.
        fingerprint: Hash of its content.
        statistics: Counts, returns and moments.
        coverage: How much of the data is new.
        actions: Per agent the use of its action space.
        endings: How episodes end.
        duplicate_episodes: Groups of episode ids whose observations, actions and rewards are equal.
        constant_features: Per agent (and "state") the observation features that never change.
        notices: What a person should know before training.
    """

    spec: DatasetSpec
    fingerprint: str
    statistics: DatasetStatistics
    coverage: Coverage
    actions: dict[str, ActionAudit]
    endings: Endings
    duplicate_episodes: list[list[int]]
    constant_features: dict[str, list[int]]
    notices: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            return value.tolist() if isinstance(value, np.ndarray) else value

        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("spec", "statistics", "actions", "coverage", "endings")
        }
        return {
            **values,
            "spec": self.spec.to_dict(),
            "statistics": self.statistics.to_dict(),
            "coverage": dataclasses.asdict(self.coverage),
            "endings": dataclasses.asdict(self.endings),
            "actions": {n: plain(dataclasses.asdict(item)) for n, item in self.actions.items()},
        }

    def summary(self) -> str:
        """Return the first sections of the report: what it is, what is odd, returns and ends."""
        sections = [
            _overview(self),
            _section("Notices", [f"- {notice}" for notice in self.notices] or ["None."]),
            _section("Returns", _return_lines(self)),
            _section("Endings", _ending_lines(self.endings)),
        ]
        return "\n".join(sections)

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        sections = [
            self.summary(),
            _section("Coverage", _coverage_lines(self)),
            _section("Actions", _action_lines(self)),
            _section("Constant features", _constant_lines(self)),
        ]
        return "\n".join(sections)

    def save(self, directory: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write `audit.md` and `audit.json` into a directory, made if missing; return both."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "audit.md": self.to_markdown(),
            "audit.json": json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n",
        }
        for name, text in texts.items():
            temporary = folder / f".{name}.tmp"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, folder / name)
        return folder / "audit.md", folder / "audit.json"


def audit(dataset: OfflineDataset) -> Audit:
    """Read a dataset once (twice without a fitting card) and return what is found.

    Raises:
        DataError: Rows break the contract.
    """
    gatherer = _Gatherer(dataset.spec)
    for values, index in dataset.row_groups(gatherer.columns):
        gatherer.add(values, index)
    statistics = dataset.statistics()
    coverage, endings = gatherer.coverage(), gatherer.endings()
    duplicates = gatherer.duplicates()
    constant = _constant_features(statistics)
    return Audit(
        spec=dataset.spec,
        fingerprint=dataset.fingerprint,
        statistics=statistics,
        coverage=coverage,
        actions=gatherer.actions(),
        endings=endings,
        duplicate_episodes=duplicates,
        constant_features=constant,
        notices=_notices(dataset.spec, statistics, endings, duplicates, constant),
    )


class _Gatherer:
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
        self._num_transitions = 0
        self._obs_hashes: list[HashArray] = []
        self._pair_hashes: list[HashArray] = []
        self._episode_hashes: list[HashArray] = []
        self._episode_ids: list[npt.NDArray[np.int64]] = []
        self._ends: list[tuple[Any, Any, Any]] = []

    @property
    def columns(self) -> list[str]:
        """The columns that `add` needs."""
        return [*self._views, *self._action_names, *self._reward_names, *self._end_names]

    def add(self, values: dict[str, AnyArray], index: RowIndex) -> None:
        """Take in a row group."""
        valid, starts = index.valid, episode_starts(index.episode_ids)
        self._num_transitions += int(valid.sum())
        for agent in self._spec.agents:
            self._add_actions(agent, values[f"action_{agent.name}"][valid])
        obs = _hash_rows([values[name] for name in self._views], salt=0)
        acts = _hash_rows([values[name] for name in self._action_names], salt=1)
        rewards = _hash_rows([values[name] for name in self._reward_names], salt=2)
        self._obs_hashes.append(obs[valid])
        self._pair_hashes.append((obs + acts)[valid])
        steps = _mix(index.steps.astype(np.uint64))
        whole = _mix((obs + acts + rewards) ^ steps)
        self._episode_hashes.append(np.add.reduceat(whole, starts))
        self._episode_ids.append(index.episode_ids[starts])
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
        low, high = np.array(agent.action_low), np.array(agent.action_high)
        margin = SATURATION_MARGIN * (high - low)
        self._moments[agent.name].add(actions)
        self._at_low[agent.name] += (actions <= low + margin).sum(axis=0)
        self._at_high[agent.name] += (actions >= high - margin).sum(axis=0)

    def actions(self) -> dict[str, ActionAudit]:
        count = self._num_transitions
        return {
            name: ActionAudit(
                self._moments[name].result(),
                self._at_low[name] / count,
                self._at_high[name] / count,
            )
            for name in self._spec.agent_ids
        }

    def coverage(self) -> Coverage:
        def share(hashes: Sequence[HashArray]) -> float:
            return len(np.unique(np.concatenate(hashes))) / self._num_transitions

        return Coverage(share(self._obs_hashes), share(self._pair_hashes))

    def duplicates(self) -> list[list[int]]:
        hashes = np.concatenate(self._episode_hashes)
        ids = np.concatenate(self._episode_ids)
        order = np.argsort(hashes, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(hashes[order])) + 1)
        return sorted([int(ids[i]) for i in run] for run in runs if len(run) > 1)

    def endings(self) -> Endings:
        terminated, truncated, length = (
            np.concatenate(parts) for parts in zip(*self._ends, strict=True)
        )
        neither = ~terminated & ~truncated
        limit = self._spec.time_limit
        at_limit = neither & (length == limit) if limit is not None else np.zeros(1, bool)
        return Endings(
            terminated=int((terminated & ~truncated).sum()),
            truncated=int((truncated & ~terminated).sum()),
            both=int((terminated & truncated).sum()),
            neither=int(neither.sum()),
            at_limit_without_truncation=int(at_limit.sum()),
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


def _constant_features(statistics: DatasetStatistics) -> dict[str, list[int]]:
    moments = dict(statistics.obs)
    if statistics.state is not None:
        moments["state"] = statistics.state
    constant = {name: np.flatnonzero(m.min == m.max).tolist() for name, m in moments.items()}
    return {name: features for name, features in constant.items() if features}


def _notices(
    spec: DatasetSpec,
    statistics: DatasetStatistics,
    endings: Endings,
    duplicates: Sequence[Sequence[int]],
    constant: dict[str, list[int]],
) -> list[str]:
    notices = []
    if endings.terminated + endings.both == 0:
        notices.append("terminated is never true: every last step is bootstrapped from.")
    if endings.truncated + endings.both == 0:
        notices.append("truncated is never true: check that time limits are not marked terminated.")
    if endings.neither:
        notices.append(f"{endings.neither} episodes end without terminated or truncated.")
    if endings.at_limit_without_truncation:
        notices.append(
            f"{endings.at_limit_without_truncation} episodes reach the time limit of "
            f"{spec.time_limit} steps without truncated."
        )
    if duplicates:
        extra = sum(len(group) - 1 for group in duplicates)
        notices.append(f"{extra} episodes repeat another one, for example {duplicates[0][:2]}.")
    for name, features in constant.items():
        notices.append(f"{len(features)} features of {name} never change.")
    if statistics.team_return.std == 0:
        notices.append("Every episode has the same team return: there is nothing to prefer.")
    return notices


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *(line(row) for row in rows)]


def _overview(found: Audit) -> str:
    spec, statistics = found.spec, found.statistics
    length = statistics.episode_length
    lines = [
        f"# {spec.dataset_id}",
        "",
        f"- quality: {spec.quality or 'not given'}; environment: {spec.env or 'not given'}",
        f"- {statistics.num_episodes} episodes, {statistics.num_transitions} joint steps, "
        f"{length.min:g} to {length.max:g} steps per episode",
        f"- team return: {spec.team_return}; time limit: {spec.time_limit}",
        f"- fingerprint: {found.fingerprint}",
        "",
    ]
    rows = [
        (a.name, a.obs_dim, a.num_actions or a.action_dim, "discrete" if a.num_actions else "box")
        for a in spec.agents
    ]
    return "\n".join([*lines, *_table(["agent", "obs", "actions", "space"], rows), ""])


def _return_lines(found: Audit) -> list[str]:
    statistics = found.statistics
    first = statistics.team_return
    header = ["", "mean", "sd", "min", *(f"{float(q):.0%}" for q in first.quantiles), "max"]

    def row(name: str, s: Summary) -> list[str]:
        return [name, *(f"{v:.4g}" for v in (s.mean, s.std, s.min, *s.quantiles.values(), s.max))]

    rows = [row("team", first)]
    rows += [row(name, summary) for name, summary in statistics.agent_returns.items()]
    lines = _table(header, rows)
    references = found.spec.references
    if "random" in references and "expert" in references:
        scale = references["expert"] - references["random"]
        score = 100 * (first.mean - references["random"]) / scale
        lines += ["", f"Normalised mean (random = 0, expert = 100): {score:.1f}."]
    return lines


def _ending_lines(endings: Endings) -> list[str]:
    rows = [
        ("terminated", endings.terminated),
        ("truncated", endings.truncated),
        ("both", endings.both),
        ("neither", endings.neither),
    ]
    return _table(["end", "episodes"], rows)


def _coverage_lines(found: Audit) -> list[str]:
    groups = found.duplicate_episodes[:MAX_NAMED]
    named = [", ".join(map(str, group[:MAX_NAMED])) for group in groups]
    repeated = sum(len(group) - 1 for group in found.duplicate_episodes)
    lines = [
        f"- unique joint observations: {found.coverage.unique_obs:.2%}",
        f"- unique joint observation-action pairs: {found.coverage.unique_obs_actions:.2%}",
        f"- episodes that repeat another one: {repeated}",
    ]
    return lines + [f"  - episodes {group} are equal" for group in named]


def _action_lines(found: Audit) -> list[str]:
    rows = []
    for agent in found.spec.agents:
        used = found.actions[agent.name]
        for feature in range(agent.action_dim):
            moments = (m[feature] for m in (used.moments.mean, used.moments.std))
            limits = (m[feature] for m in (used.moments.min, used.moments.max))
            rows.append(
                [
                    agent.name,
                    feature,
                    f"[{agent.action_low[feature]:g}, {agent.action_high[feature]:g}]",
                    *(f"{value:.4g}" for value in (*moments, *limits)),
                    f"{used.at_low[feature]:.1%}",
                    f"{used.at_high[feature]:.1%}",
                ]
            )
    header = ["agent", "feature", "space", "mean", "sd", "min", "max", "at low end", "at high end"]
    return _table(header, rows)


def _constant_lines(found: Audit) -> list[str]:
    if not found.constant_features:
        return ["None."]
    return [
        f"- {name}: {', '.join(map(str, features[:MAX_NAMED]))}"
        f"{f' and {len(features) - MAX_NAMED} more' if len(features) > MAX_NAMED else ''}"
        for name, features in found.constant_features.items()
    ]
