"""The weights of a branch that a constant chooses are trained, and written where they are read."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.training.module import from_onnx


def test_weights_in_a_branch_are_parameters() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["o"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array(True), "c")],
    )
    module = from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    (parameter,) = module.parameters()
    with torch.no_grad():
        parameter.mul_(2)
    written = to_proto(module.write_back())
    onnx.checker.check_model(written)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    assert any(np.array_equal(array, 2 * weight) for array in stored.values())
    assert [node.op_type for node in written.graph.node] == ["MatMul"]
