"""The files that a model consists of: the ONNX file and its external data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from onnx import ModelProto, StringStringEntryProto, TensorProto

from onnxsqueeze.model import wire
from onnxsqueeze.model.external_data import tensors_within

if TYPE_CHECKING:
    from io import BufferedReader

_CHUNK = 2**20  # bytes of a file that are in memory at a time
_SHORT = 4096  # bytes of a field that is searched for the word before its own fields are looked at
_LOCATION = b"location"
_TENSOR = TensorProto.DESCRIPTOR.full_name


@dataclass(frozen=True)
class File:
    """One file.

    Attributes:
        path: relative to the folder of the deployment; of a source its name alone.
        bytes: its length.
        sha256: its checksum in hexadecimal digits.
    """

    path: str
    bytes: int
    sha256: str


def files_of_model(path: Path) -> tuple[File, ...]:
    """Describe an ONNX file and the files of its external data."""
    return tuple(_described(path.parent / name, name) for name in (path.name, *sorted(external_locations(path))))


def external_locations(path: Path) -> frozenset[str]:
    """Return the names of data files that stand anywhere in an ONNX file, in subgraphs and functions too.

    Weights are passed over unread. Of a file that is damaged, the names before the damage are found; of one that cannot
    be opened, none: nothing is checked here.
    """
    found: set[str] = set()
    with suppress(OSError, ValueError, DecodeError), open(path, "rb") as file:  # ValueError: a zero byte in the path
        try:
            for encoded in _entries(file, os.fstat(file.fileno()).st_size):
                found |= _location(StringStringEntryProto.FromString(encoded))
        except wire.WireError:  # of an uncommon form, or damaged: the parser knows
            file.seek(0)
            for tensor in tensors_within(ModelProto.FromString(file.read())):
                found |= set().union(*map(_location, tensor.external_data))
    return frozenset(found)


def _location(entry: StringStringEntryProto) -> set[str]:
    return {entry.value} if entry.key == "location" and isinstance(entry.value, str) else set()


def _entries(file: BufferedReader, size: int) -> Iterator[bytes]:
    """Yield what stands in every ``external_data`` of a model of ``size`` bytes, encoded."""
    around = [(ModelProto.DESCRIPTOR, wire.fields(file, 0, size))]  # not recursive: a file may nest as deep as it likes
    while around:
        descriptor, fields = around[-1]
        field = next(fields, None)
        if field is None:
            around.pop()
        elif field.wire_type == wire.LENGTH_DELIMITED and field.number in _leading(descriptor):
            if field.stop - field.body <= _SHORT and _LOCATION not in _content(file, field):
                continue
            if descriptor.full_name == _TENSOR:
                yield _content(file, field)
            else:
                within = descriptor.fields_by_number[field.number].message_type
                around.append((within, wire.fields(file, field.body, field.stop)))


def _content(file: BufferedReader, field: wire.Field) -> bytes:
    return wire.read_bytes(file, field.body, field.stop).tobytes()


@lru_cache(None)
def _leading(descriptor: Any) -> frozenset[int]:
    """Return the numbers of the fields of a message in which there can be external data."""
    if descriptor.full_name == _TENSOR:
        return frozenset({TensorProto.EXTERNAL_DATA_FIELD_NUMBER})
    return frozenset(field.number for field in descriptor.fields if _holds_tensors(field.message_type, set()))


def _holds_tensors(descriptor: Any, seen: set[str]) -> bool:
    if descriptor is None or descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return descriptor.full_name == _TENSOR or any(_holds_tensors(part.message_type, seen) for part in descriptor.fields)


@dataclass(frozen=True)
class InputFiles:
    """The files that a command reads, none of which it may ever write to.

    Attributes:
        models: ONNX files; the data files that they name belong to them. others: samples and the like.
    """

    models: tuple[Path, ...]
    others: tuple[Path, ...] = ()

    def holding(self, path: Path) -> str:
        """Say which of the files a path leads to, by whatever links and spelling; "" for none."""
        for model in self.models:
            if same_file(path, model):
                return f"the model {model}"
        for other in self.others:
            if same_file(path, other):
                return f"the samples {other}"
        return next((words for file, words in self._data_files(path) if same_file(path, file)), "")

    def within(self, folder: Path) -> Path | None:
        """Return a file that lies in a folder, by its own path or where that leads to; None where none does."""
        own, real = Path(os.path.abspath(folder)), Path(os.path.realpath(folder))
        data = (file for model in self.models for file in data_files(model))
        for file in (*self.models, *self.others, *data):
            if own in Path(os.path.abspath(file)).parents or real in Path(os.path.realpath(file)).parents:
                return file
        return None

    def _data_files(self, path: Path) -> Iterator[tuple[Path, str]]:
        if not os.path.lexists(path):  # what is not there belongs to nothing, so that no model has to be searched
            return
        for model in self.models:
            for file in data_files(model):
                yield file, f"the data file {file} of {model}"


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the files of external data that an ONNX file names, whether or not they exist.

    They are looked for beside the path as it is given, as `load` does it, and beside the file that a link leads to.
    """
    folders = dict.fromkeys((path.parent, Path(os.path.realpath(path)).parent))
    names = [name for name in sorted(external_locations(path)) if name and "\0" not in name]
    return tuple(folder / name for folder in folders for name in names)


def same_file(left: Path, right: Path) -> bool:
    """Whether two paths lead to one file, by whatever links, or would if it existed."""
    try:
        return os.path.samefile(left, right)
    except OSError:
        return os.path.realpath(left) == os.path.realpath(right)


def _described(path: Path, name: str) -> File:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return File(name, size, digest.hexdigest())
