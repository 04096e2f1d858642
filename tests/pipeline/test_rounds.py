"""A second run over a result changes nothing: what it would find is part of the first."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.pipeline import rounds
from tests.support.planted.checks import run, size, weights
from tools.fuzz.checking import graph_of

SEEDS = (3, 5, 43, 1039, 21113)  # graphs with dead branches, or Gathers that come to take all that a layer makes


@pytest.mark.parametrize("seed", SEEDS)
def test_a_second_run_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = graph_of(seed)
    report = sq.minimize(model, round_to=1, verify=False)
    once = report.model
    assert weights(sq.minimize(once, round_to=1, verify=False).model) == weights(once)
    for each in feeds:
        for before, after in zip(run(model, each), run(once, each), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3 * max(1e-30, np.abs(before).max()))
    layers = {layer.output: layer for layer in report.report.layers}
    stored = {tensor.name: tuple(tensor.dims) for tensor in once.graph.initializer}
    for node in once.graph.node:
        if node.output[0] in layers and len(node.input) > 1 and node.input[1] in stored:
            assert layers[node.output[0]].shape_after == stored[node.input[1]], "rows tell of the last round"
    monkeypatch.setattr(rounds, "_let_go", lambda *_: False)
    assert size(sq.minimize(model, round_to=1, verify=False).model) > size(once), "one round alone finds less"


def test_a_node_that_is_passed_over_keeps_the_name_that_a_branch_knows() -> None:
    """A sum of which one part is dead: what is left of it is read by its name inside of an If."""
    random = np.random.default_rng(0)

    def branch(name: str, op: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["sum"], [name])], name, [], [output])

    live = numpy_helper.from_array(random.standard_normal((4, 6)).astype(np.float32), "live")
    dead = numpy_helper.from_array(np.zeros((4, 6), np.float32), "dead")
    nodes = [
        helper.make_node("MatMul", ["x", "live"], ["a"]),
        helper.make_node("MatMul", ["x", "dead"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Neg")),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 6])
    graph = helper.make_graph(nodes, "g", inputs, [output], [live, dead])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    small = sq.minimize(model, round_to=1, verify=False).model
    onnx.checker.check_model(small)
    assert weights(small) == [(4, 6)]
    for flag in (True, False):
        feeds = {"x": random.standard_normal((2, 4)).astype(np.float32), "flag": np.array(flag)}
        np.testing.assert_array_equal(run(small, feeds)[0], run(model, feeds)[0])
