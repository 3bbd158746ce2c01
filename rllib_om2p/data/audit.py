"""Audits a dataset: what is in it, what is odd about it, as a report for people.

Knows the reader, one gathering pass (`audit_pass`), what is worth saying about its findings
(`audit_notices`) and how it reads (`audit_report`). Two passes at most, row group by row group.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rllib_om2p.data import audit_report
from rllib_om2p.data.audit_notices import notices
from rllib_om2p.data.audit_pass import ActionAudit, Coverage, Endings, Gatherer, Histogram
from rllib_om2p.data.audit_presence import Presence
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import DatasetSpec
from rllib_om2p.data.statistics import DatasetStatistics, plain
from rllib_om2p.disk import local_path, write_text_whole

__all__ = ["ActionAudit", "Audit", "Coverage", "Endings", "Histogram", "Presence", "audit"]


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
        presence: Per agent when it was away, and what its absence and its masks contradict.
        returns: How often which team return occurs.
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
    presence: dict[str, Presence]
    returns: Histogram
    duplicate_episodes: list[list[int]]
    constant_features: dict[str, list[int]]
    notices: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "fingerprint": self.fingerprint,
            "duplicate_episodes": self.duplicate_episodes,
            "constant_features": self.constant_features,
            "notices": self.notices,
            "returns": dataclasses.asdict(self.returns),
            "spec": self.spec.to_dict(),
            "statistics": self.statistics.to_dict(),
            "coverage": dataclasses.asdict(self.coverage),
            "endings": dataclasses.asdict(self.endings),
            "presence": {n: dataclasses.asdict(item) for n, item in self.presence.items()},
            "actions": {n: plain(dataclasses.asdict(item)) for n, item in self.actions.items()},
        }

    def summary(self) -> str:
        """Return the first sections of the report: what it is, what is odd, returns and ends."""
        return audit_report.summary(self)

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        return audit_report.to_markdown(self)

    def save(self, directory: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write `audit.md` and `audit.json` into a directory, made if missing; return both."""
        folder = local_path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "audit.md": self.to_markdown(),
            "audit.json": json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n",
        }
        for name, text in texts.items():
            write_text_whole(folder / name, text)
        return folder / "audit.md", folder / "audit.json"


def audit(dataset: OfflineDataset) -> Audit:
    """Read a dataset once (twice without a fitting card) and return what is found.

    Raises:
        DataError: Rows break the contract.
    """
    gatherer = Gatherer(dataset.spec)
    for values, index in dataset.row_groups(gatherer.columns):
        gatherer.add(values, index)
    statistics = dataset.statistics()
    found = Audit(
        spec=dataset.spec,
        fingerprint=dataset.fingerprint,
        statistics=statistics,
        coverage=gatherer.coverage(),
        actions=gatherer.actions(),
        endings=gatherer.endings(),
        presence=gatherer.presence(),
        returns=gatherer.returns(),
        duplicate_episodes=gatherer.duplicates(),
        constant_features=_constant_features(statistics),
    )
    found.notices.extend(notices(found))
    return found


def _constant_features(statistics: DatasetStatistics) -> dict[str, list[int]]:
    moments = dict(statistics.obs)
    if statistics.state is not None:
        moments["state"] = statistics.state
    constant = {name: np.flatnonzero(m.min == m.max).tolist() for name, m in moments.items()}
    return {name: features for name, features in constant.items() if features}
