"""What an imported dataset says about itself: agents, environment, hashes of the files.

Knows the contract, the options and the table of known tasks.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rllib_om2p.data.importers.known import KnownTask, find_quality, find_task
from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.recording import Progress
from rllib_om2p.data.schema import AgentSpec, DataError, DatasetSpec
from rllib_om2p.disk import file_sha256
from rllib_om2p.team_return import TeamReturn

# More files than this are named by one hash over all of them.
MAX_PARENTS = 64
_PACKAGES = ("rllib-om2p", "numpy", "pyarrow")


class Kept(NamedTuple):
    """Which recorded agents are kept.

    Args:
        numbers: Their positions among the recorded agents.
        names: Their names, in the dataset's order.
        notes: What a person should know about it.
    """

    numbers: tuple[int, ...]
    names: tuple[str, ...]
    notes: list[str]


def keep_agents(
    recorded: Sequence[str], options: ImportOptions, task: KnownTask | None, source: str
) -> Kept:
    """Return the agents that --agents names, or all but the frozen prey of a known task.

    Raises:
        DataError: A name or number is unknown.
    """
    if options.agents is None:
        kept = [*range(len(recorded))]
        if task is None or len(recorded) != task.num_recorded or task.num_agents == len(recorded):
            return Kept(tuple(kept), tuple(recorded), [])
        dropped = list(recorded[task.num_agents :])
        notes = [f"{dropped} is the frozen prey of {task.env} and is left out; --agents keeps it."]
        return Kept(tuple(kept[: task.num_agents]), tuple(recorded[: task.num_agents]), notes)
    numbers = []
    for name in options.agents:
        if name in recorded:
            numbers.append(recorded.index(name))
        elif name.isdecimal() and int(name) < len(recorded):
            numbers.append(int(name))
        else:
            raise DataError(
                f"--agents names {name!r}, but {source} holds {list(recorded)}; give names or "
                f"numbers from 0 to {len(recorded) - 1}."
            )
    if len(set(numbers)) < len(numbers):
        raise DataError(f"--agents must name each agent once, got {list(options.agents)}.")
    return Kept(tuple(numbers), tuple(recorded[number] for number in numbers), [])


def describe(
    kind: str,
    path: Path,
    origin: str,
    files: Sequence[Path],
    agents: Sequence[AgentSpec],
    options: ImportOptions,
    *,
    progress: Progress,
    conventions: dict[str, Any],
    notes: list[str],
    state_dim: int | None = None,
    seeds: Sequence[int] = (),
    has_action_masks: bool = False,
) -> DatasetSpec:
    """Return the spec; hashes every file, which also makes a changed source begin anew.

    Args:
        kind: Name of the source.
        path: What was imported.
        origin: The URI it is a copy of, else the path; names the task and the quality.
        files: Every file that is read.
        agents: The agents, as they will be written.
        options: The user's options.
        progress: Receives a line while hashing.
        conventions: What the importer decided, for the card.
        notes: Receives what the user should know.
        state_dim: Length of the global state.
        seeds: Which seeds or streams were recorded, if several.
        has_action_masks: Whether there are action masks.

    Raises:
        DataError: The agents are not those of the environment that --env names.
    """
    task = find_task(options.env, origin)
    if task is not None:
        dims = [a.obs_dim for a in agents], [a.action_dim for a in agents]
        misfit = task.misfit(*dims)
        if misfit and options.env is not None:
            raise DataError(f"{origin} does not fit --env {options.env}: {misfit}; give 'none'.")
        if misfit:
            notes.append(f"no environment is entered: {misfit}.")
            task = None
    quality = options.quality if options.quality is not None else find_quality(origin)
    name = task.env if task is not None else path.name
    identity = f"{name}/{quality}" if quality and (task or quality not in name) else name
    return DatasetSpec(
        dataset_id=options.dataset_id or f"{kind}/{identity}",
        agents=tuple(agents),
        quality=quality,
        env=None if task is None else task.env,
        team_return=_team_return(task, options),
        time_limit=time_limit(task, options),
        state_dim=state_dim,
        behaviour={
            "imported_from": kind,
            "options": {key: _plain(value) for key, value in options.given().items()},
            **conventions,
        },
        seeds={"recorded": list(seeds)} if seeds else {},
        references=_references(task, options),
        package_versions=_versions(),
        parents=_parents(kind, path, origin, files, progress),
        has_action_masks=has_action_masks,
        has_behaviour_id=len(seeds) > 1,
    )


def time_limit(task: KnownTask | None, options: ImportOptions) -> int | None:
    """Return the time limit that the user or the known task declares.

    Raises:
        DataError: None does, and --at-limit says what an end at it is.
    """
    declared = options.time_limit or (None if task is None else task.time_limit)
    if declared is None and options.at_limit is not None:
        raise DataError(
            f"--at-limit {options.at_limit} says what an end at the time limit is, but no limit is "
            "known; give it with --time-limit, or leave --at-limit out."
        )
    return declared


def _team_return(task: KnownTask | None, options: ImportOptions) -> TeamReturn:
    if options.team_return is not None:
        return options.team_return
    return "mean over agents" if task is None else task.team_return


def _references(task: KnownTask | None, options: ImportOptions) -> dict[str, Any]:
    """Return the known task's; returns formed in another way, or of other episodes, have none."""
    if task is None:
        return {}
    ours = (_team_return(task, options), time_limit(task, options))
    return task.references if ours == (task.team_return, task.time_limit) else {}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parents(
    kind: str, path: Path, origin: str, files: Sequence[Path], progress: Progress
) -> list[str]:
    size = sum(file.stat().st_size for file in files)
    progress(f"{path}: hashing {len(files)} files, {size / 1e6:.0f} MB")
    base = path if path.is_dir() else path.parent
    hashes = {str(file.relative_to(base)): file_sha256(file) for file in files}
    place = path.name
    if "://" in origin:
        place = origin if path.is_dir() else origin.rpartition("/")[0]
    if len(hashes) <= MAX_PARENTS:
        return [f"{kind}:{place}/{name} sha256:{value}" for name, value in hashes.items()]
    tree = hashlib.sha256("\n".join(f"{n} {h}" for n, h in hashes.items()).encode()).hexdigest()
    return [f"{kind}:{place} ({len(hashes)} files) sha256:{tree}"]


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in _PACKAGES}
