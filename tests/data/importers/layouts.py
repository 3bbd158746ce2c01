"""Writes public layouts to disk, with the libraries of their authors where there are any.

`Recorded` holds what was written, so that a test can compare every number with what comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import Episode


class Team(NamedTuple):
    """One recorded episode of T steps: arrays by agent number."""

    obs: list[np.ndarray]  # (T + 1, O)
    actions: list[np.ndarray]  # (T, A)
    rewards: list[np.ndarray]  # (T,)
    state: np.ndarray  # (T + 1, S)


def make_teams(
    lengths: Sequence[int],
    dims: Sequence[tuple[int, int]] = ((3, 2), (3, 2)),
    *,
    state_dim: int = 4,
    seed: int = 0,
    dtype: str = "f4",
    shared_reward: bool = False,
) -> list[Team]:
    """Return episodes of random numbers."""
    rng = np.random.default_rng(seed)
    teams = []
    for length in lengths:
        rewards = [rng.normal(size=length).astype(dtype) for _ in dims]
        teams.append(
            Team(
                [rng.normal(size=(length + 1, o)).astype(dtype) for o, _ in dims],
                [rng.uniform(-1, 1, (length, a)).astype(dtype) for _, a in dims],
                [rewards[0]] * len(dims) if shared_reward else rewards,
                rng.normal(size=(length + 1, state_dim)).astype(dtype),
            )
        )
    return teams


def write_omar(
    folder: Path,
    teams: Sequence[Team],
    *,
    dones: Sequence[float] | None = None,
    states: bool = False,
) -> Path:
    """Write one seed; `dones` is the flag at the last step of each episode (0)."""
    folder.mkdir(parents=True)
    dones = [0.0] * len(teams) if dones is None else dones
    for i in range(len(teams[0].obs)):
        ends = [np.eye(len(t.rewards[i]))[-1] * d for t, d in zip(teams, dones, strict=True)]
        parts = {
            "obs": [t.obs[i][:-1] for t in teams],
            "next_obs": [t.obs[i][1:] for t in teams],
            "acs": [t.actions[i] for t in teams],
            "rews": [t.rewards[i] for t in teams],
            "dones": ends,
        }
        if states:
            parts["states"] = [t.state[:-1] for t in teams]
            parts["next_states"] = [t.state[1:] for t in teams]
        for name, arrays in parts.items():
            np.save(folder / f"{name}_{i}.npy", np.concatenate(arrays))
    return folder


def write_omiga(path: Path, teams: Sequence[Team], *, last_is_whole: bool = True) -> Path:
    """Write hdf5 in which a row with d = 1 is the extra final-observation row."""
    import h5py

    rows: dict[str, list[np.ndarray]] = {key: [] for key in "soard"}
    n = len(teams[0].obs)
    for team in teams:
        extra = [np.concatenate([a, np.full((1, a.shape[1]), 7.0, "f4")]) for a in team.actions]
        reward = np.append(team.rewards[0], 99.0)[:, None, None]
        done = np.zeros((len(reward), 1, 1))
        done[-1] = 1
        rows["s"].append(np.repeat(team.state[:, None], n, axis=1))
        rows["o"].append(np.stack(team.obs, axis=1))
        rows["a"].append(np.stack(extra, axis=1))
        rows["r"].append(np.repeat(reward, n, axis=1))
        rows["d"].append(np.repeat(done, n, axis=1))
    if not last_is_whole:
        rows["d"][-1][-1] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, arrays in rows.items():
            file.create_dataset(key, data=np.concatenate(arrays))
    return path


def write_vault(
    folder: Path,
    streams: Sequence[Sequence[Team]],
    *,
    terminal: Sequence[bool] | None = None,
    flags: bool = True,
    padding: float = 0.0,
    extra_rows: int = 3,
    leave_out: Sequence[str] = (),
    discrete: int | None = None,
    vault_index: int | None = None,
) -> Path:
    """Write a vault as flashbax does: zarr leaves in one OCDBT store, padded in time.

    `terminal` says of each episode of a stream whether it ends terminal, not truncated.
    """
    folder.mkdir(parents=True)
    width = max(obs.shape[1] for obs in streams[0][0].obs)
    terminal = [False] * len(streams[0]) if terminal is None else terminal

    def padded(array: np.ndarray) -> np.ndarray:
        room = width - array.shape[1]
        return np.pad(array, ((0, 0), (0, room)), constant_values=padding)

    leaves: dict[str, list[np.ndarray]] = {}
    for teams in streams:
        whole: dict[str, list[np.ndarray]] = {}
        for team, ends in zip(teams, terminal, strict=True):
            length, n = len(team.rewards[0]), len(team.obs)
            last = np.repeat(np.eye(length, dtype=bool)[-1][:, None], n, axis=1) & flags
            parts = {
                "observations.": np.stack([padded(o[:-1]) for o in team.obs], axis=1),
                "actions.": np.stack(team.actions, axis=1),
                "rewards.": np.stack(team.rewards, axis=1),
                "terminals.": last & ends,
                "truncations.": last & (not ends),
                "infos.state.": team.state[:-1],
            }
            if discrete is not None:
                parts["actions."] = (np.abs(parts["actions."][..., 0]) * discrete).astype("i4")
                legals = np.zeros((length, n, discrete), bool)
                np.put_along_axis(legals, parts["actions."][..., None], True, axis=2)
                parts["infos.legals."] = legals
            for name, array in parts.items():
                whole.setdefault(name, []).append(array)
        for name, arrays in whole.items():
            stream = np.concatenate(arrays)
            tail = np.full((extra_rows, *stream.shape[1:]), 3, stream.dtype)
            leaves.setdefault(name, []).append(np.concatenate([stream, tail]))
    num_rows = len(leaves["rewards."][0]) - extra_rows
    index = num_rows if vault_index is None else vault_index
    _write_leaf(folder, "vault_index", np.array([index], "i4"), (1,))
    for name, arrays in leaves.items():
        if name not in leave_out:
            stacked = np.stack(arrays)
            # The time axis of real vaults is this long; only what was written takes room.
            shape = (stacked.shape[0], int(10e12), *stacked.shape[2:])
            _write_leaf(folder, name, stacked, shape)
    return folder


def _write_leaf(folder: Path, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    import tensorstore

    dtype = np.dtype(array.dtype).newbyteorder("=")
    leaf = tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": f"file://{folder}/", "path": name},
            "metadata": {"compressor": {"id": "gzip", "level": 5}},
        },
        create=True,
        shape=shape,
        dtype=dtype.name,
    ).result()
    part = leaf[:, : array.shape[1]] if array.ndim > 1 else leaf
    part.write(array).result()


def read_back(out: Path) -> list[Episode]:
    """Return every episode of an imported dataset, checked by the reader."""
    return list(OfflineDataset.open(str(out)).episodes())


def assert_equal(
    episode: Episode,
    team: Team,
    *,
    numbers: Sequence[int] | None = None,
    steps: int | None = None,
    repeated: bool = False,
    names: Sequence[str] | None = None,
    state: bool = False,
) -> None:
    """Compare every number of an episode with what was recorded.

    Args:
        episode: What the reader gives.
        team: What was written.
        numbers: Recorded agents that were kept, in order.
        steps: Steps that were kept; the observation after them is the final one.
        repeated: The final observation repeats the last one.
        names: The agents' names.
        state: Whether the state is there.
    """
    numbers = range(len(team.obs)) if numbers is None else numbers
    names = [f"agent_{i}" for i in numbers] if names is None else names
    steps = len(team.rewards[0]) if steps is None else steps
    index = [*range(steps), steps - 1 if repeated else steps]
    assert list(episode.obs) == list(names)
    for name, i in zip(names, numbers, strict=True):
        np.testing.assert_array_equal(episode.obs[name], team.obs[i][index].astype("f4"))
        np.testing.assert_array_equal(episode.actions[name], team.actions[i][:steps].astype("f4"))
        np.testing.assert_array_equal(episode.rewards[name], team.rewards[i][:steps].astype("f4"))
    if state:
        assert episode.state is not None
        np.testing.assert_array_equal(episode.state, team.state[index].astype("f4"))
    else:
        assert episode.state is None


def ends(episode: Episode) -> dict[str, Any]:
    """Return how an episode ends: which agents terminate, when, and whether it is truncated."""
    terminated = {
        name: np.flatnonzero(flags).tolist() for name, flags in episode.terminateds.items()
    }
    return {"terminated": terminated, "truncated": episode.truncated}
