"""New weights of models that are large for the memory wait in temporary files until they are written."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np

SPILLED_FROM = 1 << 29
"""Bytes of a model from which on its new weights do not stay in memory."""

_SMALLEST = 1 << 20  # bytes of an array that is worth a file


def spilled(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array that is mapped from a temporary file; the array itself where it is small or there is no room.

    The file has no name where the system allows it, so that it is gone with the array, however the process ends.
    """
    if array.nbytes < _SMALLEST or array.dtype.hasobject or os.name == "nt":
        return array
    try:
        with tempfile.TemporaryFile(prefix="onnxsqueeze-") as file:
            array.tofile(file)
            file.flush()
            mapped: np.ndarray[Any, Any] = np.memmap(file, array.dtype, "r", 0, array.shape)
    except OSError:  # no room there: memory has to do
        return array
    return mapped
