"""The protobuf wire format of an ONNX file, at its top levels only.

A protobuf parser copies every weight into memory of its own that it gives back only with the whole message. So the
fields ``ModelProto.graph``, ``GraphProto.initializer`` and ``TensorProto.raw_data`` are found here, the weights are
read straight into arrays, and the rest, the skeleton, is small enough for the ordinary parser.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxsqueeze.processes.mapping import CAN_MAP, mapped_file
from onnxsqueeze.processes.spilling import SPILLED_FROM

MODEL_GRAPH = 7
GRAPH_NODE = 1
GRAPH_INITIALIZER = 5
GRAPH_SPARSE_INITIALIZER = 15
TENSOR_RAW_DATA = 9
TENSOR_INT32_DATA = 5
TENSOR_INT64_DATA = 7
TENSOR_UINT64_DATA = 11

Bytes: TypeAlias = npt.NDArray[np.uint8]
"""The bytes of a tensor in the file's own order: little-endian, row-major."""

LENGTH_DELIMITED = 2
_VARINT = 0
_FIXED_LENGTH = {1: 8, 5: 4}
_VARINT_BITS = 7
_AT_ONCE = 1 << 16  # varints that are encoded together, each in 80 bytes
_LONGEST_HEAD = 20  # a field's key and its length, ten bytes each at most

MAPPED_FROM = 1 << 16
"""Bytes of a tensor from which on it is worth being mapped."""

_SMALL = 4096  # below this many bytes the ordinary parser is quicker than walking a tensor's fields
DATA_FIELDS = {
    field.number
    for field in TensorProto.DESCRIPTOR.fields
    if field.name.endswith("_data") and field.name != "external_data"
}
# Packed floats have the very bytes of raw_data; integers are stored as varints, which only the parser decodes.
_STORED_AS_RAW = {
    TensorProto.FLOAT_DATA_FIELD_NUMBER: (TensorProto.FLOAT, TensorProto.COMPLEX64),
    TensorProto.DOUBLE_DATA_FIELD_NUMBER: (TensorProto.DOUBLE, TensorProto.COMPLEX128),
}


class WireError(ValueError):
    """The bytes are not protobuf, or an uncommon form of it that is left to the ordinary parser."""


class Field(NamedTuple):
    """One encoded field: its number, its wire type and where in the file it starts, has its content and stops."""

    number: int
    wire_type: int
    start: int
    body: int
    stop: int


class Tensor(NamedTuple):
    """A tensor: its header and its bytes; without bytes the header is the whole tensor, data included."""

    header: TensorProto
    raw: Bytes | None


class Split(NamedTuple):
    """A model taken apart: the encoded model, its encoded graph (None: no graph), both without initializers."""

    model: bytes
    graph: bytes | None
    initializers: list[Tensor]


def split_model(file: io.BufferedReader, size: int) -> Split:
    """Read a model of `size` bytes: the initializers' weights into arrays, all else as encoded bytes.

    Graph fields that occur several times are joined, which is how protobuf merges them.

    Raises:
        WireError: when the bytes are cut short, are not protobuf or use its obsolete groups.
        google.protobuf.message.DecodeError: when an initializer is not a tensor.
    """
    model_spans: list[tuple[int, int]] = []
    graph_spans: list[tuple[int, int]] = []
    initializers: list[Tensor] = []
    has_graph = False
    for outer in fields(file, 0, size):
        if (outer.number, outer.wire_type) != (MODEL_GRAPH, LENGTH_DELIMITED):
            model_spans.append((outer.start, outer.stop))
            continue
        has_graph = True
        for inner in fields(file, outer.body, outer.stop):
            if (inner.number, inner.wire_type) == (GRAPH_INITIALIZER, LENGTH_DELIMITED):
                initializers.append(_read_tensor(file, inner))
            else:
                graph_spans.append((inner.start, inner.stop))
    graph = _read_spans(file, graph_spans) if has_graph else None
    return Split(_read_spans(file, model_spans), graph, initializers)


def prefix(number: int, length: int) -> bytes:
    """Return what stands before the content of a length-delimited field: its key and its length in bytes."""
    return _encoded(number << 3 | LENGTH_DELIMITED) + _encoded(length)


def varint_lengths(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return how many bytes each of some numbers takes as a varint: seven bits a byte."""
    lengths = np.ones(values.shape, np.uint8)
    for bits in range(_VARINT_BITS, 64, _VARINT_BITS):
        lengths += values >= np.uint64(1 << bits)
    return lengths


def varints(values: npt.NDArray[np.uint64]) -> bytes:
    """Encode numbers [n], those below zero as the 64 bits that they have, one after the other."""
    return b"".join(_varints(values[start : start + _AT_ONCE]) for start in range(0, values.size, _AT_ONCE))


def _varints(values: npt.NDArray[np.uint64]) -> bytes:
    lengths = varint_lengths(values)[:, None]
    places = np.arange(lengths.max(initial=0), dtype=np.uint8)
    sevens = values[:, None] >> (places.astype(np.uint64) * np.uint64(_VARINT_BITS)) & np.uint64(0x7F)
    encoded = sevens.astype(np.uint8) | np.where(places + 1 < lengths, np.uint8(0x80), np.uint8(0))
    return bytes(encoded[places < lengths].data)


def read_bytes(file: io.BufferedReader, start: int, stop: int) -> Bytes:
    """Read a range of the file into an array.

    Raises:
        WireError: when the file ends before.
    """
    buffer = np.empty(stop - start, np.uint8)
    file.seek(start)
    if file.readinto(buffer.data) != buffer.size:
        raise WireError(f"the file ends before byte {stop}")
    return buffer


def fields(file: io.BufferedReader, start: int, stop: int) -> Iterator[Field]:
    """Yield the fields of the message that fills a range of the file; the caller may move the file's position."""
    while start < stop:
        file.seek(start)
        head = file.read(min(_LONGEST_HEAD, stop - start))
        key, content = _varint(head, 0)
        wire_type = key & 7
        if wire_type == LENGTH_DELIMITED:
            length, content = _varint(head, content)
        elif wire_type == _VARINT:
            length = _varint(head, content)[1] - content
        else:
            length = _FIXED_LENGTH.get(wire_type, -1)
        body, end = start + content, start + content + length
        if length < 0 or not key >> 3:
            raise WireError(f"no protobuf field starts at byte {start}")
        if end > stop:
            raise WireError(f"the field at byte {start} has {length} bytes, of which {end - stop} are missing")
        yield Field(key >> 3, wire_type, start, body, end)
        start = end


def _varint(head: bytes, position: int) -> tuple[int, int]:
    """Return the integer that starts at the position and the position behind it."""
    value = 0
    for shift, byte in enumerate(head[position : position + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    raise WireError("an integer is cut short")


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_tensor(file: io.BufferedReader, field: Field) -> Tensor:
    if field.stop - field.body > _SMALL:
        tensor = _read_large_tensor(file, field)
        if tensor is not None:
            return tensor
    return Tensor(TensorProto.FromString(_read_spans(file, [(field.body, field.stop)])), None)


def _read_large_tensor(file: io.BufferedReader, field: Field) -> Tensor | None:
    """Read a tensor whose data is one run of plain bytes, or return None."""
    spans: list[tuple[int, int]] = []
    data: Field | None = None
    for part in fields(file, field.body, field.stop):
        if part.number not in DATA_FIELDS:
            spans.append((part.start, part.stop))
        elif data is None and part.wire_type == LENGTH_DELIMITED:
            data = part
        else:
            return None
    header = TensorProto.FromString(_read_spans(file, spans))
    if data is None or not _is_raw(data.number, header.data_type):
        return None
    return Tensor(header, _weights(file, data.body, data.stop))


def _weights(file: io.BufferedReader, start: int, stop: int) -> Bytes:
    """Read a range of the file, or map it in a file that is large for the memory."""
    if stop - start >= MAPPED_FROM and CAN_MAP and os.fstat(file.fileno()).st_size >= SPILLED_FROM:
        return mapped_file(file)[start:stop].view(np.ndarray)
    return read_bytes(file, start, stop)


def _is_raw(number: int, data_type: int) -> bool:
    if number == TENSOR_RAW_DATA:
        return data_type != TensorProto.STRING
    return data_type in _STORED_AS_RAW.get(number, ())


def _read_spans(file: io.BufferedReader, spans: Iterable[tuple[int, int]]) -> bytes:
    """Read ranges of the file, adjacent ones at once, and join them."""
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, stop))
    return b"".join([_read(file, start, stop) for start, stop in merged])


def _read(file: io.BufferedReader, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)
