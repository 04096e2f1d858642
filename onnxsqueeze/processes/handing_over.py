"""Pickle for another process on the same machine: arrays that are mapped from a file go as its path and their place."""

from __future__ import annotations

import mmap
import os
import pickle
from typing import IO, Any

import numpy as np

from onnxsqueeze.processes.spilling import spilled

_LARGE = 1 << 24  # bytes of an array that does not stay in the other process's memory


def dump(value: Any, file: IO[bytes]) -> None:
    """Write a value; the file that an array is mapped from must stay until it is read."""
    _Pickler(file, protocol=5).dump(value)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        if (place := _place(value)) is not None:
            return mapped, place
        if value.nbytes >= _LARGE and not value.dtype.hasobject:
            plain: Any = np.ascontiguousarray(value).view(np.ndarray)
            return _received, (pickle.PickleBuffer(plain), value.dtype, value.shape)
        return NotImplemented


def _received(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Put a large array into a temporary file, so that only one at a time is in the other process's memory."""
    return spilled(np.frombuffer(data, dtype).reshape(shape))


def _place(array: np.ndarray[Any, Any]) -> tuple[Any, ...] | None:
    """Return where in a file an array lies; None for one in memory, whose bytes are the only ones there are."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    if not isinstance(base, np.memmap) or not isinstance(base.base, mmap.mmap) or base.filename is None:
        return None
    if not array.flags.c_contiguous or not array.size:
        return None
    start = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    path, offset = os.path.abspath(base.filename), int(base.offset)
    return path, offset + start, array.dtype, array.shape


def mapped(path: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Map an array from a file, read-only."""
    array: np.ndarray[Any, Any] = np.memmap(path, dtype, "r", offset, shape)
    return array
