"""Estimate how long onnx.reference takes on a model: it is written in Python, and slow at some operators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress

import onnx.shape_inference
from onnx import ModelProto, NodeProto, ValueInfoProto

from onnxsqueeze.model.protobuf import fixed_size
from onnxsqueeze.verification.dimension_sizes import input_type

Shapes = Mapping[str, tuple[int, ...]]

# Seconds, measured on one core of an ordinary server; a factor of two does not matter.
_PER_MAC = 1.2e-9
_PER_CONV_OUTPUT = 2e-7
_PER_TRANSPOSED_COLUMN = 2e-6  # ConvTranspose: for each element of the columns that it scatters
_PER_POOL_OUTPUT = 5e-6
_PER_POOL_TAP = 5e-7
_PER_SAMPLED_OUTPUT = 1.3e-4
_PER_ELEMENT = 1e-7

_POOLS = {"MaxPool", "AveragePool", "LpPool"}
_SAMPLERS = {"GridSample", "RoiAlign", "MaxRoiPool", "DeformConv", "Col2Im", "MaxUnpool", "NonMaxSuppression"}
_CONVOLUTIONS = {"Conv", "ConvInteger", "QLinearConv"}
_PRODUCTS = {"MatMul", "Gemm"}


def reference_seconds(model: ModelProto, fed: Shapes) -> float:
    """Return about how many seconds one evaluation takes; infinite where a slow operator's size cannot be told.

    Args:
        model: the model with its initializers.
        fed: the shapes of the graph inputs.
    """
    shapes = _shapes(model, fed)
    return sum(_node_seconds(node, shapes) for node in model.graph.node)


def slow_seconds(node: NodeProto, shapes: Shapes) -> float:
    """Return at most about how many seconds one node takes whose operator is slow there; 0 for all others.

    Args:
        node: the node. shapes: of its inputs, by name.
    """
    elements = float(math.prod(shapes.get(next(iter(node.input), ""), ())))
    if node.op_type in _POOLS:  # as if it made as much as it reads
        taps = next((math.prod(item.ints) for item in node.attribute if item.name == "kernel_shape"), 1)
        return elements * (_PER_POOL_OUTPUT + taps * _PER_POOL_TAP)
    if node.op_type in _SAMPLERS:
        return elements * _PER_SAMPLED_OUTPUT
    if node.op_type == "ConvTranspose":
        taps = math.prod(shapes.get(node.input[1], ())[1:])
        return elements * taps * _PER_TRANSPOSED_COLUMN
    return 0.0


def _shapes(model: ModelProto, fed: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors that shape inference finds at these input shapes."""
    concrete = ModelProto()
    concrete.CopyFrom(model)
    for value in concrete.graph.input:
        for dim, size in zip(input_type(value).tensor_type.shape.dim, fed.get(value.name, ()), strict=False):
            dim.dim_value = size
    for value in concrete.graph.output:
        input_type(value).tensor_type.ClearField("shape")
    concrete.graph.ClearField("value_info")
    with suppress(Exception):  # inference raises errors of several C++ types; what it cannot tell counts as unknown
        concrete = onnx.shape_inference.infer_shapes(concrete, data_prop=True)
    found = {tensor.name: tuple(tensor.dims) for tensor in concrete.graph.initializer}
    for value in (*concrete.graph.input, *concrete.graph.output, *concrete.graph.value_info):
        if (shape := _static(value)) is not None:
            found[value.name] = shape
    return found


def _static(value: ValueInfoProto) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    sizes = [fixed_size(dim) for dim in tensor.shape.dim]
    known = [size for size in sizes if size is not None]
    return tuple(known) if tensor.HasField("shape") and len(known) == len(sizes) else None


def _node_seconds(node: NodeProto, shapes: Shapes) -> float:
    outputs = [shapes[name] for name in node.output if name in shapes]
    inputs = [shapes.get(name) for name in node.input]
    slow = node.op_type in _POOLS | _SAMPLERS | _CONVOLUTIONS | {"ConvTranspose"}
    if not outputs:
        return math.inf if slow else 0.0
    elements = float(sum(math.prod(shape) for shape in outputs))
    if node.op_type in _POOLS:
        taps = next((math.prod(item.ints) for item in node.attribute if item.name == "kernel_shape"), 1)
        return elements * (_PER_POOL_OUTPUT + taps * _PER_POOL_TAP)
    if node.op_type in _SAMPLERS:
        return elements * _PER_SAMPLED_OUTPUT
    if node.op_type in _CONVOLUTIONS:
        weight = inputs[3 if node.op_type == "QLinearConv" else 1]
        macs = math.prod(weight[1:]) if weight else math.inf
        return elements * (macs * _PER_MAC + _PER_CONV_OUTPUT)
    if node.op_type == "ConvTranspose":
        data, weight = inputs[:2]
        return math.prod((data[0], *data[2:], *weight[1:])) * _PER_TRANSPOSED_COLUMN if data and weight else math.inf
    if node.op_type in _PRODUCTS and inputs[0]:
        return elements * max(inputs[0][-2:], default=1) * _PER_MAC
    return elements * _PER_ELEMENT
