"""Layers whose operator has no rule, or whose rule does not apply, are rows all the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.reporting.layers import Layer

RANDOM = np.random.default_rng(0)
DOMAIN = "my.ops"


def matrix(rows: int, columns: int, empty: int = 0) -> np.ndarray:
    """Return a float32 matrix [rows, columns] whose first ``empty`` rows are zeros."""
    values = RANDOM.normal(size=(rows, columns)).astype(np.float32)
    values[:empty] = 0
    return values


def model(
    nodes: list[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
    x: tuple[int, ...] = (2, 4),
    y: tuple[int, ...] = (2, 3),
    types: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    functions: tuple[onnx.FunctionProto, ...] = (),
    sparse: tuple[onnx.SparseTensorProto, ...] = (),
) -> onnx.ModelProto:
    """Return a model of nodes from "x" to "y"."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", types[0], x)],
        [helper.make_tensor_value_info("y", types[1], y)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
        sparse_initializer=list(sparse),
    )
    domains = ("", DOMAIN, "com.microsoft")
    opsets = [helper.make_opsetid(domain, 17 if not domain else 1) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


def row(given: onnx.ModelProto, name: str) -> Layer:
    """Return a row of a report in which every reason names a node."""
    report = sq.inspect(given, round_to=1)
    for layer in report.layers:
        assert all(layer.nodes[reason] for reason in layer.stayed), layer
    assert all(report.nodes[reason] for reason in report.stayed)
    (found,) = [layer for layer in report.layers if layer.name == name]
    return found


def test_unknown_operator() -> None:
    nodes = [helper.make_node("Dense", ["x", "w", "b"], ["y"], name="dense", domain=DOMAIN)]
    found = row(model(nodes, {"w": matrix(4, 3, empty=1), "b": np.ones(3, np.float32)}), "dense")
    assert (found.operator, found.shape_before, found.weights_before) == ("my.ops.Dense", (4, 3), 12 + 3)
    assert found.sparsity == 0.25
    assert found.stayed == {"read by an operator without a rule: my.ops.Dense": 1}
    assert found.nodes["read by an operator without a rule: my.ops.Dense"] == ("dense",)
    assert not found.counted


def test_refused_layer() -> None:
    weight = matrix(4, 3, empty=2)
    weight[3, 0] = np.nan
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    found = row(model(nodes, {"w": weight}), "product")
    assert (found.operator, found.weights_before, found.sparsity) == ("MatMul", 12, 0.5)


def test_function_calls() -> None:
    """Layers of a body are rows, whether a call passes their weights or they lie inside."""
    inner = numpy_helper.from_array(matrix(5, 3, empty=5), "v")
    body = [
        helper.make_node("MatMul", ["a", "w"], ["h"]),
        helper.make_node("Constant", [], ["v"], value=inner),
        helper.make_node("MatMul", ["h", "v"], ["b"]),
    ]
    function = helper.make_function(DOMAIN, "Two", ["a", "w"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("Two", ["x", "w"], ["y"], name="call", domain=DOMAIN)]
    given = model(nodes, {"w": matrix(4, 5)}, functions=(function,))
    report = sq.inspect(given)
    assert [(layer.operator, layer.weights_before) for layer in report.layers] == [("MatMul", 20), ("MatMul", 15)]
    assert [layer.sparsity for layer in report.layers] == [0.0, 1.0]
    assert report.weights_before == 20 + 15


def test_branches() -> None:
    """Layers inside of branches are rows, whether their weights lie inside or outside."""
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [2, 3])
    inside = [numpy_helper.from_array(matrix(4, 3, empty=4), "v")]
    then = helper.make_graph([helper.make_node("MatMul", ["x", "v"], ["o"], name="one")], "then", [], [out], inside)
    other = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["o"], name="other")], "else", [], [out])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other),
    ]
    given = model(nodes, {"w": matrix(4, 3)})
    assert row(given, "choice/one").sparsity == 1.0
    assert row(given, "choice/other").weights_before == 12
    report = sq.inspect(given)
    assert report.weights_before == 24
    assert "no weight is zero" not in report.why_nothing
    assert "no layer" not in report.why_nothing


def test_quantized_layers() -> None:
    """Zeros are counted at the zero point, wherever the layer has it."""
    weight = np.full((4, 3), 7, np.int8)
    weight[0] = 2
    arrays = {"w": weight, "s": np.float32(0.5), "z": np.int8(2)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"], name="product"),
    ]
    assert row(model(nodes, arrays), "product").weights_before == 12
    nodes = [helper.make_node("MatMulInteger", ["x", "w", "p", "z"], ["y"], name="integers")]
    kinds = (TensorProto.UINT8, TensorProto.INT32)
    found = row(model(nodes, {"w": weight, "p": np.uint8(0), "z": np.int8(2)}, types=kinds), "integers")
    assert (found.weights_before, found.sparsity) == (12, 0.25)


def test_sparse_initializers_are_no_dense_ones() -> None:
    values = numpy_helper.from_array(np.ones(3, np.float32), "w")
    places = numpy_helper.from_array(np.array([0, 5, 9]), "places")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    report = sq.inspect(model(nodes, {}, sparse=(helper.make_sparse_tensor(values, places, [4, 3]),)))
    (found,) = report.layers
    assert (found.name, found.sparsity) == ("product", 0.75)
    assert "no weight is zero" not in report.why_nothing


@pytest.mark.parametrize("zeros", [False, True])
def test_no_weight_is_zero_only_where_none_is(zeros: bool) -> None:
    """A matrix that no layer multiplies by counts as well."""
    mask = np.ones((2, 4), np.float32)
    mask[0, 0] = 0 if zeros else 1
    nodes = [helper.make_node("Add", ["x", "m"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    report = sq.inspect(model(nodes, {"m": mask, "w": matrix(4, 3)}))
    assert ("no weight is zero" in report.why_nothing) != zeros


def test_what_no_output_depends_on_is_no_row() -> None:
    nodes = [
        helper.make_node("Dense", ["x", "v"], ["unread"], name="idle", domain=DOMAIN),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    report = sq.inspect(model(nodes, {"v": matrix(4, 3), "w": matrix(4, 3)}))
    assert "idle" not in [layer.name for layer in report.layers]
