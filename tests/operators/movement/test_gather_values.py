"""GatherND and GatherElements of constants: the values that onnx's own evaluator gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import onnxsqueeze.operators  # noqa: F401  (registers the rules)
from onnxsqueeze.graph.graph import Graph
from onnxsqueeze.model.loading import load
from onnxsqueeze.rules.registry import rule_for

CASES = [
    ("GatherND", (5, 6, 7), (3, 4, 2), {"batch_dims": 0}),
    ("GatherND", (5, 6, 7), (5, 3, 2), {"batch_dims": 1}),
    ("GatherND", (5, 6, 7), (5, 1), {"batch_dims": 1}),
    ("GatherND", (4, 5, 6), (4, 5, 3, 1), {"batch_dims": 2}),
    ("GatherND", (5, 6), (3, 1), {}),
    ("GatherElements", (4, 5), (3, 5), {"axis": 0}),
    ("GatherElements", (4, 5), (4, 7), {"axis": 1}),
]


@pytest.mark.parametrize(("op", "shape", "indices", "attributes"), CASES)
def test_values(op: str, shape: tuple[int, ...], indices: tuple[int, ...], attributes: dict[str, int]) -> None:
    random = np.random.default_rng(0)
    data, places = random.standard_normal(shape), random.integers(0, min(shape), indices)
    node = helper.make_node(op, ["data", "indices"], ["y"], **attributes)
    inputs = [
        helper.make_tensor_value_info("data", onnx.TensorProto.DOUBLE, shape),
        helper.make_tensor_value_info("indices", onnx.TensorProto.INT64, indices),
    ]
    rank = len(indices) if op == "GatherElements" else len(indices) - 1 + len(shape) - indices[-1]
    output = helper.make_tensor_value_info(
        "y", onnx.TensorProto.DOUBLE, [None] * (rank - attributes.get("batch_dims", 0))
    )
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    expected = ReferenceEvaluator(model).run(None, {"data": data, "indices": places})[0]
    (found,) = Graph(load(model)).nodes
    evaluate = rule_for(found).evaluate
    assert evaluate is not None
    np.testing.assert_array_equal(evaluate(found, [data, places])[0], expected)
