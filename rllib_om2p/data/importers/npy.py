"""Reads rows of a .npy file block by block, and notices at once when the file is cut short.

Plain reads in place of a memory map: mapped pages count as memory of the process, so that a
large file would seem to exceed any limit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rllib_om2p.data.schema import AnyArray, DataError


class NpyFile:
    """An array (N,) or (N, C) on disk.

    Args:
        path: The file.

    Raises:
        DataError: The file is missing, cut short, no .npy file, or holds Python objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                shape, self._by_column, self._dtype = _read_header(file, version)
                self._offset = file.tell()
        except FileNotFoundError as error:
            raise DataError(
                f"{path} does not exist; a folder needs obs_{{i}}, acs_{{i}}, rews_{{i}}, "
                "next_obs_{i} and dones_{i}.npy of every agent i. Copy the folder again."
            ) from error
        except (ValueError, OSError) as error:
            raise DataError(f"{path} is not a whole .npy file ({error}); copy it again.") from error
        if self._dtype.hasobject:
            raise DataError(f"{path} holds Python objects, expected numbers; save it as numbers.")
        if not shape:
            raise DataError(f"{path} holds one number, expected rows; save it as (rows, features).")
        self._rows, self.width = shape[0], math.prod(shape[1:])
        if self._by_column and len(shape) > 2:
            raise DataError(f"{path} is {shape} in Fortran order; save np.ascontiguousarray of it.")
        expected = self._offset + self._rows * self.width * self._dtype.itemsize
        actual = path.stat().st_size
        if actual < expected:
            raise DataError(
                f"{path} is cut short: its header promises {self._rows} rows of {self.width} "
                f"features, {expected} bytes, got {actual}; copy it again."
            )

    def __len__(self) -> int:
        return self._rows

    def read(self, start: int, stop: int) -> AnyArray:
        """Return rows start .. stop - 1, (stop - start, C)."""
        rows = stop - start
        if not self._by_column:
            flat = self._numbers(start * self.width, rows * self.width)
            return flat.reshape(rows, self.width)
        columns = [self._numbers(c * self._rows + start, rows) for c in range(self.width)]
        return np.stack(columns, axis=1)

    def _numbers(self, first: int, count: int) -> AnyArray:
        offset = self._offset + first * self._dtype.itemsize
        return np.fromfile(self.path, self._dtype, count, offset=offset)


def _read_header(
    file: BinaryIO, version: tuple[int, int]
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    reader = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, by_column, dtype = reader(file)
    return shape, by_column, dtype
