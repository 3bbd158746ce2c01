"""Finds a dataset's files wherever they lie and opens them; no rows are decoded here.

Knows paths, URIs and Parquet footers. A directory is a dataset when it holds a dataset card that
names its files; a glob or a list of files is taken as it is.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rllib_om2p.data.schema import (
    CARD_NAME,
    CONTENT_KEY,
    SCHEMA_VERSION,
    SPEC_KEY,
    VERSION_KEY,
    Column,
    DataError,
    DatasetSpec,
    StorageError,
    contract_columns,
)

logger = logging.getLogger(__name__)

WRITE_AGAIN = "write the dataset with rllib_om2p.data.writer.DatasetWriter"
# Opening files is waiting for storage, most of all in the cloud.
NUM_THREADS = 8

# What follows ?name=value in a URI is for the file system; any other question mark is a glob's.
_URI_OPTIONS = re.compile(r"(.*?)(\?\w+=.*|)", re.DOTALL)

# What Arrow's own file systems say of the network, as errors of the class that it has for damage.
_REMOTE_FAULTS = ("AWS Error", "google::cloud::Status")

Path: TypeAlias = str | os.PathLike[str]
Input: TypeAlias = Path | Sequence[Path]
T = TypeVar("T")
U = TypeVar("U")


class SourceFile(NamedTuple):
    """Where a file lies."""

    filesystem: pafs.FileSystem
    path: str

    @property
    def name(self) -> str:
        """The file's name without its directory."""
        return PurePosixPath(self.path).name


class Found(NamedTuple):
    """What an input names: files in order, and the card if the input is one directory."""

    files: list[SourceFile]
    card: dict[str, Any] | None


class OpenFile(NamedTuple):
    """A file whose footer was read and checked.

    Args:
        source: Where it lies.
        metadata: The Parquet footer.
        spec: What the file says about its dataset.
        content: SHA-256 of what it holds.
    """

    source: SourceFile
    metadata: pq.FileMetaData
    spec: DatasetSpec
    content: str


@contextmanager
def reaching(place: str, damaged: str) -> Iterator[None]:
    """Turn what a file system or Arrow raises into errors that say whether the file is to blame.

    Every file system of fsspec has errors of its own.

    Args:
        place: What is read.
        damaged: What follows it if the file is to blame; {error} is filled in.

    Raises:
        DataError: The file is damaged or gone.
        StorageError: It could not be reached: rights, network, a service that does not answer.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if _is_damage(error):
            raise DataError(f"{place} {damaged.format(error=error)}") from error
        raise StorageError(
            f"{place} cannot be reached ({type(error).__name__}: {error}): may you read it, and "
            "does its storage answer?"
        ) from error


def _is_damage(error: Exception) -> bool:
    """Whether an error is about a file itself; Arrow says so by OSErrors without a number."""
    if isinstance(error, pa.ArrowException | FileNotFoundError):
        return True
    is_of_arrow = type(error) is OSError and error.errno is None
    return is_of_arrow and not any(words in str(error) for words in _REMOTE_FAULTS)


def in_threads(function: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Apply a function that waits for storage to all items, in order."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, items))


def local_uri_path(rest: str) -> str:
    """Return the path in a file:// URI: percent-encoded, or as it is if only that exists.

    Args:
        rest: What follows file://.
    """
    path = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
    decoded = unquote(path)
    return path if os.path.exists(path) and not os.path.exists(decoded) else decoded


def find(input_: Input, filesystem: Any = None) -> Found:
    """Return the files that a path, glob, URI, or a list of them names.

    Args:
        input_: A dataset's directory, a Parquet file, a glob, a URI such as s3://bucket/data, or a
            list of these.
        filesystem: Where the paths lie (of pyarrow or fsspec); found from the URI when None.

    Raises:
        DataError: Something does not exist, is empty, half-written, or cannot be reached.
    """
    given = [input_] if isinstance(input_, str | os.PathLike) else input_
    items = [os.fspath(item) for item in given]
    if not items or not all(items):
        raise DataError(f"No data: the input is {input_!r}; give a path, a glob, a URI or a list.")
    if filesystem is not None and not isinstance(filesystem, pafs.FileSystem):
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))
    found = [_find_one(item, filesystem) for item in items]
    files = [file for one in found for file in one.files]
    seen: set[tuple[str, str]] = set()
    for file in files:
        place = (file.filesystem.type_name, file.path)
        if place in seen:
            raise DataError(f"{file.path} is named twice by {items}; name each file once.")
        seen.add(place)
    return Found(files, found[0].card if len(found) == 1 else None)


def _find_one(item: str, filesystem: pafs.FileSystem | None) -> Found:
    with reaching(item, "cannot be read: {error}."):
        if filesystem is None:
            filesystem, path = _resolve(item)
        elif isinstance(filesystem, pafs.LocalFileSystem):
            path = _absolute(item)
        else:
            path = item
        if _is_glob(path) and filesystem.get_file_info(path).type == pafs.FileType.NotFound:
            return Found(_match(filesystem, path, item), None)
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise DataError(
                f"{item} does not exist; check the path, and for a URI the credentials as well."
            )
        if info.type == pafs.FileType.File:
            return Found([SourceFile(filesystem, path)], None)
        return _find_directory(filesystem, path.rstrip("/"), item)


def _resolve(item: str) -> tuple[pafs.FileSystem, str]:
    """Return file system and path of a local path or a URI."""
    scheme, separator, rest = item.partition("://")
    if not separator:
        return pafs.LocalFileSystem(), _absolute(item)
    if scheme in ("file", "local"):
        return pafs.LocalFileSystem(), local_uri_path(rest)
    # A glob is no valid URI: the file system comes from the part before it, with the options.
    matched = _URI_OPTIONS.fullmatch(item)
    assert matched is not None  # it matches any text
    uri, options = matched.groups()
    parts = uri.split("/")
    first_glob = next((i for i, part in enumerate(parts) if _is_glob(part)), len(parts))
    base, pattern = "/".join(parts[:first_glob]) + options, parts[first_glob:]
    try:
        filesystem, path = pafs.FileSystem.from_uri(base)
    except pa.ArrowInvalid:
        filesystem, path = _resolve_with_fsspec(base, scheme)
    except ImportError as error:
        raise _missing_package(item, scheme, error) from error
    return filesystem, "/".join([path.rstrip("/"), *pattern])


def _resolve_with_fsspec(uri: str, scheme: str) -> tuple[pafs.FileSystem, str]:
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise _missing_package(uri, scheme, error) from error
    except ValueError as error:
        raise DataError(
            f"{uri}: no file system is known for {scheme}://; use a local path, file://, s3://, "
            "gs://, hf:// or another scheme of pyarrow or fsspec, or pass filesystem=."
        ) from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def _missing_package(item: str, scheme: str, error: ImportError) -> DataError:
    return DataError(f"{item}: reading {scheme}:// needs a package that is missing: {error}.")


def _absolute(path: str) -> str:
    """Return a local path that worker processes understand as well."""
    return os.path.abspath(os.path.expanduser(path))


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def _match(filesystem: pafs.FileSystem, pattern: str, item: str) -> list[SourceFile]:
    parts = pattern.split("/")
    first_glob = next(i for i, part in enumerate(parts) if _is_glob(part))
    base = "/".join(parts[:first_glob]) or "/" * pattern.startswith("/")
    selector = pafs.FileSelector(base, recursive=first_glob < len(parts) - 1, allow_not_found=True)
    files = [
        SourceFile(filesystem, info.path)
        for info in filesystem.get_file_info(selector)
        if info.type == pafs.FileType.File and _matches(info.path, pattern)
    ]
    if not files:
        raise DataError(f"{item} matches no file; check the pattern, for example DIR/*.parquet.")
    return sorted(files, key=lambda file: file.path)


def _matches(path: str, pattern: str) -> bool:
    """Whether a path matches a glob, part by part; hidden files match only a pattern with a dot."""
    names, patterns = path.strip("/").split("/"), pattern.strip("/").split("/")
    if "**" in patterns:
        cut = patterns.index("**")
        head, tail = patterns[:cut], patterns[cut + 1 :]
        return any(
            len(names) >= cut
            and _matches("/".join(names[:cut]), "/".join(head))
            and _matches("/".join(names[start:]), "/".join(tail))
            and not any(name.startswith(".") for name in names[cut:start])
            for start in range(cut, len(names))
        )
    return len(names) == len(patterns) and all(
        fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
        for name, part in zip(names, patterns, strict=True)
    )


def _find_directory(filesystem: pafs.FileSystem, path: str, item: str) -> Found:
    card_path = f"{path}/{CARD_NAME}"
    entries = filesystem.get_file_info(pafs.FileSelector(path))
    here = {info.base_name: info for info in entries}
    parquet = sorted(name for name in here if name.endswith(".parquet"))
    if CARD_NAME not in here:
        raise _no_card(item, parquet, here)
    try:
        with filesystem.open_input_stream(card_path) as stream:
            card = json.loads(stream.read())
        names = [entry["name"] for entry in card["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{card_path} is not a whole dataset card ({error}); copy it again, or read the files "
            f"without it as {item.rstrip('/')}/*.parquet."
        ) from error
    if card.get("schema_version") != SCHEMA_VERSION:
        raise _unknown_version(card_path, card.get("schema_version"))
    missing = [name for name in names if name not in here]
    if missing:
        raise DataError(
            f"{item} is incomplete: its card names {len(names)} files, {missing[0]} and "
            f"{len(missing) - 1} more are missing; copy or write the dataset again."
        )
    extra = [name for name in parquet if name not in names]
    if extra:
        raise DataError(
            f"{item} holds {extra[0]}, which its card does not name; move it away, or read all "
            f"files as {item.rstrip('/')}/*.parquet."
        )
    return Found([SourceFile(filesystem, f"{path}/{name}") for name in names], card)


def _no_card(item: str, parquet: Sequence[str], here: Collection[str]) -> DataError:
    if ".writing" in here:
        former = "; the former dataset comes back when that begins" if ".former" in here else ""
        return DataError(
            f"{item} is half-written: a writer is still at work or was killed before it finished; "
            f"write the dataset again{former}."
        )
    if parquet:
        return DataError(
            f"{item} has {len(parquet)} Parquet files but no {CARD_NAME}: it is half-written or "
            "copied in part. Copy or write it again, or, if the files are whole, read them as "
            f"{item.rstrip('/')}/*.parquet."
        )
    return DataError(
        f"{item} holds no dataset (no {CARD_NAME}); give the directory that holds one, or make one "
        "with `rllib-om2p make-dataset`."
    )


def _unknown_version(place: str, version: object) -> DataError:
    return DataError(
        f"{place}: schema version {version!r} is unknown, this package reads {SCHEMA_VERSION}; "
        f"update the package, or {WRITE_AGAIN}."
    )


def open_files(files: Iterable[SourceFile]) -> list[OpenFile]:
    """Read and check the footers of files.

    Raises:
        DataError: A file is not readable Parquet, not of the contract, or of another dataset.
    """
    opened = in_threads(_open_file, list(files))
    first = opened[0]
    for other in opened[1:]:
        _check_same(first, other)
    return opened


def _open_file(source: SourceFile) -> OpenFile:
    damaged = (
        "is not a readable Parquet file ({error}): it is cut off, damaged or of another format; "
        f"copy it again, or {WRITE_AGAIN}."
    )
    with (
        reaching(source.path, damaged),
        source.filesystem.open_input_file(source.path) as file,
    ):
        metadata = pq.read_metadata(file)
        keys = metadata.metadata or {}
        content = keys.get(CONTENT_KEY, b"").decode() or _hash(file)
    version = keys.get(VERSION_KEY)
    if version is None or SPEC_KEY not in keys:
        raise DataError(
            f"{source.path} is Parquet but not of this package's contract: its metadata lacks "
            f"{(VERSION_KEY if version is None else SPEC_KEY).decode()}; import it with "
            f"`rllib-om2p import`, or {WRITE_AGAIN}."
        )
    if version != str(SCHEMA_VERSION).encode():
        raise _unknown_version(source.path, version.decode(errors="replace"))
    try:
        spec = DatasetSpec.from_json(keys[SPEC_KEY])
    except DataError as error:
        raise DataError(f"{source.path}: {error}") from error
    _check_schema(source, metadata.schema.to_arrow_schema(), contract_columns(spec))
    if metadata.num_rows == 0:
        raise DataError(f"{source.path} holds no rows; leave the file out.")
    return OpenFile(source, metadata, spec, content)


def _hash(file: pa.NativeFile) -> str:
    # Not hashlib.file_digest: its small blocks would each be a request to an object store.
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 22):
        digest.update(block)
    return digest.hexdigest()


def _check_schema(source: SourceFile, schema: pa.Schema, columns: dict[str, Column]) -> None:
    for column in columns.values():
        owner = f" of agent {column.agent.name}" if column.agent is not None else ""
        found = schema.get_all_field_indices(column.name)
        if len(found) != 1:
            raise DataError(
                f"{source.path}: column {column.name}{owner} is missing; the contract needs it as "
                f"{_describe(column.type)}. Add the column, or {WRITE_AGAIN}."
            )
        actual = schema.field(found[0]).type
        if not _same_type(actual, column.type):
            raise DataError(
                f"{source.path}: column {column.name}{owner} must be {_describe(column.type)}, got "
                f"{_describe(actual)}; convert the column or correct the spec, and {WRITE_AGAIN}."
            )


def _same_type(actual: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(expected):
        return bool(
            pa.types.is_fixed_size_list(actual)
            and actual.list_size == expected.list_size
            and actual.value_type == expected.value_type
        )
    return bool(actual == expected)


def _describe(type_: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(type_):
        return f"fixed_size_list<{type_.value_type}>[{type_.list_size}]"
    if pa.types.is_list(type_):
        return f"list<{type_.value_type}> of any length"
    return str(type_)


def _check_same(first: OpenFile, other: OpenFile) -> None:
    """Check that two files can be learned from together."""
    for name in ("agents", "team_return", "env", "env_kwargs", "state_dim"):
        ours, theirs = getattr(first.spec, name), getattr(other.spec, name)
        if ours != theirs:
            raise DataError(
                f"{first.source.path} and {other.source.path} do not belong together: {name} is "
                f"{ours} in the one and {theirs} in the other; open them as two datasets."
            )
    optional = ("has_action_masks", "has_alive", "has_behaviour_id")
    if any(getattr(first.spec, name) != getattr(other.spec, name) for name in optional):
        raise DataError(
            f"{first.source.path} and {other.source.path} do not belong together: one has optional "
            "columns that the other lacks; open them as two datasets."
        )
