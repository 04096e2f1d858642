"""Small models, and how to make one that differs in a single number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = npt.NDArray[Any]

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """Return a node that is named as its first output; names are separated by blanks, "-" is an absent input."""
    read = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, read, outputs.split(), name=f"node_{outputs.split()[0]}", **attributes)


def tensor(name: str, *dims: Any, elem_type: int = FLOAT) -> ValueInfoProto:
    """Declare a tensor."""
    return helper.make_tensor_value_info(name, elem_type, dims)


def network(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Mapping[str, Array] | None = None,
    opset: int = 17,
    ir_version: int = 8,
) -> ModelProto:
    """Return a model."""
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "network", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def perceptron(seed: int = 0, dtype: Any = np.float32, batch: Any = "batch", scale: float = 1.0) -> ModelProto:
    """Return a fully-connected network, 8 - 16 - 12 - 4, in one dtype, whose output is multiplied by a scale."""
    random = np.random.default_rng(seed)
    shapes = {"w1": (8, 16), "b1": (16,), "w2": (16, 12), "b2": (12,), "w3": (12, 4), "b3": (4,)}
    weights = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    for name in ("w3", "b3"):
        weights[name] = weights[name] * scale
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        node("Gemm", "x w1 b1", "h1"),
        node("Relu", "h1", "r1"),
        node("Gemm", "r1 w2 b2", "h2"),
        node("Relu", "h2", "r2"),
        node("Gemm", "r2 w3 b3", "y"),
    ]
    typed = {name: array.astype(dtype) for name, array in weights.items()}
    x, y = tensor("x", batch, 8, elem_type=elem_type), tensor("y", batch, 4, elem_type=elem_type)
    return network(nodes, [x], [y], typed)


def changed(model: ModelProto, name: str, change: Any) -> ModelProto:
    """Return a copy of a model in which an initializer is what a function makes of its array, or an array."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for stored in copy.graph.initializer:
        if stored.name == name:
            before = numpy_helper.to_array(stored)
            after = change(before.copy()) if callable(change) else change
            stored.CopyFrom(numpy_helper.from_array(np.asarray(after), name))
            return copy
    raise KeyError(name)


def nudged(model: ModelProto, name: str, by: float, *index: int) -> ModelProto:
    """Return a copy of a model in which one number of an initializer is another."""

    def change(array: Array) -> Array:
        array[index] += array.dtype.type(by)
        return array

    return changed(model, name, change)
