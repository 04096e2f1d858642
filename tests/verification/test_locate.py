"""Naming the first layer that deviates."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxsqueeze.verification import verify
from tests.verification.networks import INT64, changed, network, node, nudged, perceptron, tensor


def test_a_tensor_that_rightly_differs_is_not_blamed() -> None:
    original = perceptron()
    moved = changed(original, "b1", lambda b: b * 2)  # twice the hidden units, half of them read
    moved = changed(changed(moved, "w1", lambda w: w * 2), "w2", lambda w: w / 2)
    assert verify(original, moved).passed
    report = verify(original, nudged(moved, "b3", 1.0, 0))
    assert report.first_deviating == "node_y (Gemm)"


def test_tensors_that_became_narrower_are_passed_over() -> None:
    wide = changed(perceptron(), "w2", lambda w: w * (np.arange(16) < 10)[:, None])
    narrow = wide
    for name, axis in {"w1": 1, "b1": 0, "w2": 0}.items():
        narrow = changed(narrow, name, lambda array, axis=axis: np.take(array, range(10), axis))
    assert verify(wide, narrow).passed
    report = verify(wide, nudged(narrow, "w1", 10.0, 0, 0))
    assert report.first_deviating == "node_h2 (Gemm)"  # h1 and r1 have another shape


def test_a_deep_network_is_searched_in_parts() -> None:
    random = np.random.default_rng(0)
    weights = {f"w{index}": random.standard_normal((4, 4)).astype(np.float32) / 2 for index in range(100)}
    nodes = [node("MatMul", f"h{index} w{index}", f"m{index}") for index in range(100)]
    tanh = [node("Tanh", f"m{index}", f"h{index + 1}") for index in range(99)] + [node("Identity", "m99", "y")]
    ordered = [item for pair in zip(nodes, tanh, strict=True) for item in pair]
    model = network(ordered, [tensor("h0", 2, 4)], [tensor("y", 2, 4)], weights)
    for index in (2, 70, 97):
        report = verify(model, changed(model, f"w{index}", lambda w: w + 1))
        assert not report.passed and report.first_deviating == f"node_m{index} (MatMul)"


def loop_network() -> onnx.ModelProto:
    """Return a network with a loop and a branch that read weights from outside."""
    body = helper.make_graph(
        [node("Identity", "go_in", "go"), node("MatMul", "state w", "next")], "body",
        [tensor("step", elem_type=INT64), tensor("go_in", elem_type=onnx.TensorProto.BOOL), tensor("state", 3, 4)],
        [tensor("go", elem_type=onnx.TensorProto.BOOL), tensor("next", 3, 4)],
    )  # fmt: skip
    left = helper.make_graph([node("Add", "l b", "left")], "left", [], [tensor("left", 3, 4)])
    right = helper.make_graph([node("Sub", "l b", "right")], "right", [], [tensor("right", 3, 4)])
    nodes = [
        helper.make_node("Loop", ["trips", "", "x"], ["l"], name="node_l", body=body),
        helper.make_node("If", ["c"], ["i"], name="node_i", then_branch=left, else_branch=right),
        node("Relu", "i", "y"),
    ]
    random = np.random.default_rng(0)
    return network(
        nodes, [tensor("x", 3, 4), tensor("c", elem_type=onnx.TensorProto.BOOL)], [tensor("y", 3, 4)],
        {"trips": np.array(3), "w": random.standard_normal((4, 4)).astype(np.float32), "b": np.ones(4, np.float32)},
    )  # fmt: skip


def test_control_flow() -> None:
    model = loop_network()
    assert verify(model, model).passed
    assert verify(model, nudged(model, "w", 0.1, 0, 0)).first_deviating == "node_l (Loop)"
    assert verify(model, nudged(model, "b", 0.1, 0)).first_deviating == "node_i (If)"


def test_an_output_without_a_layer_of_its_own() -> None:
    model = network([], [], [tensor("y", 3)], {"y": np.arange(3, dtype=np.float32)})
    assert verify(model, model).passed
    report = verify(model, nudged(model, "y", 1.0, 1))
    assert not report.passed and report.first_deviating is None


def test_nodes_without_names_go_by_their_output() -> None:
    model = perceptron()
    for item in model.graph.node:
        item.ClearField("name")
    assert verify(model, nudged(model, "b2", 10.0, 0)).first_deviating == "h2 (Gemm)"


def test_functions_of_the_model() -> None:
    model = perceptron()
    inner = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(inner)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[-1].CopyFrom(node("Gemm", "r2 w3 b3", "z"))
    model.graph.node.append(node("Twice", "z", "y", domain="local"))
    report = verify(model, model)
    assert report.passed and report.float64_deviation == 0
    assert verify(model, nudged(model, "b1", 10.0, 0)).first_deviating == "node_h1 (Gemm)"
    stored = next(item for item in model.graph.initializer if item.name == "b1")
    assert numpy_helper.to_array(stored).shape == (16,)
