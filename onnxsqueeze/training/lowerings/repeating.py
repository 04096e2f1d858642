"""Expand, Tile, ConstantOfShape, Range, Trilu and their kin: tensors made of sizes, or repeated to a size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from onnx import helper
from torch import Tensor

from onnxsqueeze.graph.graph import tensor_attribute
from onnxsqueeze.training.lowerings.node_call import FLOATING, torch_dtype
from onnxsqueeze.training.lowerings.numbers import number, required
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering


@leaf
def expand(data: Tensor, shape: Sequence[int]) -> Tensor:
    """Broadcast a tensor and a shape with each other."""
    broadcast: Sequence[int] = torch.broadcast_shapes(data.shape, tuple(shape))  # type: ignore[no-untyped-call]
    return data.expand(*broadcast)


@leaf
def tile(data: Tensor, repeats: Sequence[int]) -> Tensor:
    """Repeat a tensor along its axes."""
    return data.repeat(*repeats)


@leaf
def full(shape: Sequence[int], value: float | int | bool, dtype: torch.dtype | None, like: Tensor) -> Tensor:
    """Return a tensor of one number on the device of another tensor, and of its type if none is given."""
    return torch.full(tuple(shape), value, dtype=dtype or like.dtype, device=like.device)


@leaf
def arange(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Return numbers from a start to a limit, as many as ONNX's Range gives."""
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(0, int(np.ceil((last - first) / step)))
    return torch.arange(count, dtype=start.dtype, device=start.device) * step + first


@leaf
def triangle(data: Tensor, offset: int, upper: bool) -> Tensor:
    """Return the upper or lower triangle of matrices, zeros elsewhere."""
    return torch.triu(data, offset) if upper else torch.tril(data, offset)


@leaf
def element_count(data: Tensor) -> Tensor:
    """Return the number of elements as a tensor."""
    return torch.tensor(data.numel(), device=data.device)


@lowering("Expand")
def _expand(call: NodeCall) -> Result:
    return expand(call.tensor(0), required(call, 1))


@lowering("Tile", since=6)
def _tile(call: NodeCall) -> Result:
    return tile(call.tensor(0), required(call, 1))


@lowering("ConstantOfShape")
def _constant_of_shape(call: NodeCall) -> Result:
    given = call.node.attributes.get("value")
    value = np.zeros(1, np.float32) if given is None else tensor_attribute(given)
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    dtype = None if kind in FLOATING else torch_dtype(kind)
    return full(required(call, 0), value.reshape(()).item(), dtype, call.floating)


@lowering("Range")
def _range(call: NodeCall) -> Result:
    return arange(call.tensor(0), call.tensor(1), call.tensor(2))


@lowering("Trilu")
def _trilu(call: NodeCall) -> Result:
    offset = number(call, 1) if call.node.input(1) else 0
    return triangle(call.tensor(0), offset, bool(call.node.attributes.get("upper", 1)))


@lowering("Size")
def _size(call: NodeCall) -> Result:
    return element_count(call.tensor(0))
