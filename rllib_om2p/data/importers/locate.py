"""Brings the files of a URI to this machine; local paths are used where they are.

Copies go into the hidden directory `.source` of the new dataset, file by file, so that an
interrupted download goes on; they are removed once the dataset is whole. A listing beside them
says of which URI and which versions of its files they are; others are never taken for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rllib_om2p.data.files import local_uri_path
from rllib_om2p.data.importers.recording import Progress
from rllib_om2p.data.lock import FileLock, HeldError
from rllib_om2p.data.schema import DataError

COPY_NAME = ".source"
_LISTING, _FILES = "listing.json", "files"

# What file systems of fsspec tell of a file's version; how they spell it differs.
_VERSION = re.compile(
    "etag|m_?time|(last[-_]?)?modified|modify|updated|created|generation|blob_?id"
    "|(content[-_]?)?md5([-_]?hash)?|digest",
    re.IGNORECASE,
)

# Schemes in which what stands before an @ is no login but a part of the place.
_NAMES_WITH_AT = ("abfs", "abfss", "az", "git", "github", "hf")

# What fsspec's file systems need, so that a message can name the package.
_PACKAGES = {"hf": "huggingface_hub", "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}


class Located(NamedTuple):
    """Where the files are, and where they come from.

    Args:
        path: The local path that is read.
        origin: The URI it is a copy of, without what only its owner may know; else the path.
    """

    path: Path
    origin: str


def local_copy(path: str, out: Path, progress: Progress) -> Located:
    """Return a local path that holds what `path` names.

    Args:
        path: A local path or a URI.
        out: Folder of the new dataset; a copy goes below it.
        progress: Receives a line per copied file.

    Raises:
        DataError: Nothing is there, a package is missing, the place cannot be reached, a name in it
            leads elsewhere, or another process copies to the same place.
    """
    scheme, separator, rest = path.partition("://")
    is_archive = PurePosixPath(path.partition("?")[0]).suffix in (".zip", ".gz", ".tar", ".tgz")
    if is_archive and "::" not in path:  # zip://NAME::URI reads what is in one.
        raise DataError(f"{path} is an archive; unpack it and give what was in it.")
    if not separator or scheme in ("file", "local"):
        local = Path(local_uri_path(rest) if separator else path).expanduser()
        if not local.exists():
            raise DataError(f"{local} does not exist; check the path.")
        return Located(local.absolute(), str(local.absolute()))
    filesystem, root = _filesystem(path, scheme)
    base = PurePosixPath(root.rstrip("/"))
    copies = out.absolute() / COPY_NAME / _FILES
    try:
        filesystem.invalidate_cache()  # A former import in this process may have listed it.
        files = {_name(file, base, path): file for file in sorted(filesystem.find(root))}
        if not files:
            raise DataError(f"{path} does not exist or is empty; check it, and the credentials.")
        versions = {name: _version(filesystem.info(file)) for name, file in files.items()}
        with _alone(out, path):
            _remove_others(copies, path, versions)
            for number, (name, file) in enumerate(files.items(), start=1):
                size, count = versions[name]["size"], f"{number}/{len(files)}"
                _fetch(filesystem, file, copies / name, size, progress, count)
    except DataError:
        raise
    except Exception as error:  # Every file system has errors of its own.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); is this machine online, and "
            "may you read it? A local copy can be given in its place."
        ) from error
    return Located(copies / base.name, _without_secrets(path))


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


def _name(file: str, base: PurePosixPath, path: str) -> str:
    """Return the name of a file's copy; the last part of the URI stays, since it has a name."""
    name = PurePosixPath(base.name) / PurePosixPath(file).relative_to(base)
    if ".." in name.parts:
        raise DataError(
            f"{path} holds {file!r}, whose '..' leads out of the copy; rename it there, or give a "
            "local copy."
        )
    return str(name)


def _version(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's size and what else tells its versions apart."""
    marks = {key: str(value) for key, value in info.items() if _VERSION.fullmatch(key)}
    return {"size": info.get("size"), **marks}


def _remove_others(copies: Path, path: str, versions: Mapping[str, Any]) -> None:
    """Remove former copies unless they are of these versions of these files of this URI."""
    # A URI may hold a password, so its hash is written.
    uri = hashlib.sha256(path.encode()).hexdigest()
    listing = json.dumps({"uri_sha256": uri, "files": versions}, indent=1, sort_keys=True)
    file = copies.parent / _LISTING
    if file.exists() and file.read_text(encoding="utf-8") == listing:
        return
    # The copies go first: after a kill in between, the listing still is not that of this URI.
    if copies.exists():
        shutil.rmtree(copies)
    file.write_text(listing, encoding="utf-8")


def _fetch(
    filesystem: Any, file: str, target: Path, size: int | None, progress: Progress, count: str
) -> None:
    if target.exists() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    progress(f"copying {file} ({count}, {(size or 0) / 1e6:.1f} MB)")
    draft = target.with_name(f"{target.name}.part")
    filesystem.get_file(file, str(draft))
    os.replace(draft, target)


def _without_secrets(uri: str) -> str:
    """Return a URI as it may stand in a dataset's card: without login and query."""

    def without_login(match: re.Match[str]) -> str:
        return match[0] if match[1] in _NAMES_WITH_AT else f"{match[1]}://"

    uri = re.sub(r"(\w+)://[^/@]*@", without_login, uri)
    return re.sub(r"\?.*?(?=::|$)", "", uri).rstrip("/")
