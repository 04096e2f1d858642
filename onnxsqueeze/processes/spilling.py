"""New weights of models that are large for the memory wait in a temporary file until they are written."""

from __future__ import annotations

import tempfile
import weakref
from typing import IO

import numpy as np

from onnxsqueeze.processes.mapping import CAN_MAP, Array, mapped_file

SPILLED_FROM = 1 << 29
"""Bytes of a model from which on its new weights do not stay in memory."""

_SMALLEST = 1 << 20  # bytes of an array that is worth a place in a file
_FILE = 1 << 32  # bytes of a file, which takes as many on the disk as were written
_ALIGNMENT = 64  # bytes


class _Spill:
    """A temporary file that many arrays share, since a process may have no more than some hundred files open.

    It has no name, so that it is gone with its arrays, however the process ends.
    """

    def __init__(self, file: IO[bytes], whole: Array) -> None:
        self._file, self._size, self._end = file, whole.nbytes, 0
        self.whole = weakref.ref(whole)
        weakref.finalize(whole, file.close)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more fit."""
        return self._end + size <= self._size

    def put(self, array: Array, whole: Array) -> Array:
        """Write an array and return it as it lies in the file, whose bytes are ``whole``.

        Raises:
            OSError: when there is no room on the disk.
        """
        self._file.seek(self._end)
        array.tofile(self._file)
        self._file.flush()
        part = whole[self._end : self._end + array.nbytes].view(np.ndarray)
        self._end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return part.view(array.dtype).reshape(array.shape)


_spills: list[_Spill] = []  # the one that is written to


def spilled(array: Array) -> Array:
    """Return an array as it lies in a temporary file; the array itself where it is small or there is no room."""
    if array.nbytes < _SMALLEST or array.dtype.hasobject or not CAN_MAP:
        return array
    try:
        whole = _spills[0].whole() if _spills and _spills[0].has_room(array.nbytes) else None
        if whole is None:
            file = tempfile.TemporaryFile(prefix="onnxsqueeze-")  # noqa: SIM115  (open as long as its arrays live)
            file.truncate(max(_FILE, array.nbytes))
            whole = mapped_file(file, own=True)
            _spills[:] = [_Spill(file, whole)]
        return _spills[0].put(array, whole)
    except OSError:  # no room there: memory has to do
        return array
