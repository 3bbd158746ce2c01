"""Imports OMIGA's hdf5 files, the data of VGM2P as well.

Layout: keys `s`, `o`, `a`, `r`, `d` of shapes (T, n, dim): global state (of every agent; one is
kept), observations, actions, reward (shared by the agents) and done. A row with d = 1 is not a
step but the EXTRA row with the final observation, so an episode of 1000 steps has 1001 rows.

Ends of episodes: the original loader takes every d = 1 for terminal, the time limit included. Here
an end at the time limit is a truncation and an earlier one terminal; --at-limit terminated gives
the original reading. Rows after the last d = 1 are an episode without its final row: its last row
serves as that, and the episode counts as truncated.

Ant 2x4: the simulator behind the data drove actuator k with feature k of the joint action,
gymnasium-robotics drives it with feature (6 7 0 1 2 3 4 5)[k]; features are moved so that the same
actuators move, which hands half of each agent's features to the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rllib_om2p.data.importers.describe import describe, keep_agents, time_limit
from rllib_om2p.data.importers.known import ANT_ACTUATORS, find_task
from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.recording import (
    WINDOW_ROWS,
    IntArray,
    Progress,
    Recording,
    Rows,
    Segments,
    check_limit,
    cut,
    make_segments,
)
from rllib_om2p.data.schema import AgentSpec, AnyArray, DataError

OPTIONS = ("at_limit", "action_low", "action_high", "actuators")

_KEYS = ("s", "o", "a", "r", "d")


def open_recording(
    path: Path, origin: str, options: ImportOptions, progress: Progress
) -> Recording:
    """Open one hdf5 file.

    Raises:
        DataError: A key is missing, the keys have different lengths, nothing ends, or an episode
            is longer than the time limit.
    """
    file = _open(path)
    num_rows, num_agents = file["o"].shape[:2]
    task = find_task(options.env, origin)
    recorded = [f"agent_{i}" for i in range(num_agents)]
    kept = keep_agents(recorded, options, task, origin)
    width = {key: file[key].shape[-1] for key in _KEYS}
    agents = [
        AgentSpec.box(name, width["o"], width["a"], low=options.low, high=options.high)
        for name in kept.names
    ]
    notes = list(kept.notes)
    actuators = options.actuators
    is_ant = task is not None and task.env == "mamujoco/2x4-Ant"
    if is_ant and actuators is None and num_agents * width["a"] == len(ANT_ACTUATORS):
        actuators = ANT_ACTUATORS
        notes.append(
            f"the actions of the Ant are moved to the actuators {list(ANT_ACTUATORS)} of "
            "gymnasium-robotics, so that recorded and played actions mean the same; "
            "--actuators 0 1 2 3 4 5 6 7 keeps them as they are."
        )
    spec = describe(
        "omiga",
        path,
        origin,
        [path],
        agents,
        options,
        progress=progress,
        conventions={
            "episode_ends": "d = 1 marks an extra row with the final observation",
            "at_limit": options.at_limit or "truncated",
            "actuators": None if actuators is None else list(actuators),
        },
        notes=notes,
        state_dim=width["s"],
    )
    limit = time_limit(task, options)
    segments = _find_episodes(file, limit, options, notes)
    check_limit(segments, limit, lambda _: str(path))
    if limit is not None and len(segments.length) and (segments.length == limit - 1).mean() > 0.5:
        notes.append(
            f"most episodes have {limit - 1} steps, one less than the time limit: if d = 1 marks "
            f"the last step here, not an extra row, pass --time-limit {limit - 1}."
        )

    def read(stream: int, start: int, stop: int) -> Rows:
        return _read(file, kept.numbers, kept.names, slice(start, stop))

    return Recording(
        spec,
        lambda first: cut(segments, first, read, many_streams=False),
        len(segments.start),
        notes,
        actuators,
    )


def _open(path: Path) -> Any:
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.hdf5"))
        raise DataError(f"{path} is a folder, expected one .hdf5 file of OMIGA; it holds {files}.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path} is not a whole hdf5 file ({error}); it is cut short or of another format. "
            "Copy it again."
        ) from error
    missing = [key for key in _KEYS if not isinstance(file.get(key), h5py.Dataset)]
    if missing:
        raise DataError(
            f"{path} lacks {missing}, expected {list(_KEYS)}, got {sorted(file)}; is it a file "
            "of OMIGA? For episode groups use the source minari."
        )
    for key in ("o", "a", "s"):
        if file[key].ndim != 3 or file[key].shape[1] != file["o"].shape[1]:
            raise DataError(
                f"{path}: {key} must be (rows, agents, features) with the agents of o, got "
                f"{file[key].shape}; o is {file['o'].shape}."
            )
    lengths = {key: len(file[key]) for key in _KEYS}
    if len(set(lengths.values())) > 1 or not lengths["o"]:
        raise DataError(f"{path}: keys must have equally many rows, got {lengths}; copy it again.")
    return file


def _find_episodes(
    file: Any, limit: int | None, options: ImportOptions, notes: list[str]
) -> Segments:
    num_rows = len(file["d"])
    done = np.zeros(num_rows, bool)
    for low in range(0, num_rows, WINDOW_ROWS):
        flags = np.asarray(file["d"][low : low + WINDOW_ROWS])
        done[low : low + len(flags)] = flags.reshape(len(flags), -1).max(axis=1) > 0.5
    final: IntArray = np.flatnonzero(done)
    if not final.size and limit is None:
        raise DataError(
            f"{file.filename}: d is 0 everywhere, so no episode ends; the final row of each must "
            "hold d = 1. Write d again, or use another source."
        )
    is_cut = not final.size or final[-1] < num_rows - 1
    if is_cut:
        final = np.append(final, num_rows - 1)
    start = np.append(0, final[:-1] + 1)
    all_done = np.ones(len(final), bool)
    all_done[-1] = not is_cut
    segments = make_segments(
        0, start, final - start, final, all_done=all_done, limit=limit, at_limit=options.at_limit
    )
    if is_cut:
        notes.append(
            f"rows {start[-1]} to {num_rows - 1} have no final row (d = 1); the last of them "
            "serves as final observation, and the episode counts as truncated."
        )
    empty = segments.length == 0
    if empty.any():
        notes.append(f"{int(empty.sum())} final rows without steps before them are left out.")
    return segments.select(~empty)


def _read(file: Any, numbers: tuple[int, ...], names: tuple[str, ...], rows: slice) -> Rows:
    def per_agent(key: str) -> AnyArray:
        """Return (R, n, ...); what is shared, (R,) or (R, 1), goes to every agent."""
        array = np.asarray(file[key][rows])
        count = file["o"].shape[1]
        array = array.reshape(len(array), -1)[:, :count]
        return np.broadcast_to(array, (len(array), count))

    obs, actions = np.asarray(file["o"][rows]), np.asarray(file["a"][rows])
    rewards, dones = per_agent("r"), per_agent("d") > 0.5
    each = list(zip(names, numbers, strict=True))
    return Rows(
        obs={name: obs[:, i] for name, i in each},
        actions={name: actions[:, i] for name, i in each},
        rewards={name: rewards[:, i] for name, i in each},
        dones={name: dones[:, i] for name, i in each},
        state=np.asarray(file["s"][rows, 0]),
    )
