"""Finds RLlib's files and reads them piece by piece: steps of one agent in one episode.

Knows the layouts (see `rllib`), not how episodes become a dataset.

Axes: T steps of a piece, O observation, A action.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rllib_om2p.data.importers.rllib_values import box_of, column_values, unpack, unpack_state
from rllib_om2p.data.schema import AnyArray, BoolArray, DataError

# Rows of Parquet that are read at once.
_BATCH_ROWS = 4_096

_COLUMNS = (
    *("eps_id", "agent_id", "agent_index", "obs", "new_obs", "next_obs", "actions", "rewards"),
    *("terminateds", "truncateds", "dones", "t"),
)

ActionSpace = tuple[list[float], list[float]] | int | None


class Fragment(NamedTuple):
    """Consecutive steps of one agent.

    Args:
        where: The file, for error texts.
        episode: Id of the team's episode.
        agent: The agent's name.
        obs: Observations before each step, (T, O).
        next_obs: Observations after each step, (T, O), or None.
        actions: (T, A), or (T,) integers.
        rewards: (T,).
        terminateds: (T,) bool.
        truncateds: (T,) bool.
        action_space: Ends of the box, or number of actions, if the file says so.
        has_truncateds: Whether truncateds were recorded; else terminateds may mark time limits.
        times: Number of each step in its episode, (T,), or None.
    """

    where: str
    episode: Any
    agent: str
    obs: AnyArray
    next_obs: AnyArray | None
    actions: AnyArray
    rewards: AnyArray
    terminateds: BoolArray
    truncateds: BoolArray
    action_space: ActionSpace = None
    has_truncateds: bool = True
    times: AnyArray | None = None

    @property
    def has_order(self) -> bool:
        """Whether missing steps would be noticed."""
        return self.next_obs is not None or self.times is not None

    @property
    def is_done(self) -> bool:
        """Whether the agent's episode ends here."""
        return bool(self.terminateds[-1] or self.truncateds[-1])

    @classmethod
    def join(cls, pieces: Sequence[Fragment]) -> Fragment:
        """Return the pieces of one episode as one.

        Raises:
            DataError: A piece does not go on where the one before it stopped.
        """

        def joined(name: str) -> AnyArray:
            return np.concatenate([getattr(piece, name) for piece in pieces])

        first = pieces[0]

        def if_all_have(name: str) -> AnyArray | None:
            return None if any(getattr(p, name) is None for p in pieces) else joined(name)

        obs, next_obs, times = joined("obs"), if_all_have("next_obs"), if_all_have("times")
        gap = None
        if times is not None and (jumps := np.flatnonzero(np.diff(times) != 1)).size:
            gap = f"step {times[jumps[0] + 1]} follows step {times[jumps[0]]}"
        elif next_obs is not None:
            broken = np.flatnonzero((next_obs[:-1] != obs[1:]).any(axis=1))
            if broken.size:
                gap = (
                    f"the observation of step {broken[0] + 1} is not the next observation of step "
                    f"{broken[0]}"
                )
        if gap is not None:
            raise DataError(
                f"{first.where}, episode {first.episode}, agent {first.agent}: {gap}: steps are "
                "missing or out of order. Give every file of the recording, with its name."
            )
        return first._replace(
            obs=obs,
            next_obs=next_obs,
            times=times,
            actions=joined("actions"),
            rewards=joined("rewards"),
            terminateds=joined("terminateds"),
            truncateds=joined("truncateds"),
            has_truncateds=all(piece.has_truncateds for piece in pieces),
        )


def find_files(path: Path) -> list[Path]:
    """Return RLlib's files at a path, in the order of recording.

    Raises:
        DataError: There are none.
    """
    if path.is_file():
        return [path]
    files = [*path.rglob("*.json"), *path.rglob("*.parquet")]
    if not files:
        raise DataError(f"{path} holds no *.json and no *.parquet; name RLlib's output folder.")
    return sorted(files, key=lambda file: natural(str(file.relative_to(path))))


def natural(name: str) -> list[tuple[int, str]]:
    """Sort numbers by value: _10 comes after _9."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def fragments(files: Sequence[Path]) -> Iterator[list[Fragment]]:
    """Read files piece by piece; a list holds what was recorded together.

    Raises:
        DataError: A file is damaged or lacks a column.
    """
    for file in files:
        yield from _parquet(file) if file.suffix == ".parquet" else _json(file)


def _json(file: Path) -> Iterator[list[Fragment]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file}, line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{where} is not JSON ({error}): the file is cut short or damaged; copy it "
                    "again, or take its last line away."
                ) from error
            if not isinstance(record, dict):
                raise DataError(f"{where} must be a batch, got {type(record).__name__}.")
            yield _batch(record, where)


def _parquet(file: Path) -> Iterator[list[Fragment]]:
    try:
        source = pq.ParquetFile(file)
        for number, batch in enumerate(source.iter_batches(_BATCH_ROWS)):
            table = pa.Table.from_batches([batch])
            where = f"{file}, rows from {number * _BATCH_ROWS}"
            names = table.column_names
            if "item" in names:
                yield from (_episode(item, where) for item in table["item"].to_pylist())
            elif "type" in names:
                yield from (_batch(record, where) for record in table.to_pylist())
            else:
                yield _steps({name: column_values(table[name]) for name in names}, None, where)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} is not a whole Parquet file ({error}); copy it again.") from error


def _batch(record: Mapping[str, Any], where: str) -> list[Fragment]:
    """Read a SampleBatch or MultiAgentBatch."""
    kind = record.get("type")
    if kind == "SampleBatch":
        return _steps(record, None, where)
    if kind == "MultiAgentBatch":
        batches = {name: batch for name, batch in record["policy_batches"].items() if batch}
        found = [piece for name, batch in batches.items() for piece in _steps(batch, name, where)]
        keys = [(piece.episode, piece.agent) for piece in found]
        if len(set(keys)) < len(keys):
            raise DataError(
                f"{where}: two policies hold the same agent_index of an episode; number the agents "
                "of an episode differently."
            )
        return found
    raise DataError(f"{where} must be a SampleBatch or MultiAgentBatch, got {kind!r}.")


def _steps(columns: Mapping[str, Any], policy: str | None, where: str) -> list[Fragment]:
    """Cut columns of steps into runs of one agent in one episode."""
    columns = {
        name: unpack(columns[name], f"{where}: {name}") for name in _COLUMNS if name in columns
    }
    for name in ("obs", "actions", "rewards", "eps_id"):
        if columns.get(name) is None:
            raise DataError(
                f"{where} lacks the column {name}, it holds {sorted(columns)}; record it as well."
            )
    count = len(columns["rewards"])
    terminateds, truncateds = _ends(columns, count, where)
    numbers = columns.get("agent_index")
    ids = columns.get("agent_id")
    labels = [
        ids[i]
        if ids is not None and ids[i] is not None
        else (policy or "agent_0" if numbers is None else f"agent_{int(numbers[i])}")
        for i in range(count)
    ]
    rows: dict[tuple[Any, str], list[int]] = {}
    for i in range(count):
        rows.setdefault((_plain(columns["eps_id"][i]), str(labels[i])), []).append(i)
    after = next(
        (columns[name] for name in ("new_obs", "next_obs") if columns.get(name) is not None), None
    )
    return [
        Fragment(
            where,
            episode,
            agent,
            obs=_vectors(columns["obs"], index, f"{where}: obs"),
            next_obs=None if after is None else _vectors(after, index, f"{where}: new_obs"),
            actions=_actions(columns["actions"], index, f"{where}: actions"),
            rewards=np.asarray([columns["rewards"][i] for i in index], np.float64),
            terminateds=terminateds[index],
            truncateds=truncateds[index],
            has_truncateds=columns.get("truncateds") is not None,
            times=None if columns.get("t") is None else np.asarray(columns["t"])[index],
        )
        for (episode, agent), index in rows.items()
    ]


def _ends(columns: Mapping[str, Any], count: int, where: str) -> tuple[BoolArray, BoolArray]:
    """Return terminateds and truncateds, (count,); dones that are no truncateds are terminal."""
    stops = columns.get("truncateds")
    truncateds = np.zeros(count, bool) if stops is None else np.asarray(stops, bool)
    ends = columns.get("terminateds")
    if ends is not None:
        return np.asarray(ends, bool), truncateds
    dones = columns.get("dones")
    if dones is None:
        raise DataError(f"{where} lacks terminateds and dones; record one of them.")
    return np.asarray(dones, bool) & ~truncateds, truncateds


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _vectors(values: Any, index: Sequence[int], where: str) -> AnyArray:
    """Return rows of a column as (T, features); a row may be packed on its own."""
    rows = [np.asarray(unpack(values[i], where)) for i in index]
    shapes = {row.shape for row in rows}
    if len(shapes) > 1 or rows[0].ndim > 1 or rows[0].dtype.kind not in "fiub":
        raise DataError(
            f"{where} must be vectors of one length, got {sorted(shapes)}; flatten the "
            "observations before recording."
        )
    return np.stack(rows).reshape(len(rows), -1)


def _actions(values: Any, index: Sequence[int], where: str) -> AnyArray:
    """Return actions (T, A), or (T,) if they are integers."""
    array = _vectors(values, index, where)
    if array.shape[1] == 1 and np.issubdtype(array.dtype, np.integer):
        return array[:, 0]
    return array


def _episode(item: Any, where: str) -> list[Fragment]:
    """Read the state of a SingleAgentEpisode or of a MultiAgentEpisode."""
    state = unpack_state(item, where) if isinstance(item, bytes) else item
    if "agent_episodes" not in state:
        name = state["agent_id"] if state["agent_id"] is not None else "agent_0"
        episode = state.get("multi_agent_episode_id") or state["id_"]
        return _single(state, episode, str(name), where)
    pieces = []
    for name, single in state["agent_episodes"]:
        for piece in _single(single, state["id_"], str(name), where):
            # RLlib's make_multi_agent calls an episode terminated when nobody goes on, at a time
            # limit too (env/multi_agent_env.py:446, 2.60.0), and its agents with it.
            is_cut = piece.truncateds[-1] or state["is_truncated"]
            fell = piece.terminateds[-1] and not piece.truncateds[-1]
            piece.terminateds[-1] = fell or (state["is_terminated"] and not is_cut)
            piece.truncateds[-1] = is_cut
            pieces.append(piece)
    return pieces


def _single(state: Mapping[str, Any], episode: Any, name: str, where: str) -> list[Fragment]:
    """Return the piece that a state holds, without its lookback; none if nothing was done."""
    obs, actions, rewards = (
        state[key]["data"][state[key]["lookback"] :]
        for key in ("observations", "actions", "rewards")
    )
    steps = len(rewards)
    if steps == 0:
        return []
    if len(obs) != steps + 1 or len(actions) != steps:
        raise DataError(
            f"{where}, episode {episode}, agent {name}: {len(obs)} observations and "
            f"{len(actions)} actions for {steps} rewards, expected {steps + 1} and {steps}."
        )
    flags = np.zeros((2, steps), bool)
    flags[:, -1] = state["is_terminated"], state["is_truncated"]
    vectors = _vectors(obs, range(steps + 1), f"{where}: observations of {name}")
    return [
        Fragment(
            where,
            episode,
            name,
            obs=vectors[:-1],
            next_obs=vectors[1:],
            actions=_actions(actions, range(steps), f"{where}: actions of {name}"),
            rewards=np.asarray(rewards, np.float64),
            terminateds=flags[0],
            truncateds=flags[1],
            action_space=box_of(state["actions"].get("space") or state.get("_action_space")),
        )
    ]
