"""Counts what alive, action_mask and terminated contradict, agent by agent; knows decoded rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from rllib_om2p.data.checks import RowIndex, episode_starts
from rllib_om2p.data.schema import AgentSpec, AnyArray, BoolArray, DatasetSpec


@dataclass
class Presence:
    """One agent's rows that are not as the contract says, and how often it was away.

    Args:
        absent: Acting rows without the agent.
        filled: Rows without it, final ones included, that hold more than the contract allows.
        illegal: Actions that its mask forbids.
        no_choice: Rows, final ones included, whose mask forbids everything.
        after_end: Acting rows with the agent after it terminated in that episode.
    """

    absent: int = 0
    filled: int = 0
    illegal: int = 0
    no_choice: int = 0
    after_end: int = 0


class PresenceCounter:
    """Gathers `Presence` from row groups of whole episodes."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec = spec
        self._found = {name: Presence() for name in spec.agent_ids}

    @staticmethod
    def columns(spec: DatasetSpec) -> list[str]:
        """Return the names of the columns that `add` needs."""
        names: list[str] = []
        for agent in spec.agents:
            masked = spec.has_action_masks and agent.num_actions is not None
            kinds = ["terminated"]
            kinds += ["alive", "obs", "action", "reward"] if spec.has_alive else []
            kinds += ["action_mask", "action"] if masked else []
            names += [f"{kind}_{agent.name}" for kind in dict.fromkeys(kinds)]
        return names

    def add(self, values: Mapping[str, AnyArray], index: RowIndex) -> None:
        """Merge a row group."""
        for agent in self._spec.agents:
            here = _count(agent, values, index)
            total = self._found[agent.name]
            for item in fields(Presence):
                setattr(total, item.name, getattr(total, item.name) + getattr(here, item.name))

    def result(self) -> dict[str, Presence]:
        """Return what was found, by agent."""
        return self._found


def is_present(values: Mapping[str, AnyArray], agent: str, valid: BoolArray) -> BoolArray:
    """Return the acting rows in which an agent is there, (R,)."""
    alive = values.get(f"alive_{agent}")
    return valid if alive is None else valid & alive


def _count(agent: AgentSpec, values: Mapping[str, AnyArray], index: RowIndex) -> Presence:
    present = is_present(values, agent.name, index.valid)
    found = Presence(after_end=int((present & _has_ended(agent, values, index)).sum()))
    mask = values.get(f"action_mask_{agent.name}")
    if mask is not None:
        acted = np.take_along_axis(mask, values[f"action_{agent.name}"][:, None], axis=1)[:, 0]
        found.illegal = int((present & ~acted).sum())
        found.no_choice = int((~mask.any(axis=1)).sum())
    if f"alive_{agent.name}" in values:
        found.absent = int((index.valid & ~present).sum())
        found.filled = int(_filled(agent, values, index).sum())
    return found


def _has_ended(agent: AgentSpec, values: Mapping[str, AnyArray], index: RowIndex) -> BoolArray:
    """Return the rows before which the agent terminated in their episode, (R,)."""
    terminated = values[f"terminated_{agent.name}"].astype(np.int64)
    before = np.cumsum(terminated) - terminated
    starts = episode_starts(index.episode_ids)
    lengths = np.diff(np.append(starts, len(before)))
    return np.asarray(before > np.repeat(before[starts], lengths))


def _filled(agent: AgentSpec, values: Mapping[str, AnyArray], index: RowIndex) -> BoolArray:
    """Return the rows without the agent that hold more than the contract allows, (R,)."""
    name = agent.name
    alive = values[f"alive_{name}"]
    # What it saw last stands in the first row after it left.
    just_left = np.append(False, alive[:-1]) & (index.steps > 0)
    obs = values[f"obs_{name}"].any(axis=1) & ~just_left
    action = values[f"action_{name}"]
    if agent.num_actions is None:
        rest = np.clip(0.0, agent.action_low, agent.action_high).astype(action.dtype)
        acts = (action != np.where(index.valid[:, None], rest, 0.0)).any(axis=1)
    else:
        acts = action != 0
    earns = (values[f"reward_{name}"] != 0) | values[f"terminated_{name}"]
    return np.asarray(~alive & (obs | acts | earns))
