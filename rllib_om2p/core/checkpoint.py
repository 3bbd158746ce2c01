"""Whole checkpoints only: written beside their place, marked last, moved there at once.

Knows directories, one marker file and where RLlib keeps the config; nothing of what else there is.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import logging
import os
import pickle
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow.fs import FileSystem, FileType, LocalFileSystem
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP
from ray.rllib.utils.checkpoints import Checkpointable

from rllib_om2p.disk import FULL_DISK

if TYPE_CHECKING:
    from rllib_om2p.core.config import OfflineConfig
    from rllib_om2p.data.reader import OfflineDataset

logger = logging.getLogger(__name__)

MARKER = "rllib_om2p_checkpoint.json"
_WRITING = ".{}.writing-"
_ASIDE = ".{}.old"


def write_whole(path: str | Path, write: Callable[[Path], None], marker: Mapping[str, Any]) -> Path:
    """Write a directory so that `path` never holds a half-written checkpoint.

    The files go to a hidden neighbour first; then the marker, then both change places. An older
    checkpoint at `path` stays until the new one is whole and on the disk. A process that is killed
    here leaves hidden neighbours, which `tidy` removes.

    Args:
        path: Where the checkpoint shall stand.
        write: Writes everything but the marker into the directory it is given.
        marker: What identifies the checkpoint (JSON).

    Returns:
        The absolute path.

    Raises:
        OSError: It could not be written (the disk is full, ...); what was there is intact.
    """
    target = Path(path).expanduser().resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.parent / f"{_WRITING.format(target.name)}{uuid.uuid4().hex[:8]}"
    try:
        building.mkdir()
        write(building)
        (building / MARKER).write_bytes(_encode(marker))
        _flush(building)
        _put(building, target)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise OSError(error.errno, _not_written(error, target), str(target)) from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return target


def write_elsewhere(
    filesystem: FileSystem, path: str, write: Callable[[], None], marker: Mapping[str, Any]
) -> None:
    """Write a checkpoint where directories cannot change places: the marker goes first, comes last.

    Args:
        filesystem: See `locate`.
        path: There.
        write: Writes everything but the marker.
        marker: What identifies the checkpoint (JSON).
    """
    file = f"{path}/{MARKER}"
    if filesystem.get_file_info(file).type != FileType.NotFound:
        filesystem.delete_file(file)
    write()
    with filesystem.open_output_stream(file) as opened:
        opened.write(_encode(marker))


def locate(
    path: str | os.PathLike[str], filesystem: FileSystem | None = None
) -> tuple[FileSystem | None, str]:
    """Return a file system and the path there; None is this machine's, where it is absolute.

    Args:
        path: A path, or a URI that pyarrow reads (file://, s3://, gs://).
        filesystem: Whose path it is; then it is no URI.
    """
    place = os.fspath(path)
    if filesystem is None and "://" in place:
        filesystem, place = FileSystem.from_uri(place)
    if filesystem is None or isinstance(filesystem, LocalFileSystem):
        return None, str(Path(place).expanduser().resolve())
    return filesystem, place


def tidy(path: str | Path) -> None:
    """Put right what a process that was killed while it wrote a checkpoint left at `path`.

    Only while nothing writes there.
    """
    target = Path(path).expanduser().resolve()
    place = standing(target)
    if place != target:
        os.replace(place, target)
    elif target.exists():
        shutil.rmtree(_aside(target), ignore_errors=True)
    for left in target.parent.glob(f"{_WRITING.format(glob.escape(target.name))}*"):
        shutil.rmtree(left, ignore_errors=True)


def _encode(marker: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(marker), indent=2, sort_keys=True) + "\n").encode()


def _not_written(error: OSError, target: Path) -> str:
    """Say why a checkpoint was not written, and what can be done."""
    reason, is_full = error.strerror or str(error), error.errno in FULL_DISK
    if target.exists():
        kept = "the one that is there is intact"
        kept += ". Make room and resume from it" if is_full else ". Resume from it"
    else:
        kept = "no older one is there" + (". Make room and try again" if is_full else "")
    return f"the checkpoint was not written ({reason}); {kept}"


def _put(building: Path, target: Path) -> None:
    """Move a whole checkpoint to its place and remove the older one."""
    if not target.exists():
        os.replace(building, target)
        return
    if not _exchange(building, target):
        _move_in_turn(building, target)
    # The new one is in its place: what cannot be removed now (NFS keeps open files) is for `tidy`.
    shutil.rmtree(building, ignore_errors=True)


def _move_in_turn(building: Path, target: Path) -> None:
    """Swap two directories in three moves; killed after the first, the older one is aside."""
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(target, aside)
    try:
        os.replace(building, target)
    except BaseException:
        os.replace(aside, target)
        raise
    os.replace(aside, building)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories at once; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of linux/fs.h
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def standing(path: str | Path) -> Path:
    """Return where a checkpoint can be read: in its place or, between two moves, aside.

    It changes nothing: its run may go on. Whoever holds the run moves it back; see `tidy`.
    """
    target = Path(path).expanduser()
    if target.exists() or not (_aside(target) / MARKER).is_file():
        return target
    logger.warning("%s is not yet replaced, or its writer ended; the older one is used", target)
    return _aside(target)


def _aside(target: Path) -> Path:
    return target.parent / _ASIDE.format(target.name)


def _flush(directory: Path) -> None:
    """Wait until everything in a directory is on the disk."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_marker(path: str | Path, filesystem: FileSystem | None = None) -> dict[str, Any]:
    """Return a checkpoint's marker.

    Args:
        path: The checkpoint.
        filesystem: Whose path it is, where that is not this machine's; see `locate`.

    Raises:
        ValueError: The path is no checkpoint of this package, or a half-written one.
    """
    files = filesystem or LocalFileSystem()
    place = str(path) if filesystem is not None else str(standing(path))

    def kind(name: str) -> FileType:
        return files.get_file_info(f"{place}/{name}").type

    if files.get_file_info(place).type != FileType.Directory:
        raise ValueError(f"{str(path)!r} is not a directory; expected an algorithm's checkpoint.")
    if kind(MARKER) != FileType.File:
        half = any(kind(name) != FileType.NotFound for name in ("learner_group", "metadata.json"))
        reason = (
            "it was not written to its end; use the checkpoint before it"
            if half
            else f"a run's checkpoint is {str(path)!r} + '/checkpoint'"
            if kind(f"checkpoint/{MARKER}") == FileType.File
            else "expected a directory written by Algorithm.save_to_path"
        )
        raise ValueError(f"{str(path)!r} is not a whole checkpoint: {MARKER} is missing; {reason}.")
    with files.open_input_stream(f"{place}/{MARKER}") as opened:
        content: dict[str, Any] = json.loads(opened.read())
    return content


def require_dataset(dataset: OfflineDataset, saved: Mapping[str, Any], input_: Any) -> None:
    """Check that a checkpoint's run goes on with the data that it began with.

    Args:
        dataset: What it would go on with.
        saved: The checkpoint's marker, or another mapping with its dataset's id and fingerprint.
        input_: Where `dataset` lies, for the text.

    Raises:
        ValueError: It was trained on another dataset.
    """
    if saved["dataset_fingerprint"] == dataset.fingerprint:
        return
    raise ValueError(
        f"the checkpoint was trained on dataset {saved['dataset_id']!r} (fingerprint "
        f"{saved['dataset_fingerprint'][:12]}), but {input_!r} holds "
        f"{dataset.spec.dataset_id!r} ({dataset.fingerprint[:12]}). Point "
        "offline_data(input_=...) to the original dataset to resume; to fine-tune on another "
        "one, restore the component learner_group/learner/rl_module alone."
    )


def require_learner(path: str, filesystem: FileSystem | None = None) -> None:
    """Check that the learner's state has come to a checkpoint that is being written.

    Raises:
        OSError: It has not.
    """
    if not has_learner(path, filesystem):
        # RLlib brings the files of a learner on another node to local paths only
        # (utils/checkpoints.py:287, 2.60.0).
        raise OSError(
            f"the learner's state did not come to {path!r}; if the learner is on another node, "
            "save to a folder that all nodes share."
        )


def has_learner(path: str, filesystem: FileSystem | None = None) -> bool:
    """Return whether a checkpoint holds the learner's state; RLlib would restore it without."""
    folder = f"{path}/{COMPONENT_LEARNER_GROUP}/{COMPONENT_LEARNER}"
    kind = (filesystem or LocalFileSystem()).get_file_info(folder).type
    return bool(kind == FileType.Directory)


def read_config(path: str | Path) -> OfflineConfig:
    """Return a copy of the config that a checkpoint's algorithm was built with; it can be changed.

    Loading executes code (it is a pickle): trust the checkpoint first.

    Raises:
        ValueError: The path is no checkpoint of this package, or a half-written one.
    """
    read_marker(path)
    file = standing(path) / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    with file.open("rb") as opened:
        built = pickle.load(opened)
    # An algorithm of one's own need not have a class that knows its config.
    settings = dict(built["ctor_args_and_kwargs"][0][0])
    config: OfflineConfig = settings.pop("class")(algo_class=built["class"])
    return config.update_from_dict(settings)
