"""Files that are mapped into memory: each as a whole and once, and no page longer than somebody looks at it.

A mapping has two dangers, and both are met here. A file that another program makes shorter kills whoever reads what is
gone (SIGBUS): zeros take its place instead. And a file that another program changes is no longer what was analysed:
`changed` tells, and whoever asks before it relies on anything never sees the zeros either.

Only Linux says where a reader failed in a way that is known here; elsewhere files are read.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import sys
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

CAN_MAP = sys.platform == "linux"
"""Whether files are mapped at all."""

_WORTHWHILE = 1 << 20  # bytes of an array whose pages are worth a call


@dataclass(frozen=True)
class _Mapping:
    """A file that is mapped: what it is called, its descriptor, what it was like at first, and where its bytes are.

    ``state`` is None for a file that this process writes itself.
    """

    path: str
    descriptor: int
    state: tuple[int, int] | None
    start: int
    stop: int


_mappings: dict[int, _Mapping] = {}  # by the identity of the array of all bytes
_arrays: weakref.WeakValueDictionary[tuple[int, ...], Array] = weakref.WeakValueDictionary()


def mapped_file(file: IO[bytes], own: bool = False) -> npt.NDArray[np.uint8]:
    """Return the bytes of a file, read-only; the same array again as long as that or a part of it lives.

    Args:
        file: it may be closed afterwards. own: whether this process goes on to write to it; it needs no name then.

    Raises:
        OSError: when it cannot be mapped.
    """
    status = os.fstat(file.fileno())
    key = (status.st_dev, status.st_ino, *_state(status))
    found = _arrays.get(key)
    if found is not None:
        return found
    _guard()
    array = np.memmap(file, np.uint8, "r", 0, (status.st_size,))
    start = array.__array_interface__["data"][0]
    stop = start + -(-status.st_size // mmap.PAGESIZE) * mmap.PAGESIZE
    descriptor = os.dup(file.fileno())
    path = f"/proc/{os.getpid()}/fd/{descriptor}" if own else os.path.abspath(file.name)
    _arrays[key] = array
    _mappings[id(array)] = _Mapping(path, descriptor, None if own else _state(status), start, stop)
    weakref.finalize(array, _forget, id(array)).atexit = False
    return array


def place_of(array: Array) -> tuple[str, int] | None:
    """Return in which file an array lies and from which byte on; None where it is not mapped, by whomever."""
    if not array.size or not array.flags.c_contiguous:
        return None
    owner, start = _owner(array), array.__array_interface__["data"][0]
    if (mapping := _mappings.get(id(owner))) is not None:
        return mapping.path, start - mapping.start
    if not isinstance(owner, np.memmap) or not isinstance(owner.base, mmap.mmap) or owner.filename is None:
        return None
    return os.path.abspath(owner.filename), int(owner.offset) + start - owner.__array_interface__["data"][0]


def copied(array: Array, file: BinaryIO) -> bool:
    """Let the system append an array to a file by itself, from the file that it is mapped from; whether it did.

    Where it did so in part, or not at all, the file is as it was.
    """
    mapping = _mapping_of(array)
    if mapping is None or array.nbytes < _WORTHWHILE or not array.flags.c_contiguous:
        return False
    file.flush()
    start, begun = array.__array_interface__["data"][0] - mapping.start, file.tell()
    done = 0
    try:
        while done < array.nbytes:
            moved = os.copy_file_range(mapping.descriptor, file.fileno(), array.nbytes - done, start + done)
            if not moved:
                break
            done += moved
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
    whole = done == array.nbytes
    file.seek(begun + array.nbytes if whole else begun)
    if done and not whole:
        file.truncate()
    return whole


def let_go(array: Array | None) -> None:
    """Give back the memory of an array's pages if they can be had again from a file; it may be read again."""
    if array is None or array.nbytes < _WORTHWHILE or not array.flags.c_contiguous:
        return
    owner = _owner(array)
    mapping = _mappings.get(id(owner))
    if mapping is None or not isinstance(owner.base, mmap.mmap):
        return
    first = array.__array_interface__["data"][0] - mapping.start
    start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (first + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
    if length > 0:
        owner.base.madvise(mmap.MADV_DONTNEED, start, length)


def changed(arrays: Iterable[Array | None]) -> str | None:
    """Return the path of a file that is no longer as it was when it was mapped and of which an array is a part."""
    mappings = {id(found): found for array in arrays if array is not None and (found := _mapping_of(array))}
    kept = [each for each in mappings.values() if each.state is not None]
    return next((each.path for each in kept if _state(os.fstat(each.descriptor)) != each.state), None)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _forget(identity: int) -> None:
    os.close(_mappings.pop(identity).descriptor)


def _owner(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _mapping_of(array: Array) -> _Mapping | None:
    return _mappings.get(id(_owner(array)))


class _SignalAction(ctypes.Structure):
    """The ``struct sigaction`` of Linux's C libraries."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_SA_SIGINFO = 4
_ADDRESS = 16  # where in siginfo_t the address stands
_MAP_FIXED = 16
_guarding: list[Any] = []  # what must live as long as the handler


def _guard() -> None:
    """Let what is gone of a mapped file read as zeros, instead of the end of the process."""
    if _guarding:
        return
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    before = _SignalAction()

    def zeros(number: int, info: int, context: int | None) -> None:
        address = ctypes.c_void_p.from_address(info + _ADDRESS).value or 0
        for mapping in list(_mappings.values()):
            if mapping.start <= address < mapping.stop:
                page = address // mmap.PAGESIZE * mmap.PAGESIZE
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
                library.mmap(page, mapping.stop - page, mmap.PROT_READ, flags, -1, 0)
                return
        library.sigaction(signal.SIGBUS, ctypes.byref(before), None)  # nothing of ours: it comes again

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(zeros)
    action = _SignalAction(handler=ctypes.cast(handler, ctypes.c_void_p), flags=_SA_SIGINFO)
    if library.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(before)):
        raise OSError(ctypes.get_errno(), "no handler for SIGBUS")
    _guarding.extend((handler, before, library))
