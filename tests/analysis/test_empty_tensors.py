"""Tensors without elements: what reads or makes one is left as it is, and channels elsewhere go."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

import onnxsqueeze as sq
from tests.support.perceptrons import HIDDEN, LIVE, weights

HEAD = '<ir_version: 8, opset_import: ["": 18]> two (float[n,4] x, {inputs}) => (float[n,5] y, float{shape} z) {{'
PARTS = {
    "reshape to zeros": ("float[0,3,4] e", "[3,4,0]", "m = Mul(e, mask) z = Reshape<allowzero = 1>(m, s340)"),
    "reshape with a copied zero": ("float[0,3,4] e", "[0,12]", "m = Mul(e, mask) z = Reshape(m, s0_12)"),
    "transpose": ("float[0,3,4] e", "[4,3,0]", "z = Transpose<perm = [2,1,0]>(e)"),
    "flatten": ("float[0,3,4] e", "[0,12]", "r = Relu(e) z = Flatten(r)"),
    "flatten behind": ("float[3,0,4] e", "[3,0]", "r = Relu(e) z = Flatten(r)"),
    "unsqueeze": ("float[0,3,4] e", "[1,0,3,4]", "z = Unsqueeze(e, i0)"),
    "concat of nothing": ("float[0,4] e", "[n,4]", "z = Concat<axis = 0>(e, x)"),
    "concat of a constant": ("float[1] e", "[n,4]", "c = Concat<axis = 0>(none, x) z = Add(c, e)"),
    "split": ("float[3,4] e", "[0,4]", "a, z = Split<axis = 0>(e, s30)"),
    "gather nothing": ("float[3,4] e", "[0,4]", "z = Gather<axis = 0>(e, nothing)"),
    "expand": ("float[1,4] e", "[0,4]", "z = Expand(e, s04)"),
    "pad": ("float[0,4] e", "[2,4]", "z = Pad(e, pads)"),
    "matmul over nothing": ("float[2,0] e", "[2,4]", "r = Relu(e) z = MatMul(r, none)"),
    "matmul of nothing": ("float[0,4] e", "[0,5]", "z = MatMul(e, w2)"),
    "sum of nothing": ("float[3,0] e", "[3,1]", "z = ReduceSum(e, i1)"),
    "softmax": ("float[0,4] e", "[0,4]", "z = Softmax(e)"),
    "where": ("float[0,4] e", "[0,4]", "n0 = IsNaN(e) z = Where(n0, e, e)"),
    "shape": ("float[0,4] e", "[n,4]", "s = Shape(e) f = Cast<to = 1>(s) t = ReduceSum<keepdims = 0>(f) z = Add(x, t)"),
}
STORED: dict[str, Any] = {
    "mask": np.ones((0, 3, 4), np.float32),
    "none": np.zeros((0, 4), np.float32),
    "nothing": np.zeros(0, np.int64),
    "s340": np.array([3, 4, 0]),
    "s0_12": np.array([0, 12]),
    "s30": np.array([3, 0]),
    "s04": np.array([0, 4]),
    "i0": np.array([0]),
    "i1": np.array([1]),
    "pads": np.array([1, 0, 1, 0]),
}


def network(inputs: str, shape: str, nodes: str) -> ModelProto:
    """Return a perceptron in which channels can go, and beside it some nodes."""
    sound = "h = MatMul(x, w1) hidden = Relu(h) y = MatMul(hidden, w3)"
    model = onnx.parser.parse_model(f"{HEAD.format(inputs=inputs, shape=shape)} {sound} {nodes} }}")
    units_in, units_out = weights()
    units_out[[0, 4, 6]] = 0
    units_in[:, [1, 7]] = 0
    stored = {**STORED, "w1": units_in, "w3": units_out, "w2": np.ones((4, 5), np.float32)}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(stored[name], name) for name in stored if name in read)
    return onnx.shape_inference.infer_shapes(model)


def stored_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def run(model: ModelProto) -> list[Any]:
    random = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shapes = {value.name: [dim if isinstance(dim, int) else 3 for dim in value.shape] for value in session.get_inputs()}
    return list(session.run(None, {name: random.random(shape).astype(np.float32) for name, shape in shapes.items()}))


@pytest.mark.parametrize("name", PARTS)
def test_channels_elsewhere_go(name: str) -> None:
    model = network(*PARTS[name])
    result = sq.minimize(model, round_to=1)
    expected, found = run(model), run(result.model)
    for before, after in zip(expected, found, strict=True):
        assert before.shape == after.shape
        np.testing.assert_allclose(before, after, rtol=1e-4)
    assert stored_shapes(result.model)["w1"] == (4, LIVE)


def test_nothing_along_the_channels_keeps_them() -> None:
    """Rows of none of them stand beside others, which must not become narrower."""
    nodes = "none0 = Slice(hidden, i0, i0) z = Concat<axis = 0>(none0, hidden)"
    model = network("float[1] e", f"[n,{HIDDEN}]", nodes)
    result = sq.minimize(model, round_to=1)
    np.testing.assert_allclose(run(result.model)[1], run(model)[1], rtol=1e-4)
    assert stored_shapes(result.model)["w1"] == (4, HIDDEN)


def test_the_reason_stands_in_the_report() -> None:
    report = sq.inspect(network("float[1] e", f"[0,{HIDDEN}]", "z = Slice(hidden, i0, i0)"), round_to=1)
    assert "a tensor beside its reader holds no elements: Slice" in report.stayed
