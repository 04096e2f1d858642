"""A weight of a model: an array, and the header that says everything else about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.checker
import onnx.numpy_helper
from onnx import TensorProto, helper

from onnxsqueeze.errors import InvalidModelError, one_line
from onnxsqueeze.model import wire
from onnxsqueeze.model.external_data import forget_location, is_external, read_external
from onnxsqueeze.model.protobuf import copy_except, set_field
from onnxsqueeze.processes.mapping import let_go

# Types of which several elements share a byte; the newest ones are unknown to an older onnx.
_PACKED_BITS = {
    getattr(TensorProto, name): bits
    for name, bits in {
        **dict.fromkeys(("UINT2", "INT2"), 2),
        **dict.fromkeys(("UINT4", "INT4", "FLOAT4E2M1"), 4),
        **dict.fromkeys(("FLOAT6E2M3", "FLOAT6E3M2"), 6),
    }.items()
    if hasattr(TensorProto, name)
}
MOST_AXES = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
"""Of a numpy array."""
DATA_NAMES = tuple(item.name for item in TensorProto.DESCRIPTOR.fields if item.number in wire.DATA_FIELDS)
_COUNTED = {"int32_data", "int64_data", "uint64_data"}
_VARINT_FIELDS = {
    "int64": wire.TENSOR_INT64_DATA,
    "uint64": wire.TENSOR_UINT64_DATA,
    "uint32": wire.TENSOR_UINT64_DATA,
}
"""By dtype, the field that holds the elements as varints, if it is not that of all smaller types."""


@dataclass(frozen=True, eq=False)
class Initializer:
    """One tensor of ``graph.initializer``.

    Attributes:
        header: the tensor without its data: name, dims, data_type, doc_string, metadata. Where `data` is None, the
            whole tensor.
        data: the elements, read-only, shaped as the tensor; for packed types (4, 2 or 6 bits an element) the bytes as
            they stand in the file; None for strings and for packed types that do not store bytes.
        counted: whether the file stores the elements as varints, one or a few bytes for each small number. They are
            then written so again where that takes fewer bytes.
    """

    header: TensorProto
    data: np.ndarray[Any, Any] | None = None
    counted: bool = False

    @staticmethod
    def from_array(name: str, array: np.ndarray[Any, Any]) -> Initializer:
        """Make an initializer with nothing but a name and a value of any dtype that ONNX knows."""
        data_type = helper.np_dtype_to_tensor_dtype(array.dtype.newbyteorder("="))
        if not _is_plain(data_type):
            return from_tensor(onnx.numpy_helper.from_array(array, name))
        return Initializer(TensorProto(name=name, dims=array.shape, data_type=data_type), array)

    def with_array(self, array: np.ndarray[Any, Any]) -> Initializer:
        """Return an initializer with another value, of any shape and dtype, that keeps the name and the metadata."""
        new = Initializer.from_array(self.name, array)
        for item, value in copy_except(self.header, "name", "dims", "data_type", *DATA_NAMES).ListFields():
            set_field(new.header, item, value)
        return replace(new, counted=self.counted)

    def renamed(self, name: str) -> Initializer:
        """Return the same under another name."""
        header = copy_except(self.header)
        header.name = name
        return replace(self, header=header)

    def to_tensor(self) -> TensorProto:
        """Return the whole tensor, as it is written."""
        tensor = TensorProto()
        self.copy_to(tensor)
        return tensor

    def copy_to(self, tensor: TensorProto) -> None:
        """Make a message the whole tensor, as it is written; it shares nothing with this."""
        tensor.CopyFrom(self.header)
        if (numbers := self.varints) is not None:
            tensor.MergeFromString(numbers)
        elif (raw := self.raw) is not None:
            tensor.raw_data = raw.tobytes()

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.header.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.header.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of `array`: one of ml_dtypes for bfloat16, float8 and packed types, object for strings."""
        return helper.tensor_dtype_to_np_dtype(self.header.data_type)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.header.dims)

    @property
    def nbytes(self) -> int:
        """The number of bytes that the elements take in a file."""
        return self.header.ByteSize() if self.data is None else self.data.nbytes

    @cached_property
    def is_numeric(self) -> bool:
        """Whether the elements are numbers or booleans of whole bytes, that is neither strings nor packed."""
        return _is_plain(self.header.data_type)

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The elements in the tensor's shape, read-only; decoded at each call where `is_numeric` is false."""
        if self.data is not None and self.is_numeric:
            return self.data
        if self.header.data_type == TensorProto.STRING:
            strings = [value.decode("utf-8", "surrogateescape") for value in self.header.string_data]
            return np.array(strings, object).reshape(self.shape)
        tensor = self.header
        if self.data is not None:
            tensor = copy_except(self.header)
            tensor.raw_data = self.data.tobytes()
        return np.asarray(onnx.numpy_helper.to_array(tensor))

    def let_go(self) -> None:
        """Give back the memory of elements that can be had again from a file; they may be read again."""
        let_go(self.data)

    @property
    def raw(self) -> wire.Bytes | None:
        """The bytes of `data` in the file's order, not copied where `data` is contiguous; None where there is none."""
        if self.data is None:
            return None
        little_endian = self.data.astype(self.data.dtype.newbyteorder("<"), copy=False)
        return np.ascontiguousarray(little_endian).reshape(-1).view(np.uint8)

    @property
    def varints(self) -> bytes | None:
        """The encoded field of TensorProto that holds the elements as varints; None where they are written as bytes."""
        if self.data is None or not self.counted or not self.is_numeric:
            return None
        values = _as_counted(self.data)
        length = int(wire.varint_lengths(values).sum(dtype=np.int64))
        if length >= self.data.nbytes:
            return None
        field = _VARINT_FIELDS.get(self.data.dtype.name, wire.TENSOR_INT32_DATA)
        return wire.prefix(field, length) + wire.varints(values)


def _as_counted(data: np.ndarray[Any, Any]) -> npt.NDArray[np.uint64]:
    """Return the numbers [n] that stand for elements as protobuf encodes them: the bits of all that is no integer."""
    flat = np.ascontiguousarray(data).reshape(-1)
    if flat.dtype.kind == "i":
        return flat.astype(np.int64).view(np.uint64)
    bits = np.dtype(f"u{flat.dtype.itemsize}").newbyteorder(flat.dtype.byteorder)
    return np.asarray(flat.view(bits), np.uint64)


def from_tensor(tensor: TensorProto, folder: Path | None = None) -> Initializer:
    """Make an initializer of a whole tensor, which stays as it is.

    Args:
        tensor: the tensor, its data in any of its fields or external.
        folder: the folder of the external data, if any.

    Raises:
        InvalidModelError: when the tensor contradicts itself or its external data cannot be read.
    """
    stored = [name for name in DATA_NAMES if _has_data(tensor, name)]
    if stored == ["raw_data"]:
        return from_bytes(copy_except(tensor, "raw_data"), np.frombuffer(tensor.raw_data, np.uint8))
    if is_external(tensor) and not stored:
        header = copy_except(tensor)
        forget_location(header)
        return from_bytes(header, read_external(tensor, folder))
    try:
        onnx.checker.check_tensor(tensor)
        if not _is_plain(tensor.data_type):
            return Initializer(copy_except(tensor))
        array = np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as error:  # the checker lets errors of several C++ types through
        what = "has a shape beyond numpy's" if len(tensor.dims) > MOST_AXES else "is damaged"
        raise InvalidModelError(f"initializer '{tensor.name}' {what}: {one_line(error)}; export it again") from None
    array.setflags(write=False)
    return Initializer(copy_except(tensor, *DATA_NAMES), array, counted=not _COUNTED.isdisjoint(stored))


def _has_data(tensor: TensorProto, name: str) -> bool:
    return tensor.HasField("raw_data") if name == "raw_data" else len(getattr(tensor, name)) > 0


def from_bytes(header: TensorProto, raw: wire.Bytes) -> Initializer:
    """Make an initializer of a header and the tensor's bytes, neither of which is copied.

    Raises:
        InvalidModelError: when the bytes are not those that the header announces.
    """
    raw.setflags(write=False)
    problem = _problem(header, raw.size)
    if problem:
        raise InvalidModelError(f"initializer '{header.name}' {problem}; export the model again")
    if not _is_plain(header.data_type):
        return Initializer(header, raw)
    dtype = helper.tensor_dtype_to_np_dtype(header.data_type).newbyteorder("<")
    try:
        return Initializer(header, raw.view(dtype).reshape(tuple(header.dims)))
    except ValueError as error:
        raise InvalidModelError(f"initializer '{header.name}' has a shape beyond numpy's: {one_line(error)}") from None


def _problem(header: TensorProto, found: int) -> str:
    """Say what is wrong with a tensor that has `found` bytes, or return an empty string."""
    bits = _element_bits(header.data_type)
    if not bits:
        return f"stores bytes but has the element type {header.data_type}, which is unknown or has none"
    if is_external(header) or header.HasField("segment"):
        return "has its data in two places"
    if any(dim < 0 for dim in header.dims):
        return f"has a negative dimension in its shape {list(header.dims)}"
    needed = -(-math.prod(header.dims) * bits // 8)
    if found != needed:
        return f"of shape {list(header.dims)} needs {needed} bytes but has {found}"
    return ""


@lru_cache(None)
def _element_bits(data_type: int) -> int:
    """Return how many bits an element takes, 0 where the type is unknown or not of fixed size."""
    if data_type in _PACKED_BITS:
        return _PACKED_BITS[data_type]
    try:
        dtype = helper.tensor_dtype_to_np_dtype(data_type)
    except KeyError:
        return 0
    return 0 if dtype.hasobject else dtype.itemsize * 8


def element_bits(dtype: np.dtype[Any]) -> int:
    """Return how many bits an element of a dtype takes in a file."""
    return _element_bits(helper.np_dtype_to_tensor_dtype(dtype))


def _is_plain(data_type: int) -> bool:
    return data_type not in _PACKED_BITS and _element_bits(data_type) > 0
