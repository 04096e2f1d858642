"""Read a model: its weights as arrays, all else as a light skeleton that keeps whatever the file says.

While a file is read, its weights exist once, in the arrays that the model then holds.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from onnxsqueeze.errors import InvalidModelError, SqueezeError, one_line
from onnxsqueeze.model import checking, node_order, wire
from onnxsqueeze.model.constant_nodes import with_constant_nodes
from onnxsqueeze.model.external_data import inline_external, is_external, used_bytes
from onnxsqueeze.model.initializer import Initializer, from_bytes, from_tensor
from onnxsqueeze.model.mistaken import HEAD, mistaken
from onnxsqueeze.model.model import MAX_PROTO_BYTES, Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.model.sources import Source, given_proto
from onnxsqueeze.model.sparse import in_sparse_form, sparse_bytes, with_dense

__all__ = ["MAX_PROTO_BYTES", "Initializer", "Model", "load", "to_proto"]


def load(source: Source, *, check: bool = True) -> Model:
    """Read a model from a file or take a ModelProto apart, which stays as it is and shares nothing with the result.

    External data is read at once, from the model's folder alone, and belongs to the model like any other.

    Args:
        source: the path of an ONNX file, or a model in memory, of any kind that `sources` knows.
        check: whether to refuse what the checker of the onnx package refuses.

    Raises:
        InvalidModelError: when the file or its external data cannot be read or the model is not valid.
        UsageError: when it is nothing that a model can be read from.
    """
    if isinstance(source, ModelProto):
        return _load_proto(source, None, check)
    if not isinstance(source, (str, os.PathLike)):
        return _load_proto(given_proto(source), None, check)
    path = Path(source)
    try:
        return _load_file(path, check)
    except InvalidModelError as error:
        raise InvalidModelError(f"{path}: {error}") from None


def to_proto(model: Model) -> ModelProto:
    """Put a model together in memory; the result shares nothing with the model.

    Raises:
        SqueezeError: when it would be larger than the 2 GB that protobuf can hold.
    """
    model = with_constant_nodes(model)
    dense, sparse = in_sparse_form(model)
    size = (
        model.skeleton.ByteSize()
        + sparse_bytes(sparse)
        + sum(initializer.nbytes + initializer.header.ByteSize() for initializer in dense)
    )
    if size > MAX_PROTO_BYTES:
        raise SqueezeError(
            f"the model takes {size} bytes, more than the 2 GB that a ModelProto can hold; save it to a file instead"
        )
    proto = ModelProto()
    proto.CopyFrom(model.skeleton)
    proto.graph.sparse_initializer.extend(sparse)
    for initializer in dense:
        initializer.copy_to(proto.graph.initializer.add())
    return proto


def _load_file(path: Path, check: bool) -> Model:
    size = _regular_file_size(path)
    try:
        with open(path, "rb") as file:
            if what := mistaken(file.read(HEAD), path):
                raise InvalidModelError(f"is {what}")
            file.seek(0)
            return _read_file(file, size, path, check)
    except OSError as error:
        raise _unreadable(error) from None


def _regular_file_size(path: Path) -> int:
    """Return the file's size in bytes; refuse what is no file before it is opened, since a pipe would wait for ever."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # a ValueError: the path holds a zero byte
        raise _unreadable(error) from None
    if stat.S_ISDIR(status.st_mode):
        raise InvalidModelError("is a folder; give the path of the ONNX file inside it")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidModelError("is not a regular file; give the path of an ONNX file")
    if status.st_size == 0:
        raise InvalidModelError("is empty; export or copy the model again")
    return status.st_size


def _unreadable(error: Exception) -> InvalidModelError:
    return InvalidModelError(f"cannot be read: {one_line(error)}; check the path and its permissions")


def _read_file(file: io.BufferedReader, size: int, path: Path, check: bool) -> Model:
    try:
        split = wire.split_model(file, size)
        encoded = _encoded_skeleton(split.model, split.graph, [tensor.header for tensor in split.initializers])
        tensors = split.initializers
        del split  # its encoded graph, which `encoded` repeats
        skeleton, notes = _skeleton(encoded, path.parent, check)
    except wire.WireError as error:
        return _parse_file(file, path, check, doubt=error)
    except DecodeError as error:
        raise _not_onnx(error) from None
    initializers = [_from_wire(tensor, path.parent) for tensor in tensors]
    external = _external((tensor.header for tensor in tensors), initializers)
    size += used_bytes(external)
    return with_dense(Model(skeleton, _by_name(initializers), path, size, notes, has_data_file=bool(external)))


def _parse_file(file: io.BufferedReader, path: Path, check: bool, doubt: wire.WireError) -> Model:
    """Let protobuf itself read a file whose bytes are unusual, which mostly means damaged."""
    file.seek(0)
    try:
        proto = ModelProto.FromString(file.read())
    except DecodeError:
        raise _not_onnx(doubt) from None
    return _load_proto(proto, path, check)


def _not_onnx(error: Exception) -> InvalidModelError:
    return InvalidModelError(f"is not an ONNX model or is cut short ({one_line(error)}); export or copy it again")


def _load_proto(proto: ModelProto, path: Path | None, check: bool) -> Model:
    folder = path.parent if path else None
    graph = copy_except(proto.graph, "initializer").SerializeToString() if proto.HasField("graph") else None
    model = copy_except(proto, "graph").SerializeToString()
    encoded = _encoded_skeleton(model, graph, proto.graph.initializer)
    skeleton, notes = _skeleton(encoded, folder, check)
    initializers = [from_tensor(tensor, folder) for tensor in proto.graph.initializer]
    external = _external(proto.graph.initializer, initializers)
    size = _encoded_size(model, graph or b"", proto.graph.initializer) + used_bytes(external)
    return with_dense(Model(skeleton, _by_name(initializers), path, size, notes, has_data_file=bool(external)))


def _external(tensors: Iterable[TensorProto], read: Iterable[Initializer]) -> list[tuple[TensorProto, int]]:
    """Return the tensors whose bytes stand in another file, each with how many those are."""
    pairs = zip(tensors, read, strict=True)
    return [(tensor, initializer.nbytes) for tensor, initializer in pairs if is_external(tensor)]


def _encoded_size(model: bytes, graph: bytes, tensors: Iterable[TensorProto]) -> int:
    """Return how many bytes a model takes as a file, tensor by tensor, since to ask protobuf means to encode all."""
    lengths = [int(tensor.ByteSize()) for tensor in tensors]
    inner = len(graph) + sum(len(wire.prefix(wire.GRAPH_INITIALIZER, length)) + length for length in lengths)
    return len(model) + len(wire.prefix(wire.MODEL_GRAPH, inner)) + inner


def _encoded_skeleton(model: bytes, graph: bytes | None, tensors: Iterable[TensorProto]) -> bytes:
    """Encode the model with empty tensors for initializers, which is all that the checker needs to see of them."""
    if graph is None:
        raise InvalidModelError("holds no graph, so it is not an ONNX model; give the path of an ONNX file")
    empty: list[bytes] = []
    for tensor in tensors:
        if not isinstance(tensor.name, str) or not tensor.name:
            raise InvalidModelError("one of its initializers has no name that is text; export the model again")
        encoded = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]).SerializeToString()
        empty += [wire.prefix(wire.GRAPH_INITIALIZER, len(encoded)), encoded]
    length = len(graph) + sum(map(len, empty))
    return b"".join([model, wire.prefix(wire.MODEL_GRAPH, length), graph, *empty])


def _skeleton(encoded: bytes, folder: Path | None, check: bool) -> tuple[ModelProto, tuple[str, ...]]:
    """Check and parse an encoded model, sort its nodes, and drop its empty initializers; return it with notes."""
    if b"location" in encoded:  # a key that every external tensor has: this search is far quicker than a walk
        encoded = inline_external(encoded, folder)
    skeleton: ModelProto = ModelProto.FromString(encoded)
    unsorted = node_order.sort_nodes(skeleton)
    if check:
        checking.check_encoded(skeleton.SerializeToString() if unsorted else encoded)
    skeleton.graph.ClearField("initializer")
    if check:
        checking.check_opsets(skeleton)
        checking.check_names(skeleton)
    return skeleton, (node_order.NOTE,) if unsorted else ()


def _by_name(initializers: Iterable[Initializer]) -> dict[str, Initializer]:
    named: dict[str, Initializer] = {}
    for initializer in initializers:
        if named.setdefault(initializer.name, initializer) is not initializer:
            raise InvalidModelError(f"two of its initializers are named '{initializer.name}'; export the model again")
    return named


def _from_wire(tensor: wire.Tensor, folder: Path) -> Initializer:
    if tensor.raw is None:
        return from_tensor(tensor.header, folder)
    return from_bytes(tensor.header, tensor.raw)
