"""Opens datasets of team episodes and hands out their rows, sharded by episode.

Knows files of the contract; Ray Data is used when it runs (see ray_source), nothing else of Ray.
All structure is checked when a dataset is opened: footers, columns, and the order and completeness
of every episode. Values are checked when they are read.

Axes: R rows, C packed columns, T acting steps, E episodes.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from rllib_om2p.data.checks import RowIndex, episode_starts
from rllib_om2p.data.decode import PackedBlock, RowRange, content_mark, decode, try_pack
from rllib_om2p.data.files import Input, OpenFile, find, in_threads, open_files
from rllib_om2p.data.schema import (
    AnyArray,
    Column,
    DataError,
    DatasetSpec,
    Episode,
    contract_columns,
)
from rllib_om2p.data.statistics import DatasetStatistics, StatisticsAccumulator

logger = logging.getLogger(__name__)

__all__ = ["OfflineDataset", "PackedBlock"]


class _EpisodeIndex(NamedTuple):
    """Where each episode lies.

    Args:
        ranges: Every row group, whole.
        group: Position in `ranges` of each episode's row group, (E,), ascending.
        start: First row of each episode in its row group, (E,).
        length: Acting steps of each episode, (E,).
    """

    ranges: list[RowRange]
    group: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]

    def part(self, keep: npt.NDArray[np.bool_]) -> _EpisodeIndex:
        """Return the index of the episodes where `keep` (E,) is True."""
        ranges: list[RowRange] = []
        groups: list[npt.NDArray[np.int64]] = []
        # Episodes are in the order of their row groups.
        bounds = np.searchsorted(self.group, np.arange(len(self.ranges) + 1))
        for rows, first, end in zip(self.ranges, bounds[:-1], bounds[1:], strict=True):
            kept = keep[first:end]
            if not kept.any():
                continue
            groups.append(np.full(int(kept.sum()), len(ranges), np.int64))
            starts = self.start[first:end][~kept]
            stops = starts + self.length[first:end][~kept] + 1
            gaps = zip(starts.tolist(), stops.tolist(), strict=True)
            left_out = sorted({*rows.left_out, *gaps})
            ranges.append(rows._replace(left_out=tuple(left_out)))
        return _EpisodeIndex(ranges, np.concatenate(groups), self.start[keep], self.length[keep])


class OfflineDataset:
    """Recorded team episodes, wherever they lie; make one with `OfflineDataset.open`.

    Args:
        files: Opened files of one dataset.
        card: The dataset card, if the input was one directory.
    """

    def __init__(self, files: Sequence[OpenFile], card: dict[str, Any] | None = None) -> None:
        self._files = list(files)
        self.spec: DatasetSpec = _united_spec(self._files)
        self.files: tuple[str, ...] = tuple(file.source.path for file in self._files)
        self.fingerprint = _fingerprint(self._files)
        self._columns = contract_columns(self.spec)
        self._index = _index(self._files, self._columns)
        self._statistics = _card_statistics(self._files, card)

    @classmethod
    def open(cls, input_: Input, *, filesystem: Any = None) -> OfflineDataset:
        """Open a dataset and check its structure.

        Args:
            input_: A directory with a dataset card, a Parquet file, a glob, a URI that pyarrow or
                fsspec reads (file://, s3://, gs://, hf://, ...), or a list of these.
            filesystem: The file system (of pyarrow or fsspec) in which the paths lie; found from
                the URI when None.

        Raises:
            DataError: The input is missing, empty, half-written or not of the contract.
        """
        found = find(input_, filesystem)
        return cls(open_files(found.files), found.card)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self._index.length)

    @property
    def num_transitions(self) -> int:
        """Number of acting rows (joint steps)."""
        return int(self._index.length.sum())

    def __repr__(self) -> str:
        return (
            f"OfflineDataset({self.spec.dataset_id}: {self.num_episodes} episodes, "
            f"{self.num_transitions} transitions, {len(self.files)} files)"
        )

    def split(self, fraction: float) -> tuple[OfflineDataset, OfflineDataset]:
        """Return the dataset without some episodes, and these: the same ones every time.

        Args:
            fraction: Share of the episodes that is held out, in (0, 1); at least one is.

        Raises:
            DataError: A part would have no episode.
        """
        num_held_out = max(1, round(fraction * self.num_episodes))
        if not 0 < fraction < 1 or num_held_out >= self.num_episodes:
            raise DataError(
                f"the held-out fraction must be in (0, 1) and leave episodes on both sides, got "
                f"{fraction} of {self.num_episodes} episodes of {self.spec.dataset_id}."
            )
        # At random, since mixtures may be ordered; by a fixed seed, so that all processes agree.
        order = np.random.default_rng(0).permutation(self.num_episodes)
        held_out = np.zeros(self.num_episodes, bool)
        held_out[order[:num_held_out]] = True
        return self._part(~held_out), self._part(held_out)

    def _part(self, keep: npt.NDArray[np.bool_]) -> OfflineDataset:
        part = copy.copy(self)
        part._index = self._index.part(keep)
        part._statistics = None
        return part

    def _column(self, name: str) -> Column:
        if name not in self._columns:
            raise DataError(
                f"{self.spec.dataset_id} has no column {name!r}; it has {list(self._columns)}."
            )
        return self._columns[name]

    def block_rows(self, *, rank: int = 0, num_shards: int = 1) -> list[int]:
        """Return the rows, final rows included, of each block of a shard, in file order."""
        return [rows.num_rows for rows in self._shard_ranges(rank, num_shards)]

    def blocks(
        self,
        columns: Sequence[str],
        *,
        rank: int = 0,
        num_shards: int = 1,
        shuffle_seed: int | None = None,
        first: int = 0,
        use_ray: bool | None = None,
        skip_corrupt: bool = False,
    ) -> Iterator[PackedBlock]:
        """Read columns of one shard as packed, checked blocks of whole episodes.

        A shard is a contiguous range of episodes with about the same number of transitions as the
        others; only the row groups that it touches are read, one block each.

        Args:
            columns: Column names of the contract, in the order of the packed columns.
            rank: Which shard.
            num_shards: Number of shards.
            shuffle_seed: Shuffles the order of the blocks; None keeps the order of the files.
            first: Number of the first block, in that order; those before it are not read.
            use_ray: Read through Ray Data (True) or in this process (False), with equal results;
                None takes Ray Data if Ray is running.
            skip_corrupt: Yield a row group that is damaged, or whose rows break the contract, as an
                empty block with its `error`.

        Raises:
            DataError: A column is unknown, there are more shards than episodes, or (while
                iterating) storage cannot be reached or, without `skip_corrupt`, rows are damaged
                or break the contract.
        """
        names = list(columns)
        if not names or len(set(names)) != len(names) or "episode_id" in names:
            raise DataError(
                "blocks needs different column names without episode_id (each block brings it as "
                f"integers), got {names}."
            )
        for name in names:
            self._column(name)
        ranges = self._shard_ranges(rank, num_shards)
        if shuffle_seed is not None:
            order = np.random.default_rng(shuffle_seed).permutation(len(ranges))
            ranges = [ranges[i] for i in order]
        ranges = ranges[first:]
        if use_ray is None:
            use_ray = _ray_is_running() and not self._is_in_memory()
        if use_ray:
            from rllib_om2p.data.ray_source import iter_blocks

            blocks = iter_blocks(ranges, self._columns, names)
        else:
            blocks = (try_pack(rows, self._columns, names) for rows in ranges)
        return (block.check(may_be_damaged=skip_corrupt) for block in blocks)

    def _is_in_memory(self) -> bool:
        """Whether files lie in this process, where no Ray worker finds them."""
        names = {file.source.filesystem.type_name for file in self._files}
        return any(name.endswith("fsspec+memory") for name in names)

    def _shard_cuts(self, num_shards: int) -> list[int]:
        """Return the first episode of each shard, and the number of episodes at the end."""
        num_episodes = self.num_episodes
        if not 1 <= num_shards <= num_episodes:
            raise DataError(
                f"{self.spec.dataset_id} has {num_episodes} episodes, which cannot be split into "
                f"{num_shards} shards of whole episodes; use between 1 and {num_episodes} learners."
            )
        ends = np.concatenate([[0], np.cumsum(self._index.length)])
        cuts = [0]
        for shard in range(1, num_shards):
            nearest = int(np.abs(ends - ends[-1] * shard / num_shards).argmin())
            cuts.append(min(max(nearest, cuts[-1] + 1), num_episodes - (num_shards - shard)))
        return [*cuts, num_episodes]

    def _shard_ranges(self, rank: int, num_shards: int) -> list[RowRange]:
        cuts = self._shard_cuts(num_shards)
        if not 0 <= rank < num_shards:
            raise ValueError(f"rank must be in 0 .. {num_shards - 1}, got {rank}.")
        first, last = cuts[rank], cuts[rank + 1] - 1
        index = self._index
        ranges = index.ranges[index.group[first] : index.group[last] + 1]
        stop = int(index.start[last] + index.length[last] + 1)
        ranges[-1] = ranges[-1]._replace(stop=stop)
        ranges[0] = ranges[0]._replace(start=int(index.start[first]))
        return ranges

    def statistics(self) -> DatasetStatistics:
        """Return the dataset's statistics: from its card if that fits the files, else by one pass.

        Raises:
            DataError: Rows break the contract.
        """
        if self._statistics is None:
            accumulator = StatisticsAccumulator(self.spec)
            names = accumulator.columns(self.spec)
            for values, index in self.row_groups(names):
                accumulator.add(values, index.valid)
            self._statistics = accumulator.result()
        return self._statistics

    def row_groups(self, columns: Sequence[str]) -> Iterator[tuple[dict[str, AnyArray], RowIndex]]:
        """Read columns row group by row group as they are stored, checked, in this process.

        Args:
            columns: Column names of the contract.

        Yields:
            The columns by name, (R, width) or (R,), and where each row belongs.
        """
        for name in columns:
            self._column(name)
        for rows in self._index.ranges:
            yield decode(rows, self._columns, columns)

    def is_ever_true(self, columns: Sequence[str]) -> bool:
        """Return whether one of these flags is true in some row.

        Footers say so of most row groups; only those that they leave open are read.

        Args:
            columns: Names of the contract's columns of flags.
        """
        footers = {file.source.path: file.metadata for file in self._files}
        return any(
            decoded[name].any()
            for rows in self._index.ranges
            if (names := [n for n in columns if _may_hold(footers[rows.source.path], rows, n)])
            for decoded, _ in [decode(rows, self._columns, names)]
            for name in names
        )

    def episodes(self, columns: Sequence[str] | None = None) -> Iterator[Episode]:
        """Read whole episodes, in order, with every value as it was written.

        Args:
            columns: Read only these columns of the contract; fields without a column stay empty.
        """
        names = list(columns) if columns is not None else list(self._columns)
        for values, index in self.row_groups(names):
            bounds = [*episode_starts(index.episode_ids), len(index.episode_ids)]
            for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
                cut = {name: array[start:stop] for name, array in values.items()}
                yield self._episode(cut, int(index.episode_ids[start]))

    def _episode(self, rows: dict[str, AnyArray], episode_id: int) -> Episode:
        parts: dict[str, dict[str, AnyArray]] = {}
        for name, array in rows.items():
            column = self._columns[name]
            if column.agent is not None:
                is_acting = column.kind in ("action", "reward", "terminated")
                part = array[:-1] if is_acting else array
                parts.setdefault(column.kind, {})[column.agent.name] = part
        behaviour = rows.get("behaviour_id")
        return Episode(
            obs=parts.get("obs", {}),
            actions=parts.get("action", {}),
            rewards=parts.get("reward", {}),
            terminateds=parts.get("terminated", {}),
            truncated=bool(rows["truncated"].any()) if "truncated" in rows else False,
            state=rows.get("state"),
            action_masks=parts.get("action_mask"),
            alive=parts.get("alive"),
            behaviour_id=None if behaviour is None else int(behaviour[0]),
            episode_id=episode_id,
        )

    def to_ray_dataset(self, columns: Sequence[str] | None = None) -> Any:
        """Return a plain Ray Data Dataset of the contract's rows, for work of your own.

        Values are not checked, and Ray Data may split and reorder episodes.

        Args:
            columns: Read only these columns.
        """
        names = list(columns) if columns is not None else list(self._columns)
        for name in names:
            self._column(name)
        from rllib_om2p.data.ray_source import stored_rows

        return stored_rows(self._index.ranges, names)


def _ray_is_running() -> bool:
    ray = sys.modules.get("ray")
    return bool(ray is not None and ray.is_initialized())


def _united_spec(files: Sequence[OpenFile]) -> DatasetSpec:
    """Return the spec of files that were opened together: what only some of them say is left out.

    The columns of all are alike (see `files.open_files`).
    """
    specs = [file.spec for file in files]
    first = specs[0]
    if all(spec == first for spec in specs):
        return first
    ids = list(dict.fromkeys(spec.dataset_id for spec in specs))
    values = first.to_dict() | {"dataset_id": " + ".join(ids), "parents": ids}
    unsaid = DatasetSpec("", first.agents)
    for item in dataclasses.fields(DatasetSpec):
        is_said_by_all = all(
            getattr(spec, item.name) == getattr(first, item.name) for spec in specs
        )
        if item.name not in ("dataset_id", "agents", "parents") and not is_said_by_all:
            values[item.name] = getattr(unsaid, item.name)
    return DatasetSpec.from_dict(values)


def _fingerprint(files: Sequence[OpenFile]) -> str:
    """Return a hash of what the files hold, wherever they lie and whatever they are called.

    What a spec says of where the rows come from is left out: rows that another version of a package
    makes alike, or that a later version of ours describes in other words, are the same data.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.spec.identity().encode())
        digest.update(file.content.encode())
    return digest.hexdigest()


def _index(files: Sequence[OpenFile], columns: dict[str, Column]) -> _EpisodeIndex:
    """Find every episode, and check that each is whole and in order."""
    ranges = [
        RowRange(
            file.source,
            group,
            0,
            file.metadata.row_group(group).num_rows,
            content=content_mark(file.metadata),
        )
        for file in files
        for group in range(file.metadata.num_row_groups)
        if file.metadata.row_group(group).num_rows > 0
    ]

    def starts(rows: RowRange) -> npt.NDArray[np.int64]:
        _, index = decode(rows, columns, [])
        return episode_starts(index.episode_ids)

    groups, firsts, lengths = [], [], []
    for number, (rows, first) in enumerate(zip(ranges, in_threads(starts, ranges), strict=True)):
        groups.append(np.full(len(first), number, np.int64))
        firsts.append(first)
        lengths.append(np.diff(np.append(first, rows.stop)) - 1)
    return _EpisodeIndex(
        ranges, np.concatenate(groups), np.concatenate(firsts), np.concatenate(lengths)
    )


def _card_statistics(
    files: Sequence[OpenFile], card: dict[str, Any] | None
) -> DatasetStatistics | None:
    """Return the card's statistics if the card describes exactly these files."""
    if card is None:
        return None
    listed = [entry.get("content_sha256") for entry in card["files"]]
    if listed != [file.content for file in files]:
        logger.warning(
            "The dataset card of %s does not fit its files; the statistics are taken from the "
            "files. Write the dataset again to renew the card.",
            files[0].spec.dataset_id,
        )
        return None
    try:
        return DatasetStatistics.from_dict(card["statistics"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"The dataset card of {files[0].spec.dataset_id} has damaged statistics ({error!r}); "
            "copy it again, or read the files without it as DIR/*.parquet."
        ) from error


def _may_hold(footer: pq.FileMetaData, rows: RowRange, name: str) -> bool:
    """Return whether a flag may be true in a row group, as far as its footer says."""
    chunk = footer.row_group(rows.group).column(footer.schema.names.index(name))
    found = chunk.statistics
    return found is None or not found.has_min_max or bool(found.max)
