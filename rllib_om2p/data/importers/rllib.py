"""Imports what RLlib (Ray 2.60) records: SampleBatches and episodes, in JSON and Parquet.

Layouts, told apart by what the files hold; folders are searched for *.json and *.parquet:
- JSON lines of the old JsonWriter, `{"type": "SampleBatch", ...}` or `{"type":
  "MultiAgentBatch", "policy_batches": {...}}`, with columns `obs`, `new_obs`, `actions`, `rewards`,
  `terminateds`, `truncateds` (or `dones`), `eps_id`, `agent_index`; the same as Parquet rows.
- Parquet of the new stack with output_write_episodes=False: one step of one agent per row, with
  `eps_id`, `agent_id`. Ray Data spreads an episode over many files, whose names give the order.
- Parquet of the new stack with output_write_episodes=True: a column `item` of msgpacked states of
  SingleAgentEpisodes or MultiAgentEpisodes. Pieces of an episode are joined by its id; single
  episodes with a common multi_agent_episode_id are one team.

RLlib refuses to record multi-agent episodes by itself; states of MultiAgentEpisodes come from own
code. Agents must act together at every step. RLlib stores normalised actions when the algorithm
normalises them: then the box is [-1, 1], not the environment's.

Ends of episodes are stored. An episode that the recording left open is truncated. Where new_obs is
missing, the last observation stands in for the final one after a terminal end, and else the last
step becomes the final row and loses its action and reward.

Axes: T steps of an episode, O observation, A action.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rllib_om2p.data.importers.describe import Kept, describe, keep_agents, time_limit
from rllib_om2p.data.importers.known import find_task
from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.recording import EpisodeBatch, Progress, Recording
from rllib_om2p.data.importers.rllib_files import Fragment, find_files, fragments
from rllib_om2p.data.schema import AgentSpec, AnyArray, DataError

OPTIONS = ("action_low", "action_high", "num_actions")


def open_recording(path: Path, options: ImportOptions, progress: Progress) -> Recording:
    """Open a file or a folder of files that RLlib recorded.

    Raises:
        DataError: Nothing is there, a file is damaged, or agents do not act together.
    """
    files = find_files(path)
    first = next(_episodes(files, []), None)
    if first is None:
        raise DataError(f"{path} holds no steps in {len(files)} files; nothing was recorded.")
    task = find_task(options.env, str(path))
    kept = keep_agents(sorted(first), options, task, str(path))
    agents = [_agent(name, first[name], options, path) for name in kept.names]
    notes = list(kept.notes)
    spec = describe(
        "rllib",
        path,
        files,
        agents,
        options,
        progress=progress,
        conventions={"episode_ends": "as RLlib recorded them"},
        notes=notes,
    )
    limit = time_limit(task, options)

    def batches(start: int) -> Iterator[EpisodeBatch]:
        found = (_batch(episode, spec.agents, kept, limit) for episode in _episodes(files, notes))
        return islice((batch for batch in found if batch is not None), start, None)

    return Recording(spec, batches, None, notes)


def _episodes(files: list[Path], notes: list[str]) -> Iterator[dict[str, Fragment]]:
    """Join the pieces of episodes and yield each team once all its agents have ended."""
    open_: dict[Any, dict[str, list[Fragment]]] = {}
    for unit in fragments(files):
        touched = []
        for piece in unit:
            open_.setdefault(piece.episode, {}).setdefault(piece.agent, []).append(piece)
            touched.append(piece.episode)
        for episode in dict.fromkeys(touched):
            if all(pieces[-1].is_done for pieces in open_[episode].values()):
                yield _join_all(open_.pop(episode))
    if open_:
        notes.append(f"{len(open_)} episodes were still going on; they end truncated.")
    for team in open_.values():
        yield _join_all(team)


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
    episode: dict[str, Fragment], agents: tuple[AgentSpec, ...], kept: Kept, limit: int | None
) -> EpisodeBatch | None:
    """Return a team's episode; None if a missing final observation leaves nothing of it."""
    missing = [name for name in kept.names if name not in episode]
    pieces = {name: episode[name] for name in kept.names if name in episode}
    first = next(iter(pieces.values()), None)
    if missing or first is None:
        held = next(iter(episode.values()))
        raise DataError(
            f"{held.where}, episode {held.episode} has no steps of {missing}, it holds "
            f"{sorted(episode)}; every episode needs every agent. Choose them with --agents."
        )
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
    all_done = all(bool(piece.terminateds[-1]) for piece in pieces.values())
    is_stopped = any(bool(piece.truncateds[-1]) for piece in pieces.values())
    has_final = all(piece.next_obs is not None for piece in pieces.values())
    length = steps if has_final or all_done else steps - 1
    if length == 0:
        return None
    return EpisodeBatch(
        {name: _with_final(piece, length)[None] for name, piece in pieces.items()},
        {agent.name: _actions(agent, pieces[agent.name])[None, :length] for agent in agents},
        {name: piece.rewards[None, :length] for name, piece in pieces.items()},
        {name: piece.terminateds[None, :length] for name, piece in pieces.items()},
        np.array([is_stopped or not all_done]),
    )


def _with_final(piece: Fragment, length: int) -> AnyArray:
    """Return the observations of `length` steps and the one after them, (length + 1, O)."""
    if len(piece.obs) > length:
        return piece.obs[: length + 1]
    final = piece.obs if piece.next_obs is None else piece.next_obs
    return np.concatenate([piece.obs, final[-1:]])


def _actions(agent: AgentSpec, piece: Fragment) -> AnyArray:
    if agent.num_actions is None and piece.actions.ndim == 1:
        return piece.actions[:, None]
    return piece.actions
