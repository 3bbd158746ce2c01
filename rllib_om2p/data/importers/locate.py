"""Brings the files of a URI to this machine; local paths are used where they are.

Copies go into the hidden directory `.source` of the new dataset, file by file, so that an
interrupted download goes on; they are removed once the dataset is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from rllib_om2p.data.files import local_uri_path
from rllib_om2p.data.importers.recording import Progress
from rllib_om2p.data.lock import FileLock, HeldError
from rllib_om2p.data.schema import DataError

COPY_NAME = ".source"

# What fsspec's file systems need, so that a message can name the package.
_PACKAGES = {"hf": "huggingface_hub", "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}


def local_copy(path: str, out: Path, progress: Progress) -> Path:
    """Return a local path that holds what `path` names.

    Args:
        path: A local path or a URI.
        out: Folder of the new dataset; a copy goes below it.
        progress: Receives a line per copied file.

    Raises:
        DataError: Nothing is there, a package is missing, the place cannot be reached, or another
            process copies to the same place.
    """
    scheme, separator, rest = path.partition("://")
    if not separator or scheme in ("file", "local"):
        local = Path(local_uri_path(rest) if separator else path).expanduser()
        if not local.exists():
            raise DataError(f"{local} does not exist; check the path.")
        if local.suffix in (".zip", ".gz", ".tar", ".tgz"):
            raise DataError(f"{local} is an archive; unpack it and give what was in it.")
        return local.absolute()
    filesystem, root = _filesystem(path, scheme)
    try:
        files = sorted(filesystem.find(root))
        if not files:
            raise DataError(f"{path} does not exist or is empty; check it, and the credentials.")
        with _alone(out, path):
            for number, file in enumerate(files, start=1):
                target = _target(file, root, out)
                _fetch(filesystem, file, target, progress, f"{number}/{len(files)}")
    except DataError:
        raise
    except Exception as error:  # Every file system has errors of its own.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); is this machine online, and "
            "may you read it? A local copy can be given in its place."
        ) from error
    return out.absolute() / COPY_NAME / PurePosixPath(root.rstrip("/")).name


def remove_copy(out: Path) -> None:
    """Remove what was copied, now that the dataset is whole."""
    shutil.rmtree(out / COPY_NAME, ignore_errors=True)


@contextmanager
def _alone(out: Path, path: str) -> Iterator[None]:
    """Keep a second import from writing the same files."""
    folder = out / COPY_NAME
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock")
    except HeldError as error:
        raise DataError(f"{error} copies {path} to {out} already; wait for it.") from None
    try:
        yield
    finally:
        lock.release()


def _filesystem(path: str, scheme: str) -> tuple[Any, str]:
    try:
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(path)
    except ImportError as error:
        package = _PACKAGES.get(scheme, error.name or "its file system")
        raise DataError(
            f"{path}: {scheme}:// needs the package {package}; install it with "
            f"pip install {package}, or give a local copy."
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path}: no file system is known for {scheme}://; use a local path or hf://, s3://, "
            "gs:// or another scheme of fsspec."
        ) from error
    return filesystem, str(root)


def _target(file: str, root: str, out: Path) -> Path:
    """Return where a file is copied to; the last part of the root stays, since it has a name."""
    base = PurePosixPath(root.rstrip("/"))
    return out / COPY_NAME / base.name / PurePosixPath(file).relative_to(base)


def _fetch(filesystem: Any, file: str, target: Path, progress: Progress, count: str) -> None:
    size = filesystem.size(file)
    if target.exists() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    progress(f"copying {file} ({count}, {(size or 0) / 1e6:.1f} MB)")
    draft = target.with_name(f"{target.name}.part")
    filesystem.get_file(file, str(draft))
    os.replace(draft, target)
