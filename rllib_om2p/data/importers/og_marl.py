"""Imports OG-MARL's vaults (flashbax) with tensorstore and NumPy; no JAX.

Layout: a folder, for example `simple_spread.vlt/Expert`, that is one OCDBT store of zarr leaves
`observations.`, `actions.`, `rewards.`, `terminals.`, `truncations.`, `infos.state.` (a dot at the
end) of shapes (B, T, n, d) or (B, T, n), and `vault_index`, the number of valid steps; what
follows in a leaf is padding. B = 5 seeds for the OMAR vaults, whose number becomes the behaviour
id, else 1. Observations of unequal agents are padded at their end, with zeros or -inf. The prey is
recorded as the last agent and left out by default. Integer actions (B, T, n) are discrete, with
`infos.legals.` as their masks.

Ends of episodes: where all agents are terminal or any is truncated, at the time limit, which is a
truncation whatever the flags say and even where none is set, and at the end of the vault. There is
no next_obs, so the observation after the last step is not there:
- a terminal end is never bootstrapped from: the last observation stands in for it;
- else the last recorded step becomes the final row. Its observation is the true one after the step
  before; its action and reward are left out (24 of 25 steps remain), since bootstrapping from a
  made-up observation would be wrong.

Axes: B streams, T recorded rows, n agents, R rows read at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore

from rllib_om2p.data.importers.describe import Kept, describe, keep_agents, time_limit
from rllib_om2p.data.importers.known import KnownTask, find_task
from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.recording import (
    WINDOW_ROWS,
    IntArray,
    Progress,
    Recording,
    Rows,
    Segments,
    cut,
    segments_up_to,
)
from rllib_om2p.data.schema import AgentSpec, AnyArray, BoolArray, DataError

OPTIONS = ("at_limit", "obs_dims", "action_low", "action_high", "num_actions", "actuators")

_LEAVES = ("observations.", "actions.", "rewards.", "terminals.", "truncations.")
# A stored chunk may span many windows of rows; kept in memory, it is unpacked once.
_CONTEXT = tensorstore.Context({"cache_pool": {"total_bytes_limit": 100_000_000}})

_STATE, _LEGALS, _INDEX = "infos.state.", "infos.legals.", "vault_index"


class _Vault(NamedTuple):
    """The open leaves of a vault and its number of valid rows."""

    path: Path
    leaves: dict[str, Any]
    num_rows: int

    def read(self, name: str, stream: int, start: int, stop: int) -> AnyArray:
        """Return rows of one stream, (R, ...)."""
        return np.asarray(self.leaves[name][stream, start:stop].read().result())

    def flags(self, name: str, stream: int, start: int, stop: int) -> BoolArray:
        """Return flags, (R, n); what is shared by the agents goes to each."""
        num_agents = self.leaves["observations."].shape[2]
        array = self.read(name, stream, start, stop).reshape(stop - start, -1) > 0.5
        return np.broadcast_to(array[:, :num_agents], (stop - start, num_agents))


def open_recording(
    path: Path, origin: str, options: ImportOptions, progress: Progress
) -> Recording:
    """Open a vault.

    Raises:
        DataError: It is no vault, lacks a leaf, has no valid step, is padded in an unknown way, or
            no episode ends.
    """
    vault = _open(path)
    num_streams, _, num_recorded = vault.leaves["observations."].shape[:3]
    task = find_task(options.env, origin)
    recorded = [f"agent_{i}" for i in range(num_recorded)]
    kept = keep_agents(recorded, options, task, origin)
    notes = list(kept.notes)
    agents = _agents(vault, kept, options, task)
    state = vault.leaves.get(_STATE)
    is_discrete = agents[0].num_actions is not None
    spec = describe(
        "og-marl",
        path,
        origin,
        sorted(file for file in path.rglob("*") if file.is_file()),
        agents,
        options,
        progress=progress,
        conventions={
            "at_limit": options.at_limit or "truncated",
            "final_observation": "not recorded: after a terminal end the last observation stands "
            "in; else the last recorded step is the final row, without its action and reward",
        },
        notes=notes,
        state_dim=None if state is None else int(np.prod(state.shape[2:])),
        seeds=range(num_streams) if num_streams > 1 else (),
        has_action_masks=is_discrete and _LEGALS in vault.leaves,
    )
    limit = time_limit(task, options)
    progress(f"{path}: looking for the ends of episodes in {num_streams} x {vault.num_rows} rows")
    segments = Segments.joined(
        [_find_episodes(vault, stream, limit, options, notes) for stream in range(num_streams)]
    )
    segments = _without_missing_obs(segments, notes)

    def read(stream: int, start: int, stop: int) -> Rows:
        return _read(vault, spec.agents, kept, stream, start, stop)

    return Recording(
        spec,
        lambda first: cut(segments, first, read, many_streams=num_streams > 1),
        len(segments.start),
        notes,
        options.actuators,
    )


def _open(path: Path) -> _Vault:
    if not (path / "manifest.ocdbt").exists():
        inside = sorted(file.parent.name for file in path.glob("*/manifest.ocdbt"))
        hint = f"it holds the vaults {inside}; name one of them" if inside else "unpack it first"
        raise DataError(
            f"{path} is no vault: it lacks manifest.ocdbt. A vault is the folder below NAME.vlt, "
            f"such as NAME.vlt/Good; {hint}."
        )
    leaves = {}
    for name in (*_LEAVES, _STATE, _LEGALS, _INDEX):
        leaf = _open_leaf(path, name)
        if leaf is not None:
            leaves[name] = leaf
        elif name not in (_STATE, _LEGALS):
            raise DataError(
                f"{path} lacks the leaf {name!r}; a vault needs {[*_LEAVES, _INDEX]}. Copy it "
                "again, with every file below it."
            )
    num_rows = int(np.asarray(leaves.pop(_INDEX).read().result()).reshape(-1)[0])
    if num_rows < 1:
        raise DataError(f"{path} has {num_rows} valid steps (vault_index): nothing was recorded.")
    if leaves["observations."].ndim != 4:
        raise DataError(
            f"{path}: observations must be (streams, steps, agents, features), got "
            f"{leaves['observations.'].shape}; other observations are not supported."
        )
    prefix = leaves["observations."].shape[0]
    for name, leaf in leaves.items():
        if leaf.shape[0] != prefix or leaf.shape[1] < num_rows:
            raise DataError(
                f"{path}: {name} is {tuple(leaf.shape)}, expected {prefix} streams of at least "
                f"{num_rows} steps (vault_index); copy it again."
            )
    return _Vault(path, leaves, num_rows)


def _open_leaf(path: Path, name: str) -> Any:
    store = {"driver": "ocdbt", "base": path.absolute().as_uri() + "/", "path": name}
    try:
        return tensorstore.open(
            {"driver": "zarr", "kvstore": store}, read=True, context=_CONTEXT
        ).result()
    except ValueError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise DataError(
            f"{path}: {name} cannot be read ({error}); copy the vault again."
        ) from error


def _agents(
    vault: _Vault, kept: Kept, options: ImportOptions, task: KnownTask | None
) -> list[AgentSpec]:
    dims = _obs_dims(vault, kept, options, task)
    actions = vault.leaves["actions."]
    if actions.ndim == 4:
        width = actions.shape[3]
        return [
            AgentSpec.box(name, dim, width, low=options.low, high=options.high)
            for name, dim in zip(kept.names, dims, strict=True)
        ]
    if actions.ndim != 3 or not np.issubdtype(actions.dtype.numpy_dtype, np.integer):
        raise DataError(
            f"{vault.path}: actions must be (streams, steps, agents, features), or integers "
            f"without features, got {tuple(actions.shape)} of {actions.dtype.name}."
        )
    legals = vault.leaves.get(_LEGALS)
    num_actions = options.num_actions or (None if legals is None else legals.shape[-1])
    if num_actions is None:
        raise DataError(
            f"{vault.path}: actions are discrete ({tuple(actions.shape)}) and there are no "
            "infos.legals.; give their number with --num-actions."
        )
    return [
        AgentSpec.discrete(name, dim, num_actions)
        for name, dim in zip(kept.names, dims, strict=True)
    ]


def _obs_dims(
    vault: _Vault, kept: Kept, options: ImportOptions, task: KnownTask | None
) -> list[int]:
    """Return the observation lengths of the kept agents, without padding."""
    _, _, num_recorded, width = vault.leaves["observations."].shape
    if options.obs_dims is not None:
        if len(options.obs_dims) != num_recorded or max(options.obs_dims) > width:
            raise DataError(
                f"--obs-dims must be {num_recorded} lengths up to {width}, one per recorded agent "
                f"of {vault.path}, got {list(options.obs_dims)}."
            )
        return [options.obs_dims[number] for number in kept.numbers]
    head = vault.read("observations.", 0, 0, min(vault.num_rows, WINDOW_ROWS))
    dims = []
    for number in kept.numbers:
        used = np.flatnonzero(~np.isneginf(head[:, number]).all(axis=0))
        dim = int(used[-1]) + 1 if used.size else 0
        known = None
        if task is not None and number < task.num_agents:
            known = next((d for d in task.obs_dims if d <= dim), None)
        dims.append(known or dim)
    return dims


def _find_episodes(
    vault: _Vault, stream: int, limit: int | None, options: ImportOptions, notes: list[str]
) -> Segments:
    """Find where the episodes of a stream end as they were recorded, in one pass."""
    is_end, all_done = np.zeros(vault.num_rows, bool), np.zeros(vault.num_rows, bool)
    for start in range(0, vault.num_rows, WINDOW_ROWS):
        rows = slice(start, min(start + WINDOW_ROWS, vault.num_rows))
        all_done[rows] = vault.flags("terminals.", stream, rows.start, rows.stop).all(axis=1)
        truncated = vault.flags("truncations.", stream, rows.start, rows.stop).any(axis=1)
        is_end[rows] = all_done[rows] | truncated
    if limit is not None:
        unmarked = _ends_at_limit(is_end, limit)
        is_end[unmarked] = True
        if unmarked.size:
            notes.append(
                f"stream {stream}: {unmarked.size} episodes reach the time limit of {limit} steps "
                f"without a flag, the first at row {unmarked[0]}; they end there. --time-limit "
                "declares another."
            )
    elif not is_end.any():
        raise DataError(
            f"{vault.path}, stream {stream}: no step is terminal or truncated, so no episode "
            "ends; declare the length of every episode with --time-limit."
        )
    return segments_up_to(is_end, stream, all_done=all_done, limit=limit, at_limit=options.at_limit)


def _ends_at_limit(is_end: BoolArray, limit: int) -> IntArray:
    """Return the rows at which episodes reach the time limit although none is marked as an end."""
    last = np.union1d(np.flatnonzero(is_end), len(is_end) - 1)
    first = np.append(0, last[:-1] + 1)
    longer = np.flatnonzero(last - first >= limit)
    rows = [np.arange(first[i] + limit - 1, last[i], limit) for i in longer]
    return np.concatenate([*rows, np.empty(0, np.int64)])


def _without_missing_obs(segments: Segments, notes: list[str]) -> Segments:
    """Let the last step of each episode that is bootstrapped from be its final row."""
    is_cut = ~segments.ended
    shorter = segments._replace(length=segments.length - is_cut, at_limit=segments.at_limit & False)
    if is_cut.any():
        notes.append(
            f"{int(is_cut.sum())} of {len(is_cut)} episodes lose the action and reward of their "
            "last step: its observation serves as the final one, which vaults do not hold."
        )
    empty = shorter.length == 0
    if empty.any():
        notes.append(f"{int(empty.sum())} episodes of a single step are left out.")
    return shorter.select(~empty)


def _read(
    vault: _Vault, agents: tuple[AgentSpec, ...], kept: Kept, stream: int, start: int, stop: int
) -> Rows:
    obs = vault.read("observations.", stream, start, stop)
    actions = vault.read("actions.", stream, start, stop)
    rewards = vault.read("rewards.", stream, start, stop).reshape(stop - start, -1)
    rewards = np.broadcast_to(rewards, (stop - start, obs.shape[1]))
    dones = vault.flags("terminals.", stream, start, stop)
    each = list(zip(agents, kept.numbers, strict=True))
    for agent, number in each:
        _check_padding(vault, obs[:, number, agent.obs_dim :], agent, start)
    masks = None
    if _LEGALS in vault.leaves and agents[0].num_actions is not None:
        legal = vault.read(_LEGALS, stream, start, stop) > 0.5
        masks = {agent.name: legal[:, number] for agent, number in each}
    state = None
    if _STATE in vault.leaves:
        state = vault.read(_STATE, stream, start, stop).reshape(stop - start, -1)
    return Rows(
        obs={agent.name: obs[:, number, : agent.obs_dim] for agent, number in each},
        actions={agent.name: actions[:, number] for agent, number in each},
        rewards={agent.name: rewards[:, number] for agent, number in each},
        dones={agent.name: dones[:, number] for agent, number in each},
        state=state,
        action_masks=masks,
    )


def _check_padding(vault: _Vault, padding: AnyArray, agent: AgentSpec, start: int) -> None:
    wrong = np.argwhere(~((padding == 0) | np.isneginf(padding)))
    if wrong.size:
        row, feature = wrong[0]
        raise DataError(
            f"{vault.path}: observations of {agent.name} hold {padding[row, feature]} at step "
            f"{start + row}, feature {agent.obs_dim + feature}, expected padding (0 or -inf) after "
            f"{agent.obs_dim} features; give the true lengths with --obs-dims."
        )
