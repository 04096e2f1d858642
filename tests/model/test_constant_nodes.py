"""Weights in Constant nodes are initializers while a model is worked on, and such nodes again when it is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.model.constant_nodes import with_constant_nodes, with_initializers
from onnxsqueeze.model.loading import load, to_proto
from tests.support.planted.checks import assert_equal_outputs, operators, weights


def network(hidden: int, as_nodes: bool, ir_version: int = 8) -> onnx.ModelProto:
    """Return two layers of which half of the hidden units are dead."""
    random = np.random.default_rng(hidden)
    arrays = {"w1": random.standard_normal((hidden, 16)), "w2": random.standard_normal((8, hidden))}
    arrays["w1"][: hidden // 2] = 0
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2"], ["y"], transB=1),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n]) for name, n in (("x", 16), ("y", 8))]
    inputs = infos[:1]
    if as_nodes:
        for place, tensor in ((0, tensors[0]), (3, tensors[1])):
            nodes.insert(place, helper.make_node("Constant", [], [tensor.name], f"node of {tensor.name}", value=tensor))
    elif ir_version < 4:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    graph = helper.make_graph(nodes, "g", inputs, infos[1:], [] if as_nodes else tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=ir_version)


@pytest.mark.parametrize("ir_version", [3, 8])
@pytest.mark.parametrize("hidden", [8, 256, 1024])
def test_size_makes_no_difference(hidden: int, ir_version: int) -> None:
    model = network(hidden, True, ir_version)
    minimized = sq.minimize(model, round_to=1).model
    assert weights(minimized) == weights(sq.minimize(network(hidden, False), round_to=1).model)
    assert weights(minimized) == sorted([(hidden // 2, 16), (8, hidden // 2)])
    assert_equal_outputs(model, minimized)
    onnx.checker.check_model(minimized, full_check=True)


def test_they_come_back_as_nodes_under_their_names() -> None:
    minimized = sq.minimize(network(1024, True), round_to=1).model
    assert not minimized.graph.initializer
    nodes = [node for node in minimized.graph.node if node.op_type == "Constant"]
    assert [(node.name, node.output[0]) for node in nodes] == [("node of w1", "w1"), ("node of w2", "w2")]


def test_there_and_back_is_the_same_file() -> None:
    model = network(64, True)
    for node in model.graph.node:
        node.doc_string = f"says {node.op_type}"
    lifted = with_initializers(load(model))
    assert set(lifted.initializers) == {"w1", "w2"}
    assert all(node.op_type != "Constant" for node in lifted.skeleton.graph.node)
    assert to_proto(lifted).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert with_initializers(lifted) is lifted
    assert not with_constant_nodes(lifted).initializers


def test_what_is_no_weight_stays_a_node() -> None:
    kept = {
        "number": np.float32(2),
        "one": np.ones(1, np.float32),
        "shape": np.array([2, 3], np.int64),
        "none": np.zeros((0, 3), np.float32),
        "text": np.array(["a", "b"], object),
    }
    nodes = [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(a, n)) for n, a in kept.items()]
    outputs = [helper.make_tensor_value_info(node.output[0], node.attribute[0].t.data_type, None) for node in nodes]
    model = load(helper.make_model(helper.make_graph(nodes, "g", [], outputs)), check=False)
    assert with_initializers(model) is model


def test_a_weight_with_two_readers_is_sliced_once() -> None:
    """Copies of it would be larger than what was there."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((96, 96)).astype(np.float32)
    weight[:, ::2] = 0
    weight[::2] = 0
    nodes = [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight))]
    nodes += [helper.make_node("MatMul", [a, "w"], [b]) for a, b in (("x", "a"), ("r", "b"))]
    nodes.insert(2, helper.make_node("Relu", ["a"], ["r"]))
    nodes.append(helper.make_node("MatMul", ["b", "v"], ["y"]))
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c]) for n, c in (("x", 96), ("y", 4))]
    tail = numpy_helper.from_array(random.standard_normal((96, 4)).astype(np.float32), "v")
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [tail])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    minimized = sq.minimize(model, round_to=1).model
    assert sum(np.prod(shape) for shape in weights(minimized)) < 96 * 100
    assert_equal_outputs(model, minimized)
    assert operators(minimized)["MatMul"] == 3
