"""Blocks of pixels that become channels: DCR and, from opset 28 on, CRD order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxsqueeze as sq
from onnxsqueeze.training.lowerings.space_to_depth import depth_to_space, space_to_depth

CHANNELS, DEAD, CONSTANT = 6, [0, 4], [3]


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_channels_leave_in_either_order(mode: str) -> None:
    """onnxruntime has no opset 28: onnx's own evaluator compares."""
    random = np.random.default_rng(0)
    first = random.standard_normal((CHANNELS, 2, 1, 1)).astype(np.float32)
    bias = random.uniform(0.1, 1, CHANNELS).astype(np.float32)
    first[[*DEAD, *CONSTANT]] = 0
    bias[DEAD] = 0
    second = random.standard_normal((3, CHANNELS * 4, 1, 1)).astype(np.float32)
    weights = {"w": first, "b": bias, "v": second}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("SpaceToDepth", ["r"], ["s"], blocksize=2, mode=mode),
        helper.make_node("Conv", ["s", "v"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size, None, None])
        for name, size in (("x", 2), ("y", 3))
    )
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)], ir_version=13)
    small = sq.minimize(model, round_to=1, verify=False).model
    left = {tuple(tensor.dims) for tensor in small.graph.initializer}
    assert {(3, 2, 1, 1), (3, 12, 1, 1)} <= left
    image = random.standard_normal((2, 2, 4, 6)).astype(np.float32)
    before, after = (ReferenceEvaluator(each).run(None, {"x": image})[0] for each in (model, small))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by_column", [False, True])
def test_one_undoes_the_other(by_column: bool) -> None:
    image = torch.randn(2, 3, 4, 6)
    there = space_to_depth(image, 2, by_column)
    assert there.shape == (2, 12, 2, 3) and torch.equal(depth_to_space(there, 2, by_column), image)
    assert torch.equal(there[:, 1], image[:, 0, ::2, 1::2] if by_column else image[:, 1, ::2, ::2])
