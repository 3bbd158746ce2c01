"""Imports Minari datasets (hdf5) of multi-agent episodes with h5py alone.

Layout: a folder NAME-v0 with `data/main_data.hdf5` and `data/metadata.json`. Each group
`episode_i` holds `observations/agent_k (T + 1, d)`, `actions/agent_k (T, a)` or integers (T,),
`rewards (T,)`, `terminations (T,)` and `truncations (T,)`; the last three may also be a group per
agent, or (T, n) where metadata.json has the agents in our order, so that it is clear which column
is whose; otherwise they are shared. The spaces stand in metadata.json: Dict spaces over agents, or
one Box for a single agent. `infos/state (T + 1, S)` becomes the state. Agents are sorted by number,
agent_2 before agent_10.

Ends of episodes are stored and the final observation as well, so nothing is decided here, but: an
episode without any flag at its end is one that the recording stopped, thus truncated.

Axes: T acting steps, n agents, d observation, a action features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rllib_om2p.data.importers.describe import Kept, describe, keep_agents, time_limit
from rllib_om2p.data.importers.known import find_task
from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.recording import EpisodeBatch, Progress, Recording
from rllib_om2p.data.schema import AgentSpec, AnyArray, DataError

OPTIONS = ("action_low", "action_high")

SINGLE_AGENT = "agent_0"


def open_recording(
    path: Path, origin: str, options: ImportOptions, progress: Progress
) -> Recording:
    """Open a Minari dataset: its folder, the `data` folder in it, or main_data.hdf5.

    Raises:
        DataError: It is not whole, not hdf5, or a space is not supported.
    """
    data = _data_folder(path)
    metadata = _metadata(data)
    file = _open(data / "main_data.hdf5")
    obs_spaces, action_spaces = (
        _spaces(metadata, key, data) for key in ("observation_space", "action_space")
    )
    if sorted(obs_spaces) != sorted(action_spaces):
        raise DataError(
            f"{data}: agents must be the same in both spaces, got {sorted(obs_spaces)} and "
            f"{sorted(action_spaces)}."
        )
    recorded = sorted(obs_spaces, key=_natural)
    kept = keep_agents(recorded, options, find_task(options.env, origin), origin)
    agents = [
        _agent(name, obs_spaces[name], action_spaces[name], options, data) for name in kept.names
    ]
    episodes = sorted(
        (name for name in file if re.fullmatch(r"episode_\d+", name)),
        key=lambda name: int(name.rpartition("_")[2]),
    )
    declared = metadata.get("total_episodes", len(episodes))
    if not episodes or len(episodes) != declared:
        raise DataError(
            f"{data / 'main_data.hdf5'} holds {len(episodes)} episodes, but metadata.json promises "
            f"{declared}; download it again."
        )
    is_ordered = recorded == [*obs_spaces]
    first = _Episode(file, episodes[0], recorded, is_ordered=is_ordered)
    notes = list(kept.notes)
    spec = describe(
        "minari",
        path,
        origin,
        [data / "main_data.hdf5", data / "metadata.json"],
        agents,
        options,
        progress=progress,
        conventions={
            key: metadata[key]
            for key in ("dataset_id", "algorithm_name", "author", "code_permalink")
            if metadata.get(key)
        },
        notes=notes,
        state_dim=first.state_dim(),
    )
    limit = time_limit(find_task(options.env, origin), options)

    def batches(start: int) -> Iterator[EpisodeBatch]:
        for name in episodes[start:]:
            episode = _Episode(file, name, recorded, is_ordered=is_ordered)
            yield episode.batch(kept, spec.agents, limit, has_state=spec.state_dim is not None)

    return Recording(spec, batches, len(episodes), notes)


def _data_folder(path: Path) -> Path:
    if path.is_file():
        return path.parent
    for folder in (path / "data", path):
        if (folder / "metadata.json").exists():
            return folder
    raise DataError(
        f"{path} is no Minari dataset: expected data/metadata.json in it; name the folder of one "
        "version, such as ~/.minari/datasets/NAMESPACE/NAME-v0."
    )


def _metadata(data: Path) -> dict[str, Any]:
    try:
        metadata = dict(json.loads((data / "metadata.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{data / 'metadata.json'} is not whole ({error}); copy it again."
        ) from error
    kind = metadata.get("data_format", "hdf5")
    if kind != "hdf5":
        raise DataError(
            f"{data} is stored as {kind}, expected hdf5; write it again with "
            'data_format="hdf5" (minari.create_dataset_from_buffers).'
        )
    return metadata


def _open(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is not a whole hdf5 file ({error}); copy it again.") from error


def _spaces(metadata: dict[str, Any], key: str, data: Path) -> dict[str, dict[str, Any]]:
    """Return the space of every agent as Minari writes it down."""
    if key not in metadata:
        raise DataError(f"{data / 'metadata.json'} lacks {key}; copy it again.")
    space = json.loads(metadata[key])
    return dict(space["subspaces"]) if space["type"] == "Dict" else {SINGLE_AGENT: space}


def _agent(
    name: str,
    obs: dict[str, Any],
    action: dict[str, Any],
    options: ImportOptions,
    data: Path,
) -> AgentSpec:
    if obs["type"] != "Box" or len(obs["shape"]) != 1:
        raise DataError(
            f"{data}: the observation of {name} must be a Box of one axis, got {obs['type']} "
            f"{obs.get('shape', '')}; flatten the observations, or leave the agent out (--agents)."
        )
    obs_dim = int(obs["shape"][0])
    if action["type"] == "Discrete" and action.get("start", 0) == 0:
        return AgentSpec.discrete(name, obs_dim, int(action["n"]))
    if action["type"] != "Box" or len(action["shape"]) != 1:
        raise DataError(
            f"{data}: the action of {name} must be a Box of one axis or Discrete from 0, got "
            f"{action}; leave the agent out (--agents)."
        )
    width = int(action["shape"][0])
    low = [options.action_low] * width if options.action_low is not None else action["low"]
    high = [options.action_high] * width if options.action_high is not None else action["high"]
    lows, highs = np.broadcast_to(low, width).tolist(), np.broadcast_to(high, width).tolist()
    if not np.isfinite([*lows, *highs]).all():
        raise DataError(
            f"{data}: the action box of {name} must be finite, got {lows} to {highs}; declare it "
            "with --action-low and --action-high."
        )
    return AgentSpec(name, obs_dim, width, tuple(lows), tuple(highs))


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


class _Episode:
    """One group of the file; errors name the file, the episode and the agent."""

    def __init__(self, file: Any, name: str, recorded: list[str], *, is_ordered: bool) -> None:
        self._group = file[name]
        self._where = f"{file.filename}, {name}"
        self._recorded, self._is_ordered = recorded, is_ordered

    def _get(self, key: str) -> Any:
        if key not in self._group:
            raise DataError(
                f"{self._where} lacks {key}, it holds {sorted(self._group)}; copy the file again."
            )
        return self._group[key]

    def _of_agent(self, key: str, name: str) -> AnyArray:
        item = self._get(key)
        if isinstance(item, h5py.Group):
            if name not in item:
                raise DataError(
                    f"{self._where}: {key} lacks agent {name}, it holds {sorted(item)}."
                )
            item = item[name]
        if isinstance(item, h5py.Group):
            raise DataError(f"{self._where}: {key} of agent {name} must be one array, got a group.")
        return np.asarray(item)

    def _shared(self, key: str, name: str, number: int) -> AnyArray:
        """Return (T,): the agent's own column or group, or what all agents share."""
        array = self._of_agent(key, name)
        if array.ndim == 1 or array.shape[1:] == (1,):
            return array.reshape(len(array))
        if array.shape[1:] == (len(self._recorded),) and self._is_ordered:
            return array[:, number]
        raise DataError(
            f"{self._where}: {key} must be (steps,) or a group of one array per agent, got "
            f"{array.shape}, and the file does not say which column is whose of {self._recorded}."
        )

    def state_dim(self) -> int | None:
        """Return the length of infos/state, None without it."""
        state = self._state()
        return None if state is None else state.shape[1]

    def _state(self) -> AnyArray | None:
        infos = self._group.get("infos")
        if infos is None or "state" not in infos or isinstance(infos["state"], h5py.Group):
            return None
        state = np.asarray(infos["state"])
        return state if state.ndim == 2 else None

    def batch(
        self,
        kept: Kept,
        agents: tuple[AgentSpec, ...],
        limit: int | None,
        *,
        has_state: bool,
    ) -> EpisodeBatch:
        """Read the episode.

        Raises:
            DataError: It has no steps, the agents' or flags' lengths differ, or it is longer than
                the time limit.
        """
        each = list(zip(kept.names, kept.numbers, strict=True))
        obs = {name: self._of_agent("observations", name) for name, _ in each}
        actions = {name: self._of_agent("actions", name) for name, _ in each}
        rewards, ends, stops = (
            {name: self._shared(key, name, number) for name, number in each}
            for key in ("rewards", "terminations", "truncations")
        )
        steps = len(actions[kept.names[0]])
        if steps == 0:
            raise DataError(f"{self._where} has no steps; write the dataset again without it.")
        self._check_lengths(obs, steps + 1, "observations")
        for key, arrays in (
            ("actions", actions),
            ("rewards", rewards),
            ("terminations", ends),
            ("truncations", stops),
        ):
            self._check_lengths(arrays, steps, key)
        if limit is not None and steps > limit:
            raise DataError(
                f"{self._where} has {steps} steps, expected at most the time limit of {limit}; "
                "give the true one with --time-limit."
            )
        terminateds = {name: flags.astype(bool) for name, flags in ends.items()}
        all_done = all(flags[-1] for flags in terminateds.values())
        truncated = any(flags[-1] for flags in stops.values()) or not all_done
        state = self._state() if has_state else None
        return EpisodeBatch(
            {name: array[None] for name, array in obs.items()},
            {
                agent.name: actions[agent.name][None]
                if agent.num_actions is None
                else actions[agent.name].reshape(1, steps)
                for agent in agents
            },
            {name: array[None] for name, array in rewards.items()},
            {name: array[None] for name, array in terminateds.items()},
            np.array([truncated]),
            None if state is None else state[None],
        )

    def _check_lengths(self, arrays: dict[str, AnyArray], steps: int, key: str) -> None:
        for name, array in arrays.items():
            if len(array) != steps:
                raise DataError(
                    f"{self._where}: {key} of agent {name} have {len(array)} steps, expected "
                    f"{steps}: agents must act together at every step; leave the agent out "
                    "(--agents), or repair the file."
                )
