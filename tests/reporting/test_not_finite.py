"""A warning names the stored tensor that holds the numbers which are not finite."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq

WIDTH = 4
NODES = {
    "BatchNormalization": (helper.make_node("BatchNormalization", ["h", "scale", "bias", "mean", "var"], ["y"]), WIDTH),
    "Gemm": (helper.make_node("Gemm", ["h", "weight", "bias"], ["y"]), WIDTH),
    "Attention": (
        helper.make_node("Attention", ["h", "weight", "bias"], ["y"], domain="com.microsoft", num_heads=2),
        3 * WIDTH,
    ),
}


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize(("op", "name"), [(op, name) for op, (node, _) in NODES.items() for name in node.input[1:]])
def test_the_tensor_is_named(op: str, name: str, number: float) -> None:
    node, width = NODES[op]
    random = np.random.default_rng(5)
    arrays = {each: random.uniform(0.5, 1, width) for each in node.input[1:]} | {"w": random.normal(size=(3, WIDTH))}
    if "weight" in arrays:
        arrays["weight"] = random.normal(size=(WIDTH, width))
    arrays[name].flat[1] = number
    shape = ["n", 5, WIDTH] if op == "Attention" else ["n", WIDTH]
    x, y = (
        helper.make_tensor_value_info(each, TensorProto.FLOAT, [*shape[:-1], length])
        for each, length in (("x", 3), ("y", WIDTH))
    )
    stored = [numpy_helper.from_array(array.astype(np.float32), each) for each, array in arrays.items()]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["h"]), node], "g", [x], [y], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    result = sq.minimize(helper.make_model(graph, opset_imports=opsets, ir_version=8), round_to=1, verify=False)
    assert result.report.warnings == (f"weights of {name} hold NaN or Inf; the layer is left as it is",)
