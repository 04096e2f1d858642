"""Nodes in an order that onnxruntime accepts and the standard does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxsqueeze import InvalidModelError, minimize
from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.model.node_order import NOTE, sort_nodes
from onnxsqueeze.verification import verify

FLOAT = TensorProto.FLOAT


def model(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto] | None = None) -> ModelProto:
    """A layer of eight units, half of them without weights, and what ``nodes`` make of x [N, 4] and w [8, 4]."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    weight[:4] = 0
    last = np.random.default_rng(1).standard_normal((8, 2)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 4]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 2])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(last, "v")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=8)


HIDDEN = helper.make_node("Gemm", ["t", "w"], ["h"], transB=1)
POSITIVE = helper.make_node("Relu", ["h"], ["r"])
HALF = helper.make_node("Tanh", ["x"], ["t"])
LAST = helper.make_node("MatMul", ["r", "v"], ["y"])


def branch(*nodes: onnx.NodeProto, output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(output, FLOAT, ["N", 4])])


def plain() -> ModelProto:
    return model([LAST, POSITIVE, HIDDEN, HALF])


def inside_branch() -> ModelProto:
    first = branch(helper.make_node("Neg", ["a"], ["b"]), helper.make_node("Tanh", ["before"], ["a"]), output="b")
    second = branch(helper.make_node("Identity", ["before"], ["d"]), output="d")
    chosen = helper.make_node("If", ["c"], ["t"], then_branch=first, else_branch=second)
    return model([HIDDEN, chosen, helper.make_node("Abs", ["x"], ["before"]), POSITIVE, LAST])


def inside_function() -> ModelProto:
    nodes = [helper.make_node("Neg", ["b"], ["out"]), helper.make_node("Abs", ["in"], ["b"])]
    function = helper.make_function("own", "Half", ["in"], ["out"], nodes, [helper.make_opsetid("", 17)])
    return model([helper.make_node("Half", ["x"], ["t"], domain="own"), HIDDEN, POSITIVE, LAST], [function])


@pytest.mark.parametrize("build", [plain, inside_branch, inside_function])
def test_sorted_with_a_note(build: Callable[[], ModelProto]) -> None:
    given = build()
    result = minimize(given, round_to=1)
    assert NOTE in result.report.warnings
    onnx.checker.check_model(result.model)
    assert verify(given, result.model).passed


def test_unsorted_loses_its_channels() -> None:
    result = minimize(plain(), round_to=1)
    assert {tensor.name: tuple(tensor.dims) for tensor in result.model.graph.initializer} == {"w": (4, 4), "v": (4, 2)}


def test_only_what_stands_too_late_moves() -> None:
    given = model([HIDDEN, POSITIVE, LAST, HALF, helper.make_node("Abs", ["x"], ["unread"])])
    assert sort_nodes(given) == 1
    assert [node.op_type for node in given.graph.node] == ["Tanh", "Gemm", "Relu", "MatMul", "Abs"]


def test_sorted_as_it_was() -> None:
    given = model([HALF, HIDDEN, POSITIVE, LAST])
    assert load(given).notes == ()
    assert to_proto(load(given)) == given


def test_name_inside_a_branch_that_is_written_again_outside() -> None:
    """Which the checker allows where the outer node stands behind."""
    inner = branch(helper.make_node("Neg", ["x"], ["again"]), output="again")
    other = branch(helper.make_node("Abs", ["x"], ["z"]), output="z")
    chosen = helper.make_node("If", ["c"], ["t"], then_branch=inner, else_branch=other)
    given = model([chosen, HIDDEN, POSITIVE, LAST, helper.make_node("Abs", ["y"], ["again"])])
    onnx.checker.check_model(given)
    assert load(given).notes == ()


def test_circle_is_refused() -> None:
    circle = [helper.make_node("Add", ["x", "q"], ["t"]), helper.make_node("Neg", ["t"], ["q"])]
    with pytest.raises(InvalidModelError, match="breaks the ONNX standard: .*topologically sorted"):
        load(model([*circle, HIDDEN, POSITIVE, LAST]))


def test_reads_of_nothing_are_refused() -> None:
    with pytest.raises(InvalidModelError, match="breaks the ONNX standard"):
        load(model([LAST, POSITIVE, HIDDEN]))
