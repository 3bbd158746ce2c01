"""Imports the .npy folders of OMAR, which OM2P uses as well.

Layout: `{env}/{quality}/seed_{s}_data/` with, for each agent i, `obs_{i}.npy (N, O)`,
`acs_{i}.npy (N, A)`, `rews_{i}.npy`, `next_obs_{i}.npy (N, O)` and `dones_{i}.npy`; MAMuJoCo adds
`states_{i}.npy` and `next_states_{i}.npy`. A path may be one seed's folder or the folder with all
seeds; the behaviour id then is the seed's position among those of the card (seeds.recorded): of
seeds 0, 2 and 10, the last is 2. In simple_tag and simple_world the last agent is the frozen prey;
it is left out unless --agents asks for it.

Ends of episodes: the dones of the particle tasks are all 0, even at step 25, so an episode ends
where an agent's next_obs is not its following obs, where all agents are done, and at the end of
the files. An end at the time limit is a truncation; nothing may be longer than the limit. The
final observation is the last next_obs, so nothing is lost.

Axes: N rows of a seed, R rows read at once, O observation, A action.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rllib_om2p.data.importers.describe import Kept, describe, keep_agents, time_limit
from rllib_om2p.data.importers.known import find_task
from rllib_om2p.data.importers.npy import NpyFile
from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.recording import (
    WINDOW_ROWS,
    Progress,
    Recording,
    Rows,
    Segments,
    check_limit,
    cut,
    segments_up_to,
)
from rllib_om2p.data.schema import AgentSpec, AnyArray, BoolArray, DataError

OPTIONS = ("at_limit", "action_low", "action_high")

_PARTS = ("obs", "acs", "rews", "next_obs", "dones")


class _Seed(NamedTuple):
    """The open files of one seed: by part, then by agent."""

    folder: Path
    files: dict[str, list[NpyFile]]

    @property
    def num_rows(self) -> int:
        return len(self.files["obs"][0])

    def paths(self) -> list[Path]:
        return [file.path for files in self.files.values() for file in files]


def open_recording(
    path: Path, origin: str, options: ImportOptions, progress: Progress
) -> Recording:
    """Open a folder of one seed, or one with a folder `seed_{s}_data` for each seed.

    Raises:
        DataError: Files are missing, cut short or of different lengths, or an episode is longer
            than the time limit.
    """
    numbers, folders = _seed_folders(path)
    task = find_task(options.env, origin)
    recorded = [f"agent_{i}" for i in range(_count_agents(folders[0]))]
    kept = keep_agents(recorded, options, task, origin)
    seeds = [_open_seed(folder, kept) for folder in folders]
    agents = _agents(seeds, kept, options)
    states = seeds[0].files.get("states")
    notes = list(kept.notes)
    spec = describe(
        "omar",
        path,
        origin,
        [file for seed in seeds for file in seed.paths()],
        agents,
        options,
        progress=progress,
        conventions={
            "episode_ends": "where next_obs is not the following obs, or all agents are done",
            "at_limit": options.at_limit or "truncated",
            "final_observation": "the last next_obs",
        },
        notes=notes,
        state_dim=None if states is None else states[0].width,
        seeds=numbers if len(numbers) > 1 else (),
    )
    limit = time_limit(task, options)
    parts = [_find_episodes(i, seed, limit, options, progress) for i, seed in enumerate(seeds)]
    segments = Segments.joined(parts)
    check_limit(segments, limit, lambda stream: f"{seeds[stream].folder}")
    notes += _explain_ends(segments, limit)

    def read(stream: int, start: int, stop: int) -> Rows:
        return _read(seeds[stream], kept.names, start, stop)

    return Recording(
        spec,
        lambda first: cut(segments, first, read, many_streams=len(seeds) > 1),
        len(segments.start),
        notes,
    )


def _seed_folders(path: Path) -> tuple[list[int], list[Path]]:
    if not path.is_dir():
        raise DataError(f"{path} must be a folder with .npy files, got a file; give its folder.")
    found = {
        int(match[1]): folder
        for folder in path.iterdir()
        if folder.is_dir() and (match := re.fullmatch(r"seed_(\d+)(?:_data)?", folder.name))
    }
    if not found:
        return [0], [path]
    return sorted(found), [found[number] for number in sorted(found)]


def _count_agents(folder: Path) -> int:
    numbers = [
        int(match[1])
        for file in folder.iterdir()
        if (match := re.fullmatch(r"obs_(\d+)\.npy", file.name))
    ]
    if not numbers:
        raise DataError(
            f"{folder} holds no obs_0.npy; give the folder of one seed (obs_0.npy, acs_0.npy, ...) "
            "or the one with seed_0_data, seed_1_data, ... in it."
        )
    return max(numbers) + 1


def _open_seed(folder: Path, kept: Kept) -> _Seed:
    files = {part: [NpyFile(folder / f"{part}_{i}.npy") for i in kept.numbers] for part in _PARTS}
    first = kept.numbers[0]
    if (folder / f"states_{first}.npy").exists():
        # Every agent's copy holds the same states; one is enough.
        for part in ("states", "next_states"):
            files[part] = [NpyFile(folder / f"{part}_{first}.npy")]
    reference = files["obs"][0]
    for opened in files.values():
        for file in opened:
            if len(file) != len(reference):
                raise DataError(
                    f"{file.path} has {len(file)} rows, but {reference.path.name} has "
                    f"{len(reference)}: agents must be of equal length; copy the folder again."
                )
    for file in files["rews"]:
        if file.width != 1:
            raise DataError(
                f"{file.path} has {file.width} rewards in a row, expected the agent's own; save it "
                "as (rows,)."
            )
    if len(reference) == 0:
        raise DataError(f"{reference.path} holds no rows; leave the seed out.")
    return _Seed(folder, files)


def _agents(seeds: list[_Seed], kept: Kept, options: ImportOptions) -> list[AgentSpec]:
    agents = []
    for index, name in enumerate(kept.names):
        for part in ("obs", "next_obs", "acs", "states", "next_states"):
            widths = {
                s.files[part][index].width for s in seeds if index < len(s.files.get(part, ()))
            }
            if len(widths) > 1:
                raise DataError(
                    f"{part} of {name} has widths {sorted(widths)} in the seeds of "
                    f"{seeds[0].folder.parent}; import the seeds one by one."
                )
        files = seeds[0].files
        obs, next_obs, actions = (files[part][index] for part in ("obs", "next_obs", "acs"))
        if obs.width != next_obs.width:
            raise DataError(
                f"{next_obs.path} is {next_obs.width} wide, expected {obs.width} as in "
                f"{obs.path.name}; copy the folder again."
            )
        agents.append(
            AgentSpec.box(name, obs.width, actions.width, low=options.low, high=options.high)
        )
    return agents


def _find_episodes(
    stream: int, seed: _Seed, limit: int | None, options: ImportOptions, progress: Progress
) -> Segments:
    """Find where the episodes of a seed end, in one pass."""
    progress(f"{seed.folder}: looking for the ends of episodes in {seed.num_rows} rows")
    is_end = np.zeros(seed.num_rows, bool)
    all_done = np.zeros(seed.num_rows, bool)
    for start in range(0, seed.num_rows, WINDOW_ROWS):
        stop = min(start + WINDOW_ROWS, seed.num_rows)
        done = np.all([_flags(file, start, stop) for file in seed.files["dones"]], axis=0)
        all_done[start:stop] = done
        is_end[start:stop] = done | _breaks(seed, start, stop)
    return segments_up_to(is_end, stream, all_done=all_done, limit=limit, at_limit=options.at_limit)


def _breaks(seed: _Seed, start: int, stop: int) -> BoolArray:
    """Return after which rows some agent's next_obs is not its following obs."""
    broken = np.zeros(stop - start, bool)
    for obs, next_obs in zip(seed.files["obs"], seed.files["next_obs"], strict=True):
        following = obs.read(start + 1, min(stop + 1, len(obs))).astype(np.float32)
        expected = next_obs.read(start, start + len(following)).astype(np.float32)
        broken[: len(following)] |= (following != expected).any(axis=1)
    return broken


def _flags(file: NpyFile, start: int, stop: int) -> BoolArray:
    return np.asarray(file.read(start, stop).reshape(stop - start, -1).max(axis=1) > 0.5)


def _read(seed: _Seed, names: tuple[str, ...], start: int, stop: int) -> Rows:
    def arrays(part: str) -> dict[str, AnyArray]:
        return {
            name: file.read(start, stop) for name, file in zip(names, seed.files[part], strict=True)
        }

    states = [
        seed.files[part][0].read(start, stop)
        for part in ("states", "next_states")
        if part in seed.files
    ]
    return Rows(
        obs=arrays("obs"),
        actions=arrays("acs"),
        rewards={name: array.reshape(-1) for name, array in arrays("rews").items()},
        dones={
            name: _flags(file, start, stop)
            for name, file in zip(names, seed.files["dones"], strict=True)
        },
        next_obs=arrays("next_obs"),
        state=states[0] if states else None,
        next_state=states[1] if states else None,
    )


def _explain_ends(segments: Segments, limit: int | None) -> list[str]:
    count = len(segments.start)
    if limit is None:
        lengths = f"{segments.length.min()} to {segments.length.max()} steps"
        return [
            f"no time limit is known: {count} episodes of {lengths} end where next_obs is not the "
            "following obs or all agents are done; --time-limit declares one."
        ]
    notes = []
    early = int((~segments.at_limit & ~segments.ended).sum())
    if early:
        notes.append(
            f"{early} of {count} episodes break off before {limit} steps without done (next_obs is "
            "not the following obs); they are truncated there."
        )
    if not segments.ended.any():
        notes.append(f"no episode terminates; {count} are truncated.")
    return notes
