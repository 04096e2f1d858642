"""An npz file of samples, looked at before it is unpacked: a few kilobytes may hold more than memory does."""

from __future__ import annotations

import math
import os
import stat
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from onnxsqueeze.errors import UsageError, one_line

_ALWAYS_ALLOWED = 2**30  # bytes that an archive may unpack to, however small it is
_MOST_GROWTH = 20  # times its own size that it may else: samples that are no fill hardly compress better
_ENDING = ".npy"


def read_archive(path: Path, names: Collection[str], kind: str) -> dict[str, Any]:
    """Return the arrays of an npz file by name.

    Args:
        path: the file.
        names: the arrays that are needed; one of another name is refused without unpacking anything.
        kind: what is said of a name that is not among them, after "which".

    Raises:
        UsageError: when the file is no npz file, is damaged, or unpacks to more than is needed.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait for ever
            raise UsageError(f"{path}: the samples cannot be read: it is not a regular file; give an npz file")
        with open(path, "rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise UsageError(f"{path}: samples must be an npz file with one array for each input, as of np.savez")
            with zipfile.ZipFile(file) as archive:
                _check_sizes(path, archive, names, kind)
                return {_name(entry): _array(archive, entry) for entry in archive.infolist()}
    except UsageError:
        raise
    except MemoryError:
        raise UsageError(f"{path}: the samples do not fit into memory; give fewer of them") from None
    except Exception as error:  # zlib, struct, zipfile, numpy and the parser of its headers have no common base
        raise UsageError(f"{path}: the samples cannot be read: {one_line(error) or type(error).__name__}") from None


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(_ENDING)


def _check_sizes(path: Path, archive: zipfile.ZipFile, names: Collection[str], kind: str) -> None:
    """Refuse what is not needed by what the archive's directory and the headers of its arrays say."""
    entries = archive.infolist()
    if unknown := sorted({_name(entry) for entry in entries} - set(names)):
        raise UsageError(f"the samples name '{unknown[0]}', which {kind}")
    total = sum(entry.file_size for entry in entries)
    if total > max(_ALWAYS_ALLOWED, _MOST_GROWTH * os.path.getsize(path)):
        raise UsageError(f"{path} unpacks to {total:,} bytes, far more than inputs need; give fewer samples")
    for entry in entries:
        with archive.open(entry) as stream:
            shape, dtype = _header(stream)
            needed = stream.tell() + math.prod(shape) * dtype.itemsize
        if entry.file_size != needed:
            raise UsageError(f"{path}: '{_name(entry)}' takes {entry.file_size:,} bytes, but its array {needed:,}")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, dtype


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    with archive.open(entry) as stream:
        return npy.read_array(stream, allow_pickle=False)
