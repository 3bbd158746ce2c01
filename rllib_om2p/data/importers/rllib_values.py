"""Decodes what RLlib puts into its files, without RLlib and without running code from them.

Three encodings (Ray 2.60): `pack` (base64 of an lz4 frame of a pickle) in text columns,
msgpack with msgpack-numpy's dicts for episodes, and Arrow tensor columns in Parquet. Pickles may
name NumPy's constructors of arrays and nothing else.
"""

from __future__ import annotations

import base64
import io
import pickle
import zlib
from typing import Any

import numpy as np
import pyarrow as pa

from rllib_om2p.data.schema import AnyArray, DataError

_ALLOWED = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (
        ("numeric", "_frombuffer"),
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype")}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays; anything else a pickle may ask for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, only arrays are allowed")
        return super().find_class(module, name)


def unpack(value: Any, where: str) -> Any:
    """Return a packed value; what is not text is returned as it is.

    Raises:
        DataError: The text is no packed array.
    """
    if not isinstance(value, str | bytes):
        return value
    import lz4.frame

    try:
        data = lz4.frame.decompress(base64.b64decode(value))
        return _ArrayUnpickler(io.BytesIO(data)).load()
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{where} is no array as RLlib packs it ({error}); copy the file again, or record with "
            "output_compress_columns=[]."
        ) from error


def unpack_state(data: bytes, where: str) -> dict[str, Any]:
    """Return the state of an episode from msgpack.

    Raises:
        DataError: The bytes are no episode.
    """
    import msgpack

    try:
        state = msgpack.unpackb(data, object_hook=_array_hook, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise DataError(f"{where} is no msgpack of an episode ({error}); copy it again.") from error
    if not isinstance(state, dict) or not {"observations", "agent_episodes"} & set(state):
        raise DataError(
            f"{where} holds no state of a SingleAgentEpisode or MultiAgentEpisode; record with "
            "output_write_episodes=True."
        )
    return state


def _array_hook(item: dict[Any, Any]) -> Any:
    """Rebuild what msgpack-numpy wrote as {b"nd": ..., b"type": ..., b"data": ...}."""
    if b"nd" not in item and "nd" not in item:
        return item
    item = {key.decode() if isinstance(key, bytes) else key: value for key, value in item.items()}
    if item.get("kind") in (b"O", "O"):
        return None  # Objects, such as infos, are pickled; they are not needed.
    name = item["type"].decode() if isinstance(item["type"], bytes) else item["type"]
    array = np.frombuffer(item["data"], np.dtype(name))
    return array.reshape(item["shape"]) if item["nd"] else array[0]


def box_of(space: Any) -> tuple[list[float], list[float]] | int | None:
    """Return the ends of an action space, or its number of actions, from RLlib's description."""
    if not isinstance(space, dict):
        return None
    if space.get("space") == "discrete":
        if space.get("start", 0) != 0:
            raise DataError(
                f"discrete actions begin at {space['start']}, and here at 0; number them from 0 in "
                "the environment and record again."
            )
        return int(space["n"])
    if space.get("space") != "box":
        return None
    low, high = (_unzip(space[end]).reshape(-1).tolist() for end in ("low", "high"))
    return low, high


def _unzip(text: Any) -> AnyArray:
    """Return an array from base64 of a zlib stream of a .npy file."""
    if not isinstance(text, str | bytes):
        return np.asarray(text)
    npy = io.BytesIO(zlib.decompress(base64.b64decode(text)))
    return np.asarray(np.load(npy, allow_pickle=False))


def column_values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column, tensors as arrays, whether or not Ray Data is loaded."""
    values: list[Any] = []
    for chunk in column.chunks:
        array = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            flat = array.values.to_numpy(zero_copy_only=False)
            offsets = array.offsets.to_numpy()
            values += [flat[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
        else:
            values += array.to_pylist()
    return values
