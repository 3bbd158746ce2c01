"""Imports what RLlib (Ray 2.60) records: SampleBatches and episodes, in JSON and Parquet.

Layouts, told apart by what the files hold; folders are searched for *.json and *.parquet:
- JSON lines of the old JsonWriter, `{"type": "SampleBatch", ...}` or `{"type":
  "MultiAgentBatch", "policy_batches": {...}}`, with columns `obs`, `new_obs`, `actions`, `rewards`,
  `terminateds`, `truncateds` (or `dones`), `eps_id`, `agent_index`; the same as Parquet rows.
- Parquet of the new stack with output_write_episodes=False: one step of one agent per row, with
  `eps_id`, `agent_id`. Ray Data spreads an episode over many files, whose names give the order.
- Parquet of the new stack with output_write_episodes=True: a column `item` of msgpacked states of
  SingleAgentEpisodes or MultiAgentEpisodes. Pieces of an episode are joined by its id; single
  episodes with a common multi_agent_episode_id are one team, in one file or in a file per agent.

RLlib refuses to record multi-agent episodes by itself; states of MultiAgentEpisodes come from own
code. Agents must act together at every step.

Actions are imported in the units of the environment's box. RLlib stores them normalised to [-1, 1]
by default and does not say so; `rllib_actions` tells how it is found out.

Every file is read twice: first for the agents' names and the range of their actions. In memory are
the pieces of episodes whose team has not ended yet, or never completes. Files of different agents
are read side by side: if they hold the episodes in the same order, a team completes at once, else
the pieces in between are held.

Ends of episodes are stored, and terminateds and truncateds are kept as they are. Where truncateds
were not recorded (`dones` alone in old files), a flag does not tell a terminal end from the time
limit: an end at the limit is a truncation, or what --at-limit says. An episode that the recording
left open is truncated; one that lacks an agent is left out. Where new_obs is missing, the last
observation stands in for the final one after a terminal end, and else the last step becomes the
final row and loses its action and reward. Missing steps are found by new_obs and by `t`; where
neither was recorded, a note says so.

Axes: T steps of an episode, O observation, A action.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rllib_om2p.data.importers.describe import describe, keep_agents
from rllib_om2p.data.importers.known import find_task
from rllib_om2p.data.importers.options import AtLimit, ImportOptions
from rllib_om2p.data.importers.recording import EpisodeBatch, Progress, Recording, make_segments
from rllib_om2p.data.importers.rllib_actions import find_normalised, to_box
from rllib_om2p.data.importers.rllib_files import Fragment, find_files
from rllib_om2p.data.importers.rllib_survey import side_by_side, survey
from rllib_om2p.data.schema import AgentSpec, AnyArray, DataError

OPTIONS = ("at_limit", "action_low", "action_high", "action_units", "num_actions")


def open_recording(
    path: Path, origin: str, options: ImportOptions, progress: Progress
) -> Recording:
    """Open a file or a folder of files that RLlib recorded.

    Raises:
        DataError: Nothing is there, a file is damaged, agents do not act together, or --at-limit
            is given though truncations were recorded.
    """
    files = find_files(path)
    progress(f"{path}: looking for agents and the range of their actions in {len(files)} files")
    found = survey(files)
    if not found.pieces:
        raise DataError(f"{path} holds no steps in {len(files)} files; nothing was recorded.")
    task = find_task(options.env, origin)
    kept = keep_agents(list(found.pieces), options, task, origin)
    agents = [_agent(name, found.pieces[name], options, path) for name in kept.names]
    notes = list(kept.notes)
    ends = _conventions_of_ends(path, options, found.has_truncateds)
    normalised = find_normalised(agents, found, options, path, notes)
    spec = describe(
        "rllib",
        path,
        origin,
        files,
        agents,
        options,
        progress=progress,
        conventions={
            **ends,
            "brought_from_normalised": [name for name in kept.names if name in normalised],
        },
        notes=notes,
    )
    limit = spec.time_limit
    if not found.has_order:
        notes.append(
            "neither new_obs nor t was recorded: the steps of an episode are taken as they stand, "
            "and none that is missing is noticed."
        )
    if limit is None and not found.has_truncateds:
        notes.append(
            "truncateds were not recorded and no time limit is known: every recorded end counts as "
            "terminal; --time-limit declares one."
        )

    def batches(start: int) -> Iterator[EpisodeBatch]:
        teams = _episodes(found.groups, kept.names, notes)
        each = (_batch(team, spec.agents, normalised, limit, options.at_limit) for team in teams)
        return islice((batch for batch in each if batch is not None), start, None)

    return Recording(spec, batches, None, notes)


def _conventions_of_ends(
    path: Path, options: ImportOptions, has_truncateds: bool
) -> dict[str, str]:
    """Return for the card how ends are read."""
    if has_truncateds:
        if options.at_limit is not None:
            raise DataError(
                f"{path} holds truncateds, so its ends are kept as RLlib recorded them and "
                f"--at-limit {options.at_limit} has no use; leave it out."
            )
        return {"episode_ends": "as RLlib recorded them"}
    return {
        "episode_ends": "as RLlib recorded them, but at the time limit without truncateds",
        "at_limit": options.at_limit or "truncated",
    }


def _episodes(
    groups: Sequence[Sequence[Path]], names: Sequence[str], notes: list[str]
) -> Iterator[dict[str, Fragment]]:
    """Join the pieces of episodes and yield each team once all its agents have ended.

    Raises:
        DataError: As many episodes lack an agent as hold them all.
    """
    open_: dict[Any, dict[str, list[Fragment]]] = {}
    num_whole = 0
    for unit in side_by_side(groups):
        kept = [piece for piece in unit if piece.agent in names]
        for piece in kept:
            open_.setdefault(piece.episode, {}).setdefault(piece.agent, []).append(piece)
        for episode in dict.fromkeys(piece.episode for piece in kept):
            team = open_[episode]
            if len(team) == len(names) and all(pieces[-1].is_done for pieces in team.values()):
                num_whole += 1
                yield _join_all(open_.pop(episode))
    whole = [team for team in open_.values() if len(team) == len(names)]
    if len(whole) < len(open_):
        text = _explain_missing(open_, names)
        num_whole += len(whole)
        if len(open_) - len(whole) >= num_whole:
            raise DataError(f"{text}; {num_whole} hold every agent. Choose them with --agents.")
        notes.append(f"{text}; they are left out. --agents chooses other agents.")
    if whole:
        notes.append(f"{len(whole)} episodes were still going on; they end truncated.")
    for team in whole:
        yield _join_all(team)


def _explain_missing(open_: dict[Any, dict[str, list[Fragment]]], names: Sequence[str]) -> str:
    partial = {episode: team for episode, team in open_.items() if len(team) < len(names)}
    episode, team = next(iter(partial.items()))
    where = next(iter(team.values()))[0].where
    return (
        f"{len(partial)} episodes lack agents: {where}, episode {episode} has no steps of "
        f"{[name for name in names if name not in team]}, it holds {sorted(team)}"
    )


def _join_all(team: dict[str, list[Fragment]]) -> dict[str, Fragment]:
    return {agent: Fragment.join(pieces) for agent, pieces in team.items()}


def _agent(name: str, piece: Fragment, options: ImportOptions, path: Path) -> AgentSpec:
    space, width = piece.action_space, piece.obs.shape[1]
    if piece.actions.ndim == 1:
        num_actions = options.num_actions or (space if isinstance(space, int) else None)
        if num_actions is None:
            raise DataError(
                f"{path}: the actions of {name} are integers and the files do not say how many "
                "there are; give their number with --num-actions."
            )
        return AgentSpec.discrete(name, width, num_actions)
    size = piece.actions.shape[1]
    low, high = [options.low] * size, [options.high] * size
    if isinstance(space, tuple) and np.isfinite(space).all():
        low = space[0] if options.action_low is None else low
        high = space[1] if options.action_high is None else high
    return AgentSpec(name, width, size, tuple(low), tuple(high))


def _batch(
    pieces: dict[str, Fragment],
    agents: tuple[AgentSpec, ...],
    normalised: frozenset[str],
    limit: int | None,
    at_limit: AtLimit | None,
) -> EpisodeBatch | None:
    """Return a team's episode; None if a missing final observation leaves nothing of it."""
    first = pieces[agents[0].name]
    lengths = {name: len(piece.rewards) for name, piece in pieces.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"{first.where}, episode {first.episode}: agents must act together, got steps "
            f"{lengths}; leave agents out with --agents, or record again."
        )
    steps = len(first.rewards)
    if limit is not None and steps > limit:
        raise DataError(
            f"{first.where}, episode {first.episode} has {steps} steps, expected at most the time "
            f"limit of {limit}; give the true one with --time-limit."
        )
    if not all(piece.has_truncateds for piece in pieces.values()):
        pieces = _decide_end(pieces, steps, limit, at_limit)
    all_done = all(bool(piece.terminateds[-1]) for piece in pieces.values())
    is_stopped = any(bool(piece.truncateds[-1]) for piece in pieces.values())
    has_final = all(piece.next_obs is not None for piece in pieces.values())
    length = steps if has_final or all_done else steps - 1
    if length == 0:
        return None
    return EpisodeBatch(
        {name: _with_final(piece, length)[None] for name, piece in pieces.items()},
        {
            agent.name: _actions(agent, pieces[agent.name], normalised)[None, :length]
            for agent in agents
        },
        {name: piece.rewards[None, :length] for name, piece in pieces.items()},
        {name: piece.terminateds[None, :length] for name, piece in pieces.items()},
        np.array([is_stopped or not all_done]),
    )


def _decide_end(
    pieces: dict[str, Fragment], steps: int, limit: int | None, at_limit: AtLimit | None
) -> dict[str, Fragment]:
    """Return pieces whose last terminateds follow `make_segments`, as those of other sources do."""
    start, length = np.zeros(1, np.int64), np.array([steps])
    all_done = np.array([all(piece.terminateds[-1] for piece in pieces.values())])
    end = make_segments(0, start, length, length, all_done=all_done, limit=limit, at_limit=at_limit)
    decided = {}
    for name, piece in pieces.items():
        flags = piece.terminateds.copy()
        flags[-1] = end.ended[0] | (flags[-1] & ~end.at_limit[0])
        decided[name] = piece._replace(terminateds=flags)
    return decided


def _with_final(piece: Fragment, length: int) -> AnyArray:
    """Return the observations of `length` steps and the one after them, (length + 1, O)."""
    if len(piece.obs) > length:
        return piece.obs[: length + 1]
    final = piece.obs if piece.next_obs is None else piece.next_obs
    return np.concatenate([piece.obs, final[-1:]])


def _actions(agent: AgentSpec, piece: Fragment, normalised: frozenset[str]) -> AnyArray:
    if agent.name in normalised:
        return to_box(agent, piece.actions)
    if agent.num_actions is None and piece.actions.ndim == 1:
        return piece.actions[:, None]
    return piece.actions
