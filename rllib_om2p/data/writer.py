"""Writes team episodes to Parquet files of the contract, atomically and byte for byte repeatable.

Knows nothing of environments or learners. Everything is written into the hidden directory
`.writing` first; on success the files are moved into place and the dataset card comes last, and a
directory without a card does not open as a dataset. Overwriting removes the former dataset and no
other file, once the new one is in place. A killed writer leaves `.writing`, which the next writer
of that directory removes, or, with `resume=True`, continues: whole files stay, and since files and
row groups depend on the episodes alone, the bytes are those of an unbroken run. One that was killed
while it moved files leaves some in both places; the next writer first moves all of them back (see
`publishing`). While one writes, the lock `.writing.lock` keeps others out.

Axes: E episodes, T acting steps, R rows (T + 1 per episode), O observation, A action features.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rllib_om2p.data import parts, publishing
from rllib_om2p.data.checks import RowIndex, check_values
from rllib_om2p.data.decode import RowRange, decode
from rllib_om2p.data.files import SourceFile
from rllib_om2p.data.lock import FileLock, HeldError
from rllib_om2p.data.schema import (
    CARD_NAME,
    CONTENT_KEY,
    SCHEMA_VERSION,
    SPEC_KEY,
    AnyArray,
    Column,
    DataError,
    DatasetSpec,
    Episode,
    arrow_schema,
    contract_columns,
)
from rllib_om2p.data.statistics import DatasetStatistics, StatisticsAccumulator
from rllib_om2p.disk import local_path

logger = logging.getLogger(__name__)

WRITING_NAME = ".writing"
LOCK_NAME = ".writing.lock"
ZSTD_LEVEL = 3

_PART_NAME = re.compile(r"part-\d{5,}\.parquet")


class _HashingFile:
    """A binary file that hashes what is written, so that no file is read twice."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if not self._file.closed:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class _PartFile:
    """One Parquet file in the making."""

    def __init__(self, path: Path, schema: pa.Schema, columns: Mapping[str, Column]) -> None:
        self.name = path.name
        self.rows = self.transitions = self.row_groups = 0
        self._columns = columns
        self._schema = schema
        self._content = hashlib.sha256()
        self._file = _HashingFile(path)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._file, mode="w"),
            schema,
            compression="zstd",
            compression_level=ZSTD_LEVEL,
            use_dictionary=False,
            column_encoding=_encodings(columns),
        )

    def write_row_group(self, values: Mapping[str, AnyArray]) -> None:
        arrays = []
        for column in self._columns.values():
            array = np.ascontiguousarray(values[column.name])
            self._content.update(array.data)
            arrays.append(_arrow_array(column, array))
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=table.num_rows)
        self.rows += table.num_rows
        self.transitions += int(np.count_nonzero(values["valid"]))
        self.row_groups += 1

    def finish(self) -> dict[str, Any]:
        """Close the file and return its entry for the dataset card."""
        content = self._content.hexdigest()
        self._writer.add_key_value_metadata({CONTENT_KEY: content.encode()})
        self._writer.close()
        self._file.close()
        return {
            "name": self.name,
            "rows": self.rows,
            "episodes": self.rows - self.transitions,
            "transitions": self.transitions,
            "row_groups": self.row_groups,
            "bytes": self._file.num_bytes,
            "sha256": self._file.sha256.hexdigest(),
            "content_sha256": content,
        }

    def abandon(self) -> None:
        """Close the file, whatever state it is in; what fails now (a full disk) failed before."""
        for closing in (self._writer, self._file):
            try:
                closing.close()
            except (OSError, pa.ArrowException) as error:
                logger.debug("Closing unfinished %s: %s", self.name, error)


def _encodings(columns: Mapping[str, Column]) -> dict[str, str]:
    encodings = {}
    for column in columns.values():
        element = column.type.value_type if pa.types.is_fixed_size_list(column.type) else None
        path = f"{column.name}.list.element" if element is not None else column.name
        if pa.types.is_floating(element or column.type):
            encodings[path] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_integer(element or column.type):
            encodings[path] = "DELTA_BINARY_PACKED"
    return encodings


def _arrow_array(column: Column, array: AnyArray) -> pa.Array:
    if pa.types.is_fixed_size_list(column.type):
        flat = pa.array(array.reshape(-1), type=column.type.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=column.type)
    return pa.array(array, type=column.type)


class DatasetWriter:
    """Writes a dataset; use it as a context manager.

    ```python
    with DatasetWriter("data/medium", spec) as writer:
        writer.write_episode(episode)
    ```

    Leaving the block without an error publishes the dataset; leaving it with one publishes nothing.

    Args:
        directory: Where the dataset goes; made if missing.
        spec: What the dataset says about itself.
        rows_per_group: Rows per row group; an episode longer than that gets a group of its own.
        rows_per_file: Rows per file.
        overwrite: Replace a dataset that is already there. Parquet files that are not of it are
            never removed.
        resume: Continue what a killed or failed writer with the same spec and sizes left: its
            whole files stay, `num_episodes` says how many episodes they hold, and the caller goes
            on with the next. After an error the whole files stay for the next attempt.

    Raises:
        DataError: Another writer is at work in the directory, it holds a dataset and `overwrite` is
            False, or other Parquet files, an episode breaks the contract, or none was written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        spec: DatasetSpec,
        *,
        rows_per_group: int = 20_000,
        rows_per_file: int = 2_000_000,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        if rows_per_group < 2 or rows_per_file < rows_per_group:
            raise ValueError(
                "rows_per_group must be at least 2 and rows_per_file at least rows_per_group, got "
                f"{rows_per_group} and {rows_per_file}."
            )
        self.directory = local_path(directory)
        self.spec = spec
        self._rows_per_group, self._rows_per_file = rows_per_group, rows_per_file
        self._overwrite, self._resume = overwrite, resume
        self._columns = contract_columns(spec)
        self._schema = arrow_schema(spec)
        self._statistics = StatisticsAccumulator(spec)
        self._pending: list[dict[str, AnyArray]] = []
        self._pending_rows = 0
        self._num_episodes = 0
        self._part: _PartFile | None = None
        self._files: list[dict[str, Any]] = []
        self._open = self._is_whole = self._is_between = False

    def __enter__(self) -> DatasetWriter:
        self._lock = self._lock_directory()
        try:
            self._check_directory()
            self._temporary.mkdir(exist_ok=True)
            if self._resume:
                self._take_up()
        except BaseException:
            self._lock.release()
            raise
        self._open = True
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error_type is None:
                self._publish()
        finally:
            self._open = False
            try:
                self._clean_up()
            finally:
                self._lock.release()

    @property
    def num_episodes(self) -> int:
        """Episodes taken so far, those of a resumed writer's whole files included."""
        return self._num_episodes

    @property
    def _temporary(self) -> Path:
        return self.directory / WRITING_NAME

    def _clean_up(self) -> None:
        """Remove what nobody needs; without a whole dataset a resumed writer needs whole files."""
        if self._part is not None:
            self._part.abandon()
        if self._is_between:
            return  # Files lie in both places; the next writer moves them back.
        if self._resume and self._files and not self._is_whole:
            parts.remove_unfinished(self._temporary, self._files)
        else:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _lock_directory(self) -> FileLock:
        if self.directory.exists() and not self.directory.is_dir():
            raise DataError(f"{self.directory} is a file; give a directory.")
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            return FileLock(self.directory / LOCK_NAME)
        except HeldError as error:
            raise DataError(
                f"{self.directory} is being written by {error}. Wait for it, end it, or choose "
                "another directory."
            ) from None

    def _check_directory(self) -> None:
        publishing.settle(self._temporary)
        own = self._published()
        others = sorted(set(self.directory.glob("*.parquet")) - set(own))
        if others:
            raise DataError(
                f"{self.directory} holds {others[0].name}, which is not of a dataset there and is "
                f"not overwritten ({len(others)} such files); move it away or choose another "
                "directory."
            )
        if own and not self._overwrite:
            raise DataError(
                f"{self.directory} already holds {own[0].name} ({len(own)} such files); choose "
                "another directory or pass overwrite=True."
            )

    def _take_up(self) -> None:
        """Continue after the whole files of a former writer with the same spec and sizes."""
        self._files = parts.load_journal(self._temporary, self._key)
        parts.remove_unfinished(self._temporary, self._files)
        names = self._statistics.columns(self.spec)
        for entry in self._files:
            source = SourceFile(pafs.LocalFileSystem(), str(self._temporary / entry["name"]))
            for group in range(entry["row_groups"]):
                rows = pq.read_metadata(source.path).row_group(group).num_rows
                values, index = decode(RowRange(source, group, 0, rows), self._columns, names)
                self._statistics.add(values, index.valid)
            self._num_episodes += entry["episodes"]

    @property
    def _key(self) -> str:
        """What must be equal for one writer to continue another's work."""
        sizes = f"{self._rows_per_group} {self._rows_per_file}"
        return hashlib.sha256(f"{self.spec.to_json()} {sizes}".encode()).hexdigest()

    def _published(self) -> list[Path]:
        """Return the card and its files; without one, the parts of a half-published set."""
        card = self.directory / CARD_NAME
        names = publishing.named_files(card)
        own = [
            path
            for path in sorted(self.directory.glob("*.parquet"))
            if (_is_part(path) if names is None else path.name in names)
        ]
        return [card] * card.exists() + own

    def write_episode(self, episode: Episode) -> None:
        """Write one episode.

        Raises:
            DataError: The episode breaks the contract; the text names agent, step and remedy.
        """

        def batch(arrays: Mapping[str, AnyArray] | None) -> dict[str, AnyArray] | None:
            if arrays is None:
                return None
            return {name: np.asarray(array)[None] for name, array in arrays.items()}

        self.write_batch(
            batch(episode.obs) or {},
            batch(episode.actions) or {},
            batch(episode.rewards) or {},
            batch(episode.terminateds) or {},
            truncated=np.array([episode.truncated]),
            state=None if episode.state is None else np.asarray(episode.state)[None],
            action_masks=batch(episode.action_masks),
            alive=batch(episode.alive),
            behaviour_id=None if episode.behaviour_id is None else np.array([episode.behaviour_id]),
        )

    def write_batch(
        self,
        obs: Mapping[str, AnyArray],
        actions: Mapping[str, AnyArray],
        rewards: Mapping[str, AnyArray],
        terminateds: Mapping[str, AnyArray],
        *,
        truncated: AnyArray,
        state: AnyArray | None = None,
        action_masks: Mapping[str, AnyArray] | None = None,
        alive: Mapping[str, AnyArray] | None = None,
        behaviour_id: AnyArray | None = None,
    ) -> None:
        """Write E episodes of the same length T, without a Python loop over episodes.

        Values are stored as float32; float64 input is rounded.

        Args:
            obs: Per agent (E, T + 1, O), the last step is the final observation. E may be 0:
                nothing is written.
            actions: Per agent (E, T, A), or (E, T) integers when discrete.
            rewards: Per agent (E, T).
            terminateds: Per agent (E, T) bool.
            truncated: (E,) bool, whether each episode was stopped from outside.
            state: (E, T + 1, S) if the spec has a state.
            action_masks: Per discrete agent (E, T + 1, A) bool if the spec has action masks.
            alive: Per agent (E, T + 1) bool if the spec has them.
            behaviour_id: (E,) integers if the spec has them.

        Raises:
            DataError: The input breaks the contract; the text names agent, episode and step.
        """
        if not self._open:
            raise RuntimeError("Use the writer inside its with block.")
        given = {
            **{f"obs_{name}": array for name, array in obs.items()},
            **{f"action_{name}": array for name, array in actions.items()},
            **{f"reward_{name}": array for name, array in rewards.items()},
            **{f"terminated_{name}": array for name, array in terminateds.items()},
            **{f"action_mask_{name}": array for name, array in (action_masks or {}).items()},
            **{f"alive_{name}": array for name, array in (alive or {}).items()},
        }
        optional = {"state": state, "behaviour_id": behaviour_id}
        given.update({name: array for name, array in optional.items() if array is not None})
        rows = self._rows(given, np.asarray(truncated))
        if not len(rows["step"]):
            return
        index = RowIndex(rows["episode_id"], rows["step"], rows["valid"])
        check_values(self._columns, rows, index, f"{self.directory} (being written)")
        self._check_first_agent(rows)
        self._num_episodes += int(np.count_nonzero(~index.valid))
        self._append(rows)

    def _check_first_agent(self, rows: Mapping[str, AnyArray]) -> None:
        """Refuse that the agent whose reward is the team's is away: the others would earn 0."""
        first = self.spec.agent_ids[0]
        alive = rows.get(f"alive_{first}")
        if self.spec.team_return != "agent 0" or alive is None:
            return
        away = np.flatnonzero(rows["valid"] & ~alive)
        if len(away):
            raise DataError(
                f"{self.directory}: the team's reward is that of {first} (team_return='agent 0'), "
                f"who is absent at episode {rows['episode_id'][away[0]]}, step "
                f"{rows['step'][away[0]]}; set team_return='sum' or 'mean over agents', or list an "
                "agent first that is always there."
            )

    def _rows(self, given: Mapping[str, AnyArray], truncated: AnyArray) -> dict[str, AnyArray]:
        """Return all columns as rows (E * (T + 1), width), final rows included."""
        made = {"episode_id", "step", "truncated", "valid"}
        expected = set(self._columns) - made
        if set(given) != expected:
            raise DataError(
                f"{self.directory}: the episodes lack {sorted(expected - set(given))} and bring "
                f"{sorted(set(given) - expected)} that the spec does not have; the spec's agents "
                f"are {list(self.spec.agent_ids)}."
            )
        reward = np.asarray(given[f"reward_{self.spec.agent_ids[0]}"])
        if reward.ndim != 2 or reward.shape[1] == 0 or truncated.shape != reward.shape[:1]:
            raise DataError(
                f"{self.directory}: rewards must be (episodes, steps) with at least one step and "
                f"truncated (episodes,), got {reward.shape} and {truncated.shape}."
            )
        num_episodes, num_steps = reward.shape
        shape = (num_episodes, num_steps + 1)
        rows: dict[str, AnyArray] = {}
        for name in self._columns:
            if name not in made:
                rows[name] = self._fill(self._columns[name], np.asarray(given[name]), shape)
        ids = self._num_episodes + np.arange(num_episodes, dtype=np.int64)
        rows["episode_id"] = np.repeat(ids, num_steps + 1)
        rows["step"] = np.tile(np.arange(num_steps + 1, dtype=np.int32), num_episodes)
        self._check_type("truncated", truncated, np.dtype(bool))
        flags = np.zeros(shape, bool)
        flags[:, num_steps - 1] = truncated
        rows["truncated"] = flags.reshape(-1)
        rows["valid"] = rows["step"] < num_steps
        return rows

    def _fill(self, column: Column, array: AnyArray, shape: tuple[int, int]) -> AnyArray:
        """Return one column as rows in its stored type; final rows of acting columns are zero."""
        num_episodes, num_rows = shape
        is_vector = pa.types.is_fixed_size_list(column.type)
        dtype = (column.type.value_type if is_vector else column.type).to_pandas_dtype()
        tail = (column.width,) if is_vector else ()
        acting = column.kind in ("action", "reward", "terminated")
        expected: tuple[int, ...] = (num_episodes, num_rows - 1 if acting else num_rows, *tail)
        if column.kind == "behaviour_id":
            expected = (num_episodes,)
        agent = f" of agent {column.agent.name}" if column.agent is not None else ""
        if array.shape != expected:
            raise DataError(
                f"{self.directory}: {column.kind}{agent} must be {expected} (episodes, steps"
                f"{'' if acting else ' + final'}, features), got {array.shape}."
            )
        self._check_type(f"{column.kind}{agent}", array, np.dtype(dtype))
        if column.kind == "behaviour_id":
            return np.repeat(array.astype(dtype), num_rows)
        if not acting:
            return array.astype(dtype, copy=True).reshape(-1, *tail)
        rows = np.zeros((num_episodes, num_rows, *tail), dtype)
        rows[:, :-1] = array
        return rows.reshape(-1, *tail)

    def _check_type(self, what: str, array: AnyArray, dtype: np.dtype[Any]) -> None:
        """Refuse values that storing would turn into others: fractions, 2 as a flag, 2**40."""
        if np.issubdtype(dtype, np.integer):
            expected = f"integers from {np.iinfo(dtype).min} to {np.iinfo(dtype).max}"
            is_kept = np.issubdtype(array.dtype, np.integer) and np.array_equal(
                array, array.astype(dtype)
            )
        else:
            expected = "true or false"
            is_kept = dtype != np.bool_ or np.array_equal(array, array.astype(dtype))
        if not is_kept:
            span = f", from {array.min()} to {array.max()}" if array.size else ""
            raise DataError(
                f"{self.directory}: {what} must be {expected}, got {array.dtype}{span}."
            )

    def _append(self, rows: dict[str, AnyArray]) -> None:
        """Cut rows into row groups of whole episodes, however the calls were grouped."""
        episode_rows = int(rows["step"].max()) + 1
        start, total = 0, len(rows["step"])
        while start < total:
            room = (self._rows_per_group - self._pending_rows) // episode_rows * episode_rows
            if room <= 0 and self._pending_rows:
                self._flush()
                continue
            stop = min(total, start + max(room, episode_rows))
            self._pending.append({name: array[start:stop] for name, array in rows.items()})
            self._pending_rows += stop - start
            start = stop

    def _flush(self) -> None:
        if not self._pending:
            return
        chunks, self._pending = self._pending, []
        values = {name: np.concatenate([c[name] for c in chunks]) for name in self._columns}
        num_rows, self._pending_rows = self._pending_rows, 0
        if self._part is not None and self._part.rows + num_rows > self._rows_per_file:
            self._finish_part()
        if self._part is None:
            path = self._temporary / f"part-{len(self._files):05d}.parquet"
            self._part = _PartFile(path, self._schema, self._columns)
        self._part.write_row_group(values)
        self._statistics.add(values, values["valid"])

    def _finish_part(self) -> None:
        if self._part is not None:
            self._files.append(self._part.finish())
            self._part = None
            if self._resume:
                parts.save_journal(self._temporary, self._key, self._files)

    def _publish(self) -> None:
        self._flush()
        self._finish_part()
        if not self._files:
            raise DataError(f"{self.directory}: no episode was written; there is no dataset.")
        card = dataset_card(self.spec, self._files, self._statistics.result())
        card_path = self._temporary / CARD_NAME
        with card_path.open("w", encoding="utf-8") as file:
            file.write(card)
            file.flush()
            os.fsync(file.fileno())
        self._is_between = True
        try:
            names = [entry["name"] for entry in self._files]
            publishing.publish(self._temporary, names, self._published())
        finally:
            publishing.settle(self._temporary)
            self._is_between = False
            self._is_whole = not card_path.exists()


def dataset_card(
    spec: DatasetSpec, files: list[dict[str, Any]], statistics: DatasetStatistics
) -> str:
    """Return the text of `dataset_card.json`."""
    card = {
        "schema_version": SCHEMA_VERSION,
        "spec": spec.to_dict(),
        "counts": {
            "episodes": statistics.num_episodes,
            "transitions": statistics.num_transitions,
            "rows": sum(entry["rows"] for entry in files),
        },
        "time_limits": "truncated = true on the last acting row; terminated stays false",
        "statistics": statistics.to_dict(),
        "files": files,
    }
    return json.dumps(card, indent=1, sort_keys=True) + "\n"


def _is_part(path: Path) -> bool:
    """Whether a file is one that a writer moved into place."""
    if not _PART_NAME.fullmatch(path.name):
        return False
    try:
        return SPEC_KEY in (pq.read_metadata(path).metadata or {})
    except (OSError, pa.ArrowException) as error:
        logger.debug("No part at %s: %s", path, error)
        return False
