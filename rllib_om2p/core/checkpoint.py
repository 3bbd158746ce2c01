"""Whole checkpoints only: written beside their place, marked last, moved there at once.

Knows directories, one marker file and where RLlib keeps the config; nothing of what else there is.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.rllib.utils.checkpoints import Checkpointable

if TYPE_CHECKING:
    from rllib_om2p.core.config import OfflineConfig

MARKER = "rllib_om2p_checkpoint.json"


def write_whole(path: str | Path, write: Callable[[Path], None], marker: Mapping[str, Any]) -> Path:
    """Write a directory so that `path` never holds a half-written checkpoint.

    The files go to a hidden neighbour first; then the marker, then the rename. An older checkpoint
    at `path` stays until the new one is whole.

    Args:
        path: Where the checkpoint shall stand.
        write: Writes everything but the marker into the directory it is given.
        marker: What identifies the checkpoint (JSON).

    Returns:
        The absolute path.
    """
    target = Path(path).expanduser().resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.parent / f".{target.name}.writing-{uuid.uuid4().hex[:8]}"
    try:
        building.mkdir()
        write(building)
        (building / MARKER).write_text(json.dumps(dict(marker), indent=2, sort_keys=True) + "\n")
        if target.exists():
            old = target.parent / f".{target.name}.old-{uuid.uuid4().hex[:8]}"
            os.replace(target, old)
            os.replace(building, target)
            shutil.rmtree(old)
        else:
            os.replace(building, target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return target


def read_marker(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint's marker.

    Raises:
        ValueError: The path is no checkpoint of this package, or a half-written one.
    """
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise ValueError(f"{str(path)!r} is not a directory; expected an algorithm's checkpoint.")
    marker = directory / MARKER
    if not marker.is_file():
        half = (directory / "learner_group").exists() or (directory / "metadata.json").exists()
        reason = (
            "it was not written to its end; use the checkpoint before it"
            if half
            else "expected a directory written by Algorithm.save_to_path"
        )
        raise ValueError(f"{str(path)!r} is not a whole checkpoint: {MARKER} is missing; {reason}.")
    content: dict[str, Any] = json.loads(marker.read_text())
    return content


def read_config(path: str | Path) -> OfflineConfig:
    """Return a copy of the config that a checkpoint's algorithm was built with; it can be changed.

    Loading executes code (it is a pickle): trust the checkpoint first.

    Raises:
        ValueError: The path is no checkpoint of this package, or a half-written one.
    """
    read_marker(path)
    file = Path(path).expanduser() / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    with file.open("rb") as opened:
        built = pickle.load(opened)
    settings = built["ctor_args_and_kwargs"][0][0]
    config: OfflineConfig = built["class"].get_default_config().update_from_dict(settings)
    return config
