"""NhwcFusedConv: a convolution whose channels are last, with a sum and an activation.

onnxruntime has kernels for it on few machines, so that both models are run with the standard's operators in its place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.planted.checks import deviation, minimize, run, weights

MICROSOFT = "com.microsoft"
ACTIVATIONS: dict[str, list[float]] = {"": [], "Relu": [], "LeakyRelu": [0.2], "Clip": [-0.5, 0.6]}
FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def spelled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every NhwcFusedConv as the standard's operators."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "NhwcFusedConv":
            nodes.append(node)
            continue
        name, given = node.output[0], {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        activation, numbers = given.pop("activation", b"").decode(), given.pop("activation_params", [])
        nodes.append(helper.make_node("Transpose", [node.input[0]], [f"{name}.x"], perm=FIRST))
        nodes.append(helper.make_node("Conv", [f"{name}.x", *node.input[1:3]], [f"{name}.0"], **given))
        last = f"{name}.0"
        if len(node.input) > 3:
            nodes.append(helper.make_node("Transpose", [node.input[3]], [f"{name}.z"], perm=FIRST))
            nodes.append(helper.make_node("Add", [last, f"{name}.z"], [f"{name}.1"]))
            last = f"{name}.1"
        if activation == "Clip":
            for bound, number in zip(("low", "high"), numbers, strict=True):
                made.graph.initializer.append(numpy_helper.from_array(np.float32(number), f"{name}.{bound}"))
            nodes.append(helper.make_node("Clip", [last, f"{name}.low", f"{name}.high"], [f"{name}.2"]))
            last = f"{name}.2"
        elif activation:
            more = {"alpha": numbers[0]} if numbers else {}
            nodes.append(helper.make_node(activation, [last], [f"{name}.2"], **more))
            last = f"{name}.2"
        nodes.append(helper.make_node("Transpose", [last], [name], perm=LAST))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def network(activation: str, gone: int, residual: bool, dtype: Any = np.float32) -> onnx.ModelProto:
    """Return three layers of 9 channels, of which ``gone`` at random places are zero and may leave."""
    random = np.random.default_rng(gone)
    stored = {}
    chosen = random.permutation(9)[:gone]
    for index, (rows, columns, extent) in enumerate(((9, 3, 3), (9, 9, 3), (4, 9, 1))):
        kernel = random.uniform(0.3, 1, (rows, columns, extent, extent)) * random.choice([-1, 1], (rows, columns, 1, 1))
        bias = random.uniform(0.3, 1, rows)
        if rows == 9:
            kernel[chosen], bias[chosen] = 0, 0
        stored[f"w{index}"], stored[f"b{index}"] = kernel / 9, bias
    given: dict[str, Any] = {"activation": activation} if activation else {}
    if ACTIVATIONS[activation]:
        given["activation_params"] = ACTIVATIONS[activation]
    more = ["h0"] if residual else []
    nodes = [
        helper.make_node("NhwcFusedConv", ["x", "w0", "b0"], ["h0"], domain=MICROSOFT, pads=[1] * 4, **given),
        helper.make_node("NhwcFusedConv", ["h0", "w1", "b1", *more], ["h1"], domain=MICROSOFT, pads=[1] * 4, **given),
        helper.make_node("NhwcFusedConv", ["h1", "w2", "b2"], ["y"], domain=MICROSOFT),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    infos = [helper.make_tensor_value_info(n, kind, ["N", "H", "W", c]) for n, c in (("x", 3), ("y", 4))]
    tensors = [numpy_helper.from_array(value.astype(dtype), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_channels_leave(activation: str, residual: bool) -> None:
    model = network(activation, 4, residual)
    result = minimize(model)
    assert [shape for shape in weights(result.model) if len(shape) > 1] == [(4, 5, 1, 1), (5, 3, 3, 3), (5, 5, 3, 3)]
    assert [node.op_type for node in result.model.graph.node] == ["NhwcFusedConv"] * 3
    for extent in (5, 8):
        x = np.random.default_rng(extent).standard_normal((2, extent, extent + 1, 3)).astype(np.float32)
        before, after = (run(spelled(each), {"x": x}) for each in (model, result.model))
        assert deviation(before, after) < 2e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_nothing_leaves(dtype: Any) -> None:
    """The model is as it was."""
    model = network("Relu", 0, True, dtype)
    assert minimize(model).model.graph.node == model.graph.node


def test_half_precision() -> None:
    model = network("Relu", 4, True, np.float16)
    result = minimize(model).model
    assert [shape for shape in weights(result) if len(shape) > 1] == [(4, 5, 1, 1), (5, 3, 3, 3), (5, 5, 3, 3)]
    assert {tensor.data_type for tensor in result.graph.initializer} == {TensorProto.FLOAT16}
