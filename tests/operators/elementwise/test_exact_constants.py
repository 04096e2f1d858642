"""Constants known to the last bit: 1 + gamma is 0 where gamma is -1, as in layers that a condition modulates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxsqueeze.abstract.arithmetic import exactly
from onnxsqueeze.abstract.interval import constant_interval, top
from tests.support.planted.checks import Array, assert_equal_outputs, minimize, size

C = 8
node = helper.make_node
random = np.random.default_rng(5)


def drawn(*shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32)


GONE = np.array([1, 4, 6])
"""Channels whose gamma is -1 and whose beta is 0, at places of no order."""

SPLITS = {
    "Split": [node("Split", ["g"], ["gamma", "beta"], axis=1)],
    "Slice": [
        node("Slice", ["g", "zero", "c", "one"], ["gamma"]),
        node("Slice", ["g", "c", "c2", "one"], ["beta"]),
    ],
    "Reshape and Gather": [
        node("Reshape", ["g", "two"], ["g2"]),
        node("Gather", ["g2", "i0"], ["gamma"], axis=1),
        node("Gather", ["g2", "i1"], ["beta"], axis=1),
    ],
}
NAMES = {"zero": [0], "one": [1], "c": [C], "c2": [2 * C], "two": [0, 2, C], "space": [2, 3]}


def modulated(split: str, one_first: bool, layer: str, gamma: float = -1.0, beta: float = 0.0) -> ModelProto:
    """Return x * (1 + gamma(style)) + beta(style) between two convolutions."""
    weight, bias = drawn(2 * C, 6), drawn(2 * C)
    weight[[*GONE, *(GONE + C)]] = 0
    bias[GONE], bias[GONE + C] = gamma, beta
    made = (
        [node("Gemm", ["style", "w", "b"], ["g"], transB=1)]
        if layer == "Gemm"
        else [node("MatMul", ["style", "wt"], ["m"]), node("Add", ["m", "b"], ["g"])]
    )
    summands = ["ones", "gu"] if one_first else ["gu", "ones"]
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["h"], pads=[1, 1, 1, 1]),
        *made,
        *SPLITS[split],
        node("Unsqueeze", ["gamma", "space"], ["gu"]),
        node("Unsqueeze", ["beta", "space"], ["bu"]),
        node("Add", summands, ["factor"]),
        node("Mul", ["h", "factor"], ["hm"]),
        node("Add", ["hm", "bu"], ["o"]),
        node("Relu", ["o"], ["r"]),
        node("Conv", ["r", "w2"], ["y"], pads=[1, 1, 1, 1]),
    ]
    stored = {
        **{name: np.array(value) for name, value in NAMES.items()},
        **({"w": weight, "b": bias} if layer == "Gemm" else {"wt": weight.T.copy(), "b": bias}),
        "i0": np.array(0),
        "i1": np.array(1),
        "ones": np.float32(1),
        "w1": drawn(C, 3, 3, 3),
        "b1": drawn(C),
        "w2": drawn(4, C, 3, 3),
    }
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"]),
        helper.make_tensor_value_info("style", TensorProto.FLOAT, ["N", 6]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, "H", "W"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def channel() -> int:
    """Return how many elements belong to one modulated channel."""
    return 3 * 9 + 1 + 2 * (6 + 1) + 4 * 9


@pytest.mark.parametrize("layer", ["Gemm", "MatMul"])
@pytest.mark.parametrize("one_first", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_channels_that_a_condition_always_switches_off(split: str, one_first: bool, layer: str) -> None:
    model = modulated(split, one_first, layer)
    result = minimize(model)
    assert size(result.model) == size(model) - len(GONE) * channel()
    assert_equal_outputs(model, result.model)


def test_channels_that_a_condition_nearly_switches_off() -> None:
    """What is left of them is small, but no rounding error."""
    near = float(np.nextafter(np.float32(-1), np.float32(0)))
    model = modulated("Split", False, "Gemm", gamma=near)
    result = minimize(model)
    assert size(result.model) > size(model) - len(GONE) * channel()
    assert_equal_outputs(model, result.model)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("function", [np.add, np.subtract, np.multiply])
@given(data=st.data())
def test_what_is_known_exactly_is_what_a_type_computes(function: np.ufunc, dtype: type, data: st.DataObject) -> None:
    width = 8 * np.dtype(dtype).itemsize
    floats = st.floats(allow_nan=False, allow_infinity=False, width=width) | st.sampled_from([-1.0, 0.0, 1.0, 0.5])
    left, right = (np.array(data.draw(floats), dtype) for _ in range(2))
    found = exactly(function, constant_interval(left), constant_interval(right), top(0), np.dtype(dtype))
    with np.errstate(all="ignore"):
        computed = function(left, right)
    assert found.exact is not None
    assert not found.exact or (found.lower == found.upper == computed and found.constant)


def test_minus_one_and_one_are_exact() -> None:
    found = exactly(np.add, constant_interval(-1.0), constant_interval(1.0), top(0), np.dtype(np.float16))
    assert found.exact is not None and found.exact and found.lower == found.upper == 0
