"""Codes of eight bits in floating point: units leave as in real numbers, what rounds to one code is constant."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import outputs

Array = npt.NDArray[Any]
TYPES = {
    TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
}
WIDE, LIVE = 14, 6


class Network:
    """Dense layers of such weights between such activations."""

    def __init__(self, kind: int, saturate: int = 1, opset: int = 21) -> None:
        self.kind, self.dtype, self.saturate, self.opset = kind, TYPES[kind], saturate, opset
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def store(self, array: Any, coded: bool = False) -> str:
        name = f"c{len(self.stored)}"
        if coded:
            raw = np.asarray(array, np.float32).astype(self.dtype)
            self.stored.append(helper.make_tensor(name, self.kind, raw.shape, raw.tobytes(), raw=True))
        else:
            self.stored.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def coded(self, x: str, scale: float = 0.05) -> str:
        numbers = self.store(scale), self.store(0.0, coded=True)
        codes = self.add("QuantizeLinear", x, *numbers, saturate=self.saturate)
        return self.add("DequantizeLinear", codes, *numbers)

    def weight(self, matrix: Array, per_channel: bool) -> str:
        scale = np.full(matrix.shape[1], 0.02) if per_channel else np.float32(0.02)
        zero = self.store(np.zeros(np.shape(scale)), coded=True)
        axis = {"axis": 1} if per_channel else {}
        return self.add("DequantizeLinear", self.store(matrix / 0.02, coded=True), self.store(scale), zero, **axis)

    def model(self, y: str) -> onnx.ModelProto:
        infos = [helper.make_tensor_value_info(*entry) for entry in (("x", 1, ["N", 5]), (y, 1, ["N", 4]))]
        graph = helper.make_graph(self.nodes, "float8", infos[:1], infos[1:], self.stored)
        opsets = [helper.make_opsetid("", self.opset)]
        return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_units_leave(kind: int, per_channel: bool) -> None:
    """Dead ones, zeros, constants, and those that a ReLU keeps at 0.

    Compared as the nodes say: onnxruntime's optimizer takes a ReLU away in front of codes whose zero point is 0, as if
    those of floating point could not be negative.
    """
    net = Network(kind)
    gone = net.random.permutation(WIDE)[: WIDE - LIVE]
    inner, outer, bias = (net.random.uniform(-1, 1, shape) for shape in ((5, WIDE), (WIDE, 4), WIDE))
    outer[gone[:2]] = 0
    inner[:, gone[2:]] = 0
    bias[gone[2:4]], bias[gone[4:6]], bias[gone[6:]] = 0, -0.7, 0.3
    hidden = net.add("Gemm", net.coded("x"), net.weight(inner, per_channel), net.store(bias))
    y = net.add("Gemm", net.coded(net.add("Relu", hidden)), net.weight(outer, per_channel), net.store(np.ones(4)))
    model = net.model(y)
    with files_of_any_length():
        result = sq.minimize(model, round_to=1, verify=False)
    assert [list(t.dims) for t in result.model.graph.initializer if len(t.dims) > 1] == [[5, LIVE], [LIVE, 4]]
    x = 3 * net.random.standard_normal((64, 5)).astype("f")
    before, after = (outputs(each, {"x": x}, False)[0] for each in (model, result.model))
    assert before.std() > 0.1
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("saturate", [0, 1])
def test_bounds_hold_for_what_runtimes_round(kind: int, saturate: int) -> None:
    """Beyond the last code lies that one, or no number; then nothing is known."""
    net = Network(kind, saturate)
    low, high = net.store(-9.0), net.store(31.0)
    clipped = net.add("Mul", net.add("Clip", "x", low, high), net.store([1, 0.01, 10, 1e4, 0]))
    y = net.coded(clipped)
    model = net.model(y)
    interval = analyse(load(model)).context.interval(y)
    x = np.concatenate([20 * net.random.standard_normal((200, 5)), np.full((1, 5), -9), np.full((1, 5), 31)]).astype(
        "f"
    )
    (found,) = outputs(model, {"x": x}, False)
    if saturate:
        assert np.isfinite(interval.lower).all() and np.isfinite(interval.upper).all()
        assert (found.min(axis=0) == interval.lower.ravel()).all() and (
            found.max(axis=0) == interval.upper.ravel()
        ).all()
    else:
        assert np.isinf(interval.upper).all()


def test_a_constant_between_two_codes_is_none() -> None:
    """It may be rounded either way."""
    net = Network(TensorProto.FLOAT8E4M3FN)
    inner, bias = np.zeros((5, 4)), np.array([8.5, 8.5004, 8, 9]) * 0.05  # codes from 8 to 16 are 1 apart
    hidden = net.add("Gemm", net.coded("x"), net.weight(inner, False), net.store(bias))
    y = net.coded(hidden)
    constant = analyse(load(net.model(y))).context.interval(y).constant.ravel()
    assert constant.tolist() == [False, False, True, True]
