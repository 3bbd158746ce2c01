"""Goes over RLlib's files once before they are imported: who acts, where, and how far.

Knows pieces of episodes (see `rllib_files`), not how they become a dataset. One piece of every
agent is kept in memory.

Axes: A action.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rllib_om2p.data.importers.rllib_files import Fragment, fragments, natural
from rllib_om2p.data.schema import AnyArray, DataError


class Range(NamedTuple):
    """The least and the greatest stored actions, (A,) each."""

    least: AnyArray
    greatest: AnyArray


class Survey(NamedTuple):
    """What the files hold.

    Args:
        pieces: One piece of every agent; agent_2 stands before agent_10.
        ranges: Of every agent with actions of real numbers.
        groups: The files, in order; all files with steps of an agent are in one group.
        has_truncateds: Whether truncations were recorded with every step.
        has_order: Whether missing steps would be noticed everywhere.
    """

    pieces: dict[str, Fragment]
    ranges: dict[str, Range]
    groups: list[list[Path]]
    has_truncateds: bool
    has_order: bool


def survey(files: Sequence[Path]) -> Survey:
    """Read every file once.

    Raises:
        DataError: A file is damaged, or the number of an agent's action features changes.
    """
    pieces: dict[str, Fragment] = {}
    ranges: dict[str, Range] = {}
    agents_of: dict[Path, set[str]] = {}
    has_truncateds = has_order = True
    for file in files:
        for unit in fragments([file]):
            for piece in unit:
                agents_of.setdefault(file, set()).add(piece.agent)
                first = pieces.setdefault(piece.agent, piece)
                has_truncateds &= piece.has_truncateds
                has_order &= piece.has_order
                if piece.actions.shape[1:] != first.actions.shape[1:]:
                    raise DataError(
                        f"{piece.where}, episode {piece.episode}: actions of {piece.agent} must be "
                        f"{first.actions.shape[1:]} as in {first.where}, got "
                        f"{piece.actions.shape[1:]}; import these files on their own."
                    )
                if piece.actions.ndim == 2 and piece.actions.dtype.kind == "f":
                    ranges[piece.agent] = _wider(ranges.get(piece.agent), piece.actions)
    ordered = {name: pieces[name] for name in sorted(pieces, key=natural)}
    return Survey(ordered, ranges, _groups(agents_of), has_truncateds, has_order)


def _wider(found: Range | None, actions: AnyArray) -> Range:
    """Return a range that holds the actions as well; the writer reports what is not a number."""
    least, greatest = np.fmin.reduce(actions), np.fmax.reduce(actions)
    if found is None:
        return Range(least, greatest)
    return Range(np.fmin(found.least, least), np.fmax(found.greatest, greatest))


def _groups(agents_of: Mapping[Path, set[str]]) -> list[list[Path]]:
    teams: list[set[str]] = []
    for agents in agents_of.values():
        linked = [team for team in teams if team & agents]
        teams = [team for team in teams if not team & agents] + [agents.union(*linked)]
    return [[file for file, agents in agents_of.items() if agents & team] for team in teams]


def side_by_side(groups: Sequence[Sequence[Path]]) -> Iterator[list[Fragment]]:
    """Read a piece of every group in turn: files of single agents then complete a team early."""
    for units in zip_longest(*map(fragments, groups), fillvalue=[]):
        yield from units
