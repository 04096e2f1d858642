"""Constants of a node by their classes: what stays of them, what hangs on them, and who lists them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.planning.fixpoint import make_plan
from onnxsqueeze.reporting.layers import layers_of
from onnxsqueeze.rules.contract import Context, OpRule
from onnxsqueeze.rules.parameter import Parameter, Role


@given(st.data())
def test_shape_left_is_that_of_the_sliced_array(data: st.DataObject) -> None:
    """Against slicing itself: each axis keeps the positions whose classes stay."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    classes, masks, first = [], [], 0
    for axis, length in enumerate(shape):
        classes.append(np.arange(first, first + length).reshape((1,) * axis + (-1,) + (1,) * (len(shape) - axis - 1)))
        masks.append(np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length))))
        first += length
    stays = np.concatenate(masks)
    sliced = np.empty(shape)
    for axis, mask in enumerate(masks):
        sliced = np.compress(mask, sliced, axis=axis)
    chosen = data.draw(st.sets(st.sampled_from(range(len(shape))), min_size=1))
    parameter = Parameter("w", 1, Role.WEIGHT, tuple(classes[axis] for axis in sorted(chosen)))
    expected = tuple(sliced.shape[axis] if axis in chosen else length for axis, length in enumerate(shape))
    found = parameter.shape_left(stays, shape)
    one_for_all = [axis for axis in chosen if shape[axis] == 1 and not masks[axis].any()]
    assert found == ((0,) * len(shape) if one_for_all else expected)


def test_rows_that_keep_different_positions_keep_equally_many() -> None:
    table = np.arange(6).reshape(2, 3)
    parameter = Parameter("w", 1, Role.WEIGHT, (table,))
    stays = np.array([True, True, False, False, True, True])
    assert parameter.shape_left(stays, (2, 3)) == (2, 2)
    assert parameter.shape_left(np.zeros(6, bool), (2, 3)) == (0, 0)


def recurrent(gru: bool = False) -> ModelProto:
    """A layer of 6 units of which two are dead, and a matrix that reads the others."""
    random, op, gates = np.random.default_rng(0), "GRU" if gru else "LSTM", 3 if gru else 4
    kernel, hidden = (random.normal(size=(1, gates * 6, size)).astype(np.float32) for size in (4, 6))
    bias, matrix = (random.normal(size=size).astype(np.float32) for size in ((1, 2 * gates * 6), (6, 3)))
    dead = [1, 4]
    hidden[..., dead] = 0
    matrix[dead] = 0
    arrays = {"w": kernel, "r": hidden, "b": bias, "m": matrix, "axes": np.array([1])}
    nodes = [
        helper.make_node(op, ["x", "w", "r", "b"], ["every"], hidden_size=6, name="layer"),
        helper.make_node("Squeeze", ["every", "axes"], ["flat"]),
        helper.make_node("MatMul", ["flat", "m"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 2, 3])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, name) for name, a in arrays.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("gru", "gates"), [(False, 4), (True, 3)])
def test_recurrent_layers_have_a_row_their_macs_and_their_zeros(gru: bool, gates: int) -> None:
    report = sq.minimize(recurrent(gru), round_to=1).report
    row = report.layers[0]
    assert (row.name, row.channels, row.removed, row.dead) == ("layer", 6, 2, 2)
    assert (row.shape_before, row.shape_after) == ((1, gates * 6, 4), (1, gates * 4, 4))
    assert row.weights_before == gates * 6 * (4 + 6 + 2)
    assert row.weights_after == gates * 4 * (4 + 4 + 2)
    steps = 5 * 2
    assert row.macs_before == steps * gates * 6 * (4 + 6)
    assert row.macs_after == steps * gates * 4 * (4 + 4)
    assert row.sparsity == pytest.approx(2 * gates * 6 / (gates * 6 * 10))
    assert report.weights_after == row.weights_after + 4 * 3


def test_a_lone_recurrent_layer_is_a_layer() -> None:
    model = recurrent()
    del model.graph.node[1:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("every", TensorProto.FLOAT, [5, 1, 2, 6]))
    report = sq.inspect(model)
    assert [layer.operator for layer in report.layers] == ["LSTM"]
    assert "no layer" not in report.why_nothing


def test_packed_attention_has_a_row() -> None:
    random, width, heads = np.random.default_rng(1), 8, 2
    weight = random.normal(size=(width, 3 * width)).astype(np.float32)
    bias = random.normal(size=3 * width).astype(np.float32)
    weight[:, 2 * width : 2 * width + 4] = 0  # the values of the first head
    bias[2 * width : 2 * width + 4] = 0
    node = helper.make_node(
        "Attention", ["x", "w", "b"], ["a"], domain="com.microsoft", num_heads=heads, name="attention"
    )
    out = helper.make_node("MatMul", ["a", "o"], ["y"])
    arrays = {"w": weight, "b": bias, "o": random.normal(size=(width, 3)).astype(np.float32)}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5, width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5, 3])
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([node, out], "g", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    report = sq.minimize(helper.make_model(graph, opset_imports=opsets, ir_version=9), round_to=1).report
    row = report.layers[0]
    assert (row.name, row.shape_before, row.shape_after) == ("attention", (8, 24), (8, 12))
    assert (row.weights_before, row.weights_after) == (8 * 24 + 24, 8 * 12 + 12)
    assert (row.macs_before, row.macs_after) == (2 * 5 * 8 * 24, 2 * 5 * 8 * 12)


def quantized_parameters(node: Node, context: Context) -> list[Parameter]:
    """What a rule of a convolution of codes would list: weight, scale, zero point and bias, each along channels."""
    names = node.inputs
    rows = context.ids(node.outputs[0]).reshape(-1)
    data = context.ids(names[0]).reshape(-1)
    weight = (rows.reshape(-1, 1, 1, 1), data.reshape(1, -1, 1, 1))
    return [
        Parameter(names[3], 3, Role.WEIGHT, weight, (node.outputs[0], (0, 2, 3)), zero_point=names[5]),
        Parameter(names[4], 4, Role.OPERAND, (rows,)),
        Parameter(names[5], 5, Role.OPERAND, (rows,)),
        Parameter(names[8], 8, Role.SUMMAND, (rows,)),
    ]


def test_quantized_layers_can_list_theirs() -> None:
    """Weight, scale, zero point and bias along one channel axis; nothing in a report needs to know the operator."""
    weight = np.full((4, 3, 2, 2), 7, np.int8)
    weight[1] = 2  # the codes of zero
    scale, zero = np.float32(0.1), np.uint8(128)
    weights = {"w": weight, "ws": np.ones(4, np.float32), "wz": np.full(4, 2, np.int8)}
    arrays = {"xs": scale, "xz": zero, **weights, "ys": scale, "yz": zero, "b": np.zeros(4, np.int32)}
    node = helper.make_node("QuantizedConv", ["x", *arrays], ["y"], name="conv", domain="custom")
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 5, 5])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 4, 4, 4])
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph([node], "g", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    analysis = analyse(load(helper.make_model(graph, opset_imports=opsets, ir_version=9)))
    analysis.context.elements.ids["y"] = np.zeros((1, 4, 1, 1), np.int64)
    analysis.context.elements.ids["x"] = np.zeros((1, 3, 1, 1), np.int64)
    analysis.rules[0] = OpRule("QuantizedConv", parameters=quantized_parameters)
    (row,) = layers_of(analysis, make_plan(analysis), analysis.context.shapes)
    assert (row.shape_before, row.weights_before, row.macs_before) == ((4, 3, 2, 2), 48 + 4, 48 * 16)
    assert row.sparsity == 0.25  # zeros are counted at the zero point
