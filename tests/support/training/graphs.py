"""Small ONNX networks with known weights, made without an exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxsqueeze.training.module import OnnxModule, from_onnx

Array = npt.NDArray[Any]


def graph(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, Array],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Return a model of nodes that read ``weights``; inputs are of one kind, outputs are floats."""
    made = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    """Return a node from the names of its inputs, separated by spaces."""
    return helper.make_node(op, inputs.split(), [output], **attributes)


def layer(weight: Array, bias: Array | None = None) -> OnnxModule:
    """Return one Gemm layer y = W x + b with W [out, in]."""
    weights = {"w": weight.astype(np.float32)} | ({} if bias is None else {"b": bias.astype(np.float32)})
    nodes = [node("Gemm", "x w" if bias is None else "x w b", "y", transB=1)]
    return from_onnx(graph(nodes, weights, {"x": ["n", weight.shape[1]]}, {"y": ["n", weight.shape[0]]}))


def perceptron(sizes: Sequence[int], seed: int = 0) -> onnx.ModelProto:
    """Return a network of Gemm layers ``fc0``, ``fc1``, .. with ReLUs between them and random weights."""
    random = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    nodes, data = [], "x"
    for place, (inner, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        last = place == len(sizes) - 2
        weights[f"fc{place}.weight"] = (random.standard_normal((out, inner)) * (2 / inner) ** 0.5).astype(np.float32)
        weights[f"fc{place}.bias"] = (random.standard_normal(out) * 0.1).astype(np.float32)
        output = "y" if last else f"pre{place}"
        nodes.append(node("Gemm", f"{data} fc{place}.weight fc{place}.bias", output, transB=1))
        if not last:
            nodes.append(node("Relu", output, f"act{place}"))
            data = f"act{place}"
    return graph(nodes, weights, {"x": ["n", sizes[0]]}, {"y": ["n", sizes[-1]]})
