"""Write a model to a file, whole or not at all, without a second copy of its weights."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from onnx import SparseTensorProto, TensorProto

from onnxsqueeze.errors import SqueezeError, UsageError, one_line
from onnxsqueeze.model import wire
from onnxsqueeze.model.constant_nodes import with_constant_nodes
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import MAX_PROTO_BYTES, Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.model.sparse import in_sparse_form
from onnxsqueeze.model.temporary import put_on_disk, remove, replacing, sync_folder, temporary_file
from onnxsqueeze.processes.mapping import copied

_EXTERNAL_FROM = 1024  # bytes: smaller tensors stay in the model file, as the onnx package does it
_ALIGNMENTS = (4096, 64, 1)
"""Bytes: a memory page, so that a runtime can map each tensor of a data file; less where the file would grow by it."""

_WRONG_PATH = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "ENOENT", "ENOTDIR", "EISDIR", "EROFS", "ENAMETOOLONG", "ELOOP")
}
_NO_SPACE = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


class _Part(NamedTuple):
    """One initializer on its way into the model file: encoded bytes, then those of its data if it stands inline."""

    encoded: bytes
    inline: Initializer | None

    @property
    def length(self) -> int:
        return len(self.encoded) + (self.inline.nbytes if self.inline else 0)


class _Stored(NamedTuple):
    """One initializer in a data file."""

    initializer: Initializer
    offset: int


def save(model: Model, path: str | os.PathLike[str], *, data_file: bool = False) -> int:
    """Write a model to a file; afterwards it is there whole, or the path is as it was before.

    A model that protobuf cannot hold, over 2 GB, gets its weights in a file beside it, ``NAME.data``, or where that
    exists ``NAME.1.data`` and so on, since a data file that another model needs is never overwritten.

    Args:
        model: the model; its ``skeleton.graph.initializer`` is empty.
        path: the file to write. A link is followed; a file that exists is replaced and keeps its mode.
        data_file: put the weights into a data file in any case.

    Returns:
        The number of bytes written, those of a data file included.

    Raises:
        UsageError: when the path cannot be written to: no such folder, a folder, no permission.
        SqueezeError: when the writing itself fails, as on a full disk.
    """
    model = with_constant_nodes(model)
    with _explained(path):
        target = _target(os.fspath(path))
        chunks = _in_one_file(model)
        if chunks.length <= MAX_PROTO_BYTES and not data_file:
            with replacing(target) as file, model.unchanged():
                chunks.write(file)
            return chunks.length
        return _save_with_data(model, target)


def save_bytes(data: bytes, path: str | os.PathLike[str]) -> None:
    """Write any file as `save` writes a model: afterwards it is there whole and on the disk, or all is as it was.

    Raises:
        UsageError: when the path cannot be written to. SqueezeError: when the writing itself fails.
    """
    with _explained(path), replacing(_target(os.fspath(path))) as file:
        file.write(data)


def save_copy(source: Path, path: str | os.PathLike[str]) -> int:
    """Copy a file as `save` writes a model, and return its bytes.

    Raises:
        UsageError: when the path cannot be written to. SqueezeError: when the reading or the writing itself fails.
    """
    with _explained(path), open(source, "rb") as given, replacing(_target(os.fspath(path))) as file:
        shutil.copyfileobj(given, file)
        return file.tell()


def encoded_size(model: Model) -> int:
    """Return how many bytes the model takes as one file, without writing it."""
    return _in_one_file(with_constant_nodes(model)).length


def _in_one_file(model: Model) -> _Chunks:
    dense, sparse = in_sparse_form(model)
    return _Chunks(model, [*map(_inline, dense), *map(_inline_sparse, sparse)])


def _save_with_data(model: Model, target: Path) -> int:
    """Write the data file first, then the model that names it; another run may take a name at the same time."""
    longest = f"{target.name}.{2**31}.data"
    alignment = _alignment(model, f"{target.name}.data")
    parts, stored = _split(model.initializers.values(), longest, alignment)
    chunks = _Chunks(model, parts)
    if chunks.length > MAX_PROTO_BYTES:
        raise SqueezeError(
            f"{target}: cannot be written: without its weights the model still takes {chunks.length} bytes, "
            "more than the 2 GB of protobuf; turn its large Constant nodes into initializers"
        )
    with ExitStack() as undo:
        with replacing(target) as file:
            with temporary_file(target) as data_file, model.unchanged():
                data_length = _write_data(data_file, stored)
                put_on_disk(data_file)
                data_target = _appear(Path(data_file.name), target)
                undo.callback(remove, data_target)
            sync_folder(target.parent)
            chunks = _Chunks(model, _split(model.initializers.values(), data_target.name, alignment)[0])
            with model.unchanged():
                chunks.write(file)
        undo.pop_all()
    return chunks.length + data_length


def _alignment(model: Model, location: str) -> int:
    """Return where tensors may begin in a data file so that it takes no more bytes than the one that was given."""
    if not model.has_data_file:
        return _ALIGNMENTS[0]
    for alignment in _ALIGNMENTS:
        parts, stored = _split(model.initializers.values(), location, alignment)
        length = stored[-1].offset + stored[-1].initializer.nbytes if stored else 0
        if _Chunks(model, parts).length + length <= model.file_bytes:
            return alignment
    return _ALIGNMENTS[-1]


def _appear(temporary: Path, target: Path) -> Path:
    """Give a file the first name beside the target that nothing has, and return that."""
    names = itertools.chain([f"{target.name}.data"], (f"{target.name}.{count}.data" for count in itertools.count(1)))
    for path in map(target.with_name, names):
        if os.path.lexists(path):
            continue
        try:
            os.link(temporary, path)  # which fails where something has appeared since
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            os.rename(temporary, path)
        return path
    raise AssertionError


class _Chunks:
    """A model file as a sequence of byte runs whose total length is known before the first is written."""

    def __init__(self, model: Model, parts: list[_Part]) -> None:
        graph = [copy_except(model.skeleton.graph, "node").SerializeToString()]
        # Node by node, since encoding a message takes twice its size, and Constant nodes may hold all the weights.
        for node in model.skeleton.graph.node:
            encoded = node.SerializeToString()
            graph += [wire.prefix(wire.GRAPH_NODE, len(encoded)), encoded]
        graph_length = sum(map(len, graph)) + sum(part.length for part in parts)
        model_only = copy_except(model.skeleton, "graph").SerializeToString()
        prefix = wire.prefix(wire.MODEL_GRAPH, graph_length)
        self._encoded = [model_only, prefix, *graph]
        self._parts = parts
        self.length = len(model_only) + len(prefix) + graph_length

    def write(self, file: BinaryIO) -> None:
        """Write the model, one initializer at a time."""
        for encoded in self._encoded:
            file.write(encoded)
        for part in self._parts:
            file.write(part.encoded)
            if part.inline is not None:
                _write_raw(file, part.inline)


def _inline(initializer: Initializer) -> _Part:
    """Encode an initializer that has its data in the model file."""
    encoded = initializer.header.SerializeToString()
    if initializer.data is None:
        return _Part(_initializer_field(encoded, 0), None)
    if (numbers := initializer.varints) is not None:
        return _Part(_initializer_field(encoded + numbers, 0), None)
    encoded += wire.prefix(wire.TENSOR_RAW_DATA, initializer.nbytes)
    return _Part(_initializer_field(encoded, initializer.nbytes), initializer)


def _inline_sparse(tensor: SparseTensorProto) -> _Part:
    encoded = tensor.SerializeToString()
    return _Part(wire.prefix(wire.GRAPH_SPARSE_INITIALIZER, len(encoded)) + encoded, None)


def _initializer_field(encoded: bytes, following: int) -> bytes:
    return wire.prefix(wire.GRAPH_INITIALIZER, len(encoded) + following) + encoded


def _split(initializers: Iterable[Initializer], location: str, alignment: int) -> tuple[list[_Part], list[_Stored]]:
    """Encode initializers with all large data in the file `location`, and say where in it each stands."""
    parts: list[_Part] = []
    stored: list[_Stored] = []
    end = 0
    for initializer in initializers:
        small = initializer.nbytes < _EXTERNAL_FROM or initializer.varints is not None
        if initializer.data is None or small:
            parts.append(_inline(initializer))
            continue
        offset = -(-end // alignment) * alignment
        end = offset + initializer.nbytes
        header = copy_except(initializer.header)
        header.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", initializer.nbytes)):
            header.external_data.add(key=key, value=str(value))
        parts.append(_Part(_initializer_field(header.SerializeToString(), 0), None))
        stored.append(_Stored(initializer, offset))
    return parts, stored


def _write_data(file: BinaryIO, stored: Iterable[_Stored]) -> int:
    """Write a data file and return its length in bytes."""
    end = 0
    for initializer, offset in stored:
        file.write(bytes(offset - end))
        _write_raw(file, initializer)
        end = offset + initializer.nbytes
    return end


def _write_raw(file: BinaryIO, initializer: Initializer) -> None:
    raw = initializer.raw
    if raw is not None:
        if not copied(raw, file):
            file.write(raw.data)
        initializer.let_go()


def _target(path: str) -> Path:
    """Return the file that a path means, links followed; refuse what cannot or should not be replaced."""
    try:
        target = os.path.realpath(path)
    except ValueError:
        raise UsageError(f"{path!r} is not a possible path; choose another output path") from None
    folder = os.path.dirname(target)
    if os.path.isdir(target) or path.endswith((os.sep, os.altsep or os.sep)) or not path:
        raise UsageError(f"{path!r} is a folder; give the name of the output file")
    if not os.path.isdir(folder):
        raise UsageError(f"{path}: the output folder {folder} does not exist; create it or choose another output path")
    if os.path.exists(target) and not os.path.isfile(target):
        raise UsageError(f"{path} is not a regular file; choose another output path")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise UsageError(f"{path} is write-protected; choose another output path or allow writing")
    return Path(target)


@contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an error of the operating system into one line that says what to do."""
    try:
        yield
    except OSError as error:
        failure = f"{os.fspath(path)}: cannot be written: {one_line(error)}"
        if error.errno in _WRONG_PATH:
            raise UsageError(f"{failure}; choose another output path") from None
        if error.errno in _NO_SPACE:
            raise SqueezeError(f"{failure}; free some space or choose another output path") from None
        raise SqueezeError(f"{failure}; the file there, if any, is as it was") from None
