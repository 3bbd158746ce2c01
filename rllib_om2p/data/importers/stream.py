"""The streaming core of every import: windows of episodes in, a whole, audited dataset out.

Knows the writer and the reader, and a source only as a `Recording`. At any time one window of
rows and one row group are in memory. Whole part files survive a kill or a full disk, and the same
command goes on after them; the bytes are those of an unbroken run.
"""

from __future__ import annotations

import difflib
import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rllib_om2p.data.audit import Audit, audit
from rllib_om2p.data.importers.locate import local_copy, remove_copy
from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.recording import EpisodeBatch, Progress, Recording
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import CARD_NAME, DataError, DatasetSpec
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.disk import FULL_DISK, local_path

SOURCES = ("omar", "og-marl", "omiga", "minari", "rllib")

# Rows of a part file: what an interrupted import may have to read again.
ROWS_PER_FILE = 200_000
SECONDS_BETWEEN_LINES = 5.0


def import_dataset(
    source: str,
    path: str | Path,
    *,
    out: str | Path,
    options: ImportOptions | None = None,
    overwrite: bool = False,
    rows_per_file: int = ROWS_PER_FILE,
    progress: Progress = lambda line: None,
) -> Audit:
    """Write a public dataset in the contract and return its audit.

    Args:
        source: One of `SOURCES`.
        path: Folder or file, or a URI that fsspec reads, such as hf://datasets/NAME/FOLDER.
        out: Folder of the new dataset. If a former import of the same files with the same options
            was interrupted there, it goes on.
        options: What the files do not say themselves.
        overwrite: Replace a dataset that is already there.
        rows_per_file: Rows of a part file.
        progress: Receives a line now and then.

    Raises:
        DataError: The source is unknown or its files break its layout; a package is missing; the
            disk is full; `out` holds a dataset.
    """
    options = options or ImportOptions()
    module = _module(source)
    options.check_used(source, module.OPTIONS)
    out = local_path(out)
    if (out / CARD_NAME).exists() and not overwrite:
        raise DataError(f"{out} already holds a dataset; choose another or pass --overwrite.")
    try:
        local, origin = local_copy(str(path), out, progress)
        recording = module.open_recording(local, origin, options, progress)
        _write(recording, out, options, overwrite, rows_per_file, progress)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise DataError(
            f"No space is left for {out} ({error}). Nothing half-written will be read; make room "
            "and give the same command again: it goes on after the whole files."
        ) from error
    remove_copy(out)
    for note in recording.notes:
        progress(f"note: {note}")
    return audit(OfflineDataset.open(str(out)))


def _module(source: str) -> Any:
    if source not in SOURCES:
        near = difflib.get_close_matches(str(source).lower(), SOURCES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(SOURCES)}."
        raise DataError(f"No source is called {source!r}; {hint}")
    try:
        return importlib.import_module(f"rllib_om2p.data.importers.{source.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise DataError(
            f"The source {source} needs the package {error.name}; install it with "
            "pip install 'rllib-om2p[import]'."
        ) from error


def _write(
    recording: Recording,
    out: Path,
    options: ImportOptions,
    overwrite: bool,
    rows_per_file: int,
    progress: Progress,
) -> None:
    writer = DatasetWriter(
        out,
        recording.spec,
        rows_per_group=min(20_000, rows_per_file),
        rows_per_file=rows_per_file,
        overwrite=overwrite,
        resume=True,
    )
    with writer:
        if writer.num_episodes:
            progress(f"{out}: going on after {writer.num_episodes} episodes")
        batches = recording.batches(writer.num_episodes)
        for batch in _reported(batches, writer, recording.num_episodes, progress):
            batch = _adjust(batch, recording, options)
            writer.write_batch(
                batch.obs,
                batch.actions,
                batch.rewards,
                batch.terminateds,
                truncated=batch.truncated,
                state=batch.state,
                action_masks=batch.action_masks,
                behaviour_id=batch.behaviour_id,
            )
    progress(f"{out}: {writer.num_episodes} episodes written; auditing")


def _reported(
    batches: Iterator[EpisodeBatch], writer: DatasetWriter, total: int | None, progress: Progress
) -> Iterator[EpisodeBatch]:
    last = time.monotonic()
    for batch in batches:
        yield batch
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            of = "" if total is None else f" of {total} ({writer.num_episodes / total:.0%})"
            progress(f"{writer.directory}: {writer.num_episodes}{of} episodes")


def _adjust(batch: EpisodeBatch, recording: Recording, options: ImportOptions) -> EpisodeBatch:
    """Move actions to other actuators and clip them, if asked for."""
    spec, actions = recording.spec, batch.actions
    if recording.actuators is not None:
        actions = move_actuators(spec, actions, recording.actuators)
    if options.clip_actions:
        boxes = {a.name: (a.action_low, a.action_high) for a in spec.agents if not a.num_actions}
        actions = actions | {
            name: np.clip(actions[name], *(np.array(end, np.float32) for end in box))
            for name, box in boxes.items()
        }
    return batch._replace(actions=actions)


def move_actuators(
    spec: DatasetSpec, actions: dict[str, Any], actuators: tuple[int, ...]
) -> dict[str, Any]:
    """Give feature k of the recorded joint action the place actuators[k] in ours.

    Args:
        spec: The dataset's agents, in order.
        actions: Per agent (E, T, A).
        actuators: A permutation of the joint action's features.

    Raises:
        DataError: The number of actuators is not that of the team's action features.
    """
    widths = [agent.action_dim for agent in spec.agents]
    if len(actuators) != sum(widths) or any(a.num_actions for a in spec.agents):
        raise DataError(
            f"--actuators must have {sum(widths)} places, one for each continuous action feature "
            f"of {list(spec.agent_ids)}, got {len(actuators)}."
        )
    joint = np.concatenate([actions[name] for name in spec.agent_ids], axis=-1)
    moved = np.empty_like(joint)
    moved[..., list(actuators)] = joint
    parts = np.split(moved, np.cumsum(widths)[:-1], axis=-1)
    return dict(zip(spec.agent_ids, parts, strict=True))
