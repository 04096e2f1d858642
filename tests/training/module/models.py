"""Small models written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]


def made(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[Any, Sequence[str | int]]],
    outputs: Sequence[str],
    stored: dict[str, Array],
    opset: int = 21,
    **metadata: str,
) -> onnx.ModelProto:
    """Return a checked model. ``inputs`` gives dtype and shape by name."""
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        for name, (dtype, shape) in inputs.items()
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", declared, results, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key.replace("_", "."), value
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model)
    return model


def normal(seed: int, *shape: int, dtype: Any = np.float32) -> Array:
    """Return random numbers, none of which is zero."""
    return (np.random.default_rng(seed).standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5).astype(dtype)


def perceptron(dtype: Any = np.float32) -> onnx.ModelProto:
    """A Gemm, a ReLU, and a MatMul with an Add."""
    nodes = [
        helper.make_node("Gemm", ["x", "first.weight", "first.bias"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "second.weight"], ["c"]),
        helper.make_node("Add", ["c", "second.bias"], ["y"]),
    ]
    stored = {
        "first.weight": normal(0, 8, 12, dtype=dtype),
        "first.bias": normal(1, 8, dtype=dtype),
        "second.weight": normal(2, 8, 5, dtype=dtype),
        "second.bias": normal(3, 5, dtype=dtype),
    }
    return made(nodes, {"x": (dtype, ["batch", 12])}, ["y"], stored)


def convolutional() -> onnx.ModelProto:
    """Two convolutions, one with BatchNormalization, a pool and a Gemm."""
    nodes = [
        helper.make_node("Conv", ["x", "first.weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "norm.weight", "norm.bias", "norm.mean", "norm.var"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "second.weight", "second.bias"], ["d"], strides=[2, 2]),
        helper.make_node("Sigmoid", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    stored = {
        "first.weight": normal(0, 8, 3, 3, 3),
        "norm.weight": 1 + normal(1, 8) / 4,
        "norm.bias": normal(2, 8),
        "norm.mean": normal(3, 8) / 4,
        "norm.var": 1 + normal(4, 8) ** 2,
        "second.weight": normal(5, 6, 8, 3, 3),
        "second.bias": normal(6, 6),
        "head.weight": normal(7, 5, 6),
        "head.bias": normal(8, 5),
    }
    return made(nodes, {"x": (np.float32, ["batch", 3, "height", "width"])}, ["y"], stored)
