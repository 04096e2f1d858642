"""Norms that onnxruntime's tools write into ONNX's own domain: read, narrowed, and still what onnxruntime runs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from tests.support.planted.checks import SINGLE, deviation, draw, run

pytestmark = pytest.mark.usefixtures("any_length")

GONE, WIDTH = (2, 5, 9, 11), 16


@pytest.mark.parametrize(
    ("op", "opset", "left"), [("SimplifiedLayerNormalization", 14, 12), ("LayerNormalization", 13, 13)]
)
def test_a_norm_of_onnxruntimes_own_is_narrowed(op: str, opset: int, left: int) -> None:
    random = np.random.default_rng(0)
    tensors = {"w1": random.standard_normal((5, WIDTH)), "w2": random.standard_normal((WIDTH, 3))}
    tensors["w1"][:, GONE] = 0
    tensors["g"] = random.standard_normal(WIDTH)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node(op, ["h", "g"], ["n"], axis=-1, epsilon=1e-5),
        helper.make_node("MatMul", ["n", "w2"], ["y"]),
    ]
    if op == "LayerNormalization":
        nodes[1].input.append("b")
        tensors["b"] = random.standard_normal(WIDTH)
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4, size]) for n, size in (("x", 5), ("y", 3))]
    graph = helper.make_graph(nodes, "network", infos[:1], infos[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    minimized = sq.minimize(model, round_to=1).model
    shapes = {tuple(tensor.dims) for tensor in minimized.graph.initializer if len(tensor.dims) == 2}
    assert shapes == {(5, left), (left, 3)}
    feeds = draw(model, 2, 4)
    for optimized in (False, True):
        assert deviation(run(model, feeds, optimized), run(minimized, feeds, optimized)) <= SINGLE
