"""Tensors that a file stores as varints are written so again, or as bytes, whichever takes fewer bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.model.initializer import from_tensor

TYPES = {
    TensorProto.INT64: "int64_data",
    TensorProto.INT32: "int32_data",
    TensorProto.INT16: "int32_data",
    TensorProto.INT8: "int32_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT16: "int32_data",
    TensorProto.UINT8: "int32_data",
    TensorProto.BOOL: "int32_data",
    TensorProto.FLOAT16: "int32_data",
    TensorProto.BFLOAT16: "int32_data",
    TensorProto.FLOAT8E4M3FN: "int32_data",
}


def spelled(array: npt.NDArray[Any], kind: int) -> onnx.TensorProto:
    """Return a tensor that has its elements in the field of their type."""
    return helper.make_tensor("t", kind, array.shape, array.ravel())


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(sorted(TYPES)))
def test_they_come_back_in_the_shorter_form(data: st.DataObject, kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    plain = np.dtype(np.float32) if dtype.kind in "fV" and dtype.itemsize < 4 else dtype
    small = {"min_value": -4, "max_value": 4} if plain.kind in "if" else None
    elements = data.draw(st.sampled_from([None, small]))
    array = data.draw(arrays.arrays(plain, arrays.array_shapes(min_dims=0, max_dims=3), elements=elements))
    with np.errstate(over="ignore", invalid="ignore"):
        typed = spelled(array.astype(dtype), kind)
    stored = from_tensor(typed)
    written, raw = stored.to_tensor(), onnx.TensorProto()
    raw.CopyFrom(stored.header)
    assert stored.raw is not None
    raw.raw_data = stored.raw.tobytes()
    assert written.ByteSize() == min(typed.ByteSize(), raw.ByteSize())
    assert written == (typed if typed.ByteSize() < raw.ByteSize() else raw)
    assert numpy_helper.to_array(written).tobytes() == numpy_helper.to_array(typed).tobytes()


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_the_field_of_each_type(kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    stored = from_tensor(spelled(np.zeros((2, 70_000), dtype), kind))
    tensor = stored.to_tensor()
    assert (len(getattr(tensor, TYPES[kind])) > 0) == (dtype.itemsize > 1)
    assert tensor.HasField("raw_data") == (dtype.itemsize == 1)
    assert np.array_equal(numpy_helper.to_array(tensor), np.zeros((2, 70_000), dtype))


def test_what_came_as_bytes_stays_bytes() -> None:
    tensor = numpy_helper.from_array(np.ones(9, np.int64), "t")
    assert from_tensor(tensor).to_tensor() == tensor


def test_a_part_and_another_name_keep_the_form() -> None:
    stored = from_tensor(spelled(np.array([1, -1, 300]), TensorProto.INT64))
    part = stored.with_array(np.array([300])).renamed("u").to_tensor()
    assert (part.name, list(part.int64_data), part.HasField("raw_data")) == ("u", [300], False)
    negative = stored.with_array(np.array([-1])).to_tensor()  # ten bytes as a varint
    assert negative.raw_data == np.array([-1]).tobytes()
