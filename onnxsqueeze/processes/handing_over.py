"""Pickle for another process on the same machine: arrays that are mapped from a file go as its path and their place."""

from __future__ import annotations

import math
import pickle
from typing import IO, Any

import numpy as np

from onnxsqueeze.processes.mapping import mapped_file, place_of
from onnxsqueeze.processes.spilling import spilled

_LARGE = 1 << 24  # bytes of an array that does not stay in the other process's memory


def dump(value: Any, file: IO[bytes]) -> None:
    """Write a value; the file that an array is mapped from must stay until it is read."""
    _Pickler(file, protocol=5).dump(value)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        if (place := place_of(value)) is not None:
            return mapped, (*place, value.dtype, value.shape)
        if value.nbytes >= _LARGE and not value.dtype.hasobject:
            plain: Any = np.ascontiguousarray(value).view(np.ndarray)
            return _received, (pickle.PickleBuffer(plain), value.dtype, value.shape)
        return NotImplemented


def _received(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Put a large array into a temporary file, so that only one at a time is in the other process's memory."""
    return spilled(np.frombuffer(data, dtype).reshape(shape))


def mapped(path: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Map an array from a file, read-only."""
    with open(path, "rb") as file:
        whole = mapped_file(file)
    size = math.prod(shape) * dtype.itemsize
    return whole[offset : offset + size].view(np.ndarray).view(dtype).reshape(shape)
