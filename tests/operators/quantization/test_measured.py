"""Scales that are measured at run time: what may leave a tensor without changing what sets the scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.operators.quantization.dynamic import measured
from tests.operators.quantization.test_traps import Net, dynamic, reasons
from tests.support.quantized import shapes


def encoded(net: Net, hidden: str, outer: Any) -> str:
    """Add a product of codes of a scale that is measured."""
    codes, scale, zero = net.add("DynamicQuantizeLinear", hidden, outputs=3)
    sums = net.add("MatMulInteger", codes, net.store(outer, np.int8), zero)
    return str(net.add("Mul", net.add("Cast", sums, to=TensorProto.FLOAT), scale))


def test_of_equal_constants_at_the_end_one_stays() -> None:
    """Units that saturate at the same number: one of them holds the scale for all."""
    net = Net()
    inner, bias, outer = net.random.standard_normal((6, 9)), np.zeros(9), net.codes(9, 4)
    inner[:, [1, 4, 7]], bias[[1, 4, 7]] = 0, 50
    outer[[1, 4, 7]] = 0
    hidden = net.add("Clip", net.add("Gemm", "x", net.store(inner, "f"), net.store(bias, "f")), *bounds(net, 0, 6))
    result = net.minimized(encoded(net, hidden, outer))
    assert sorted(shapes(result.model)) == [(6, 7), (7, 4)]
    assert Reason.MEASURED in reasons(result)


def bounds(net: Net, low: float, high: float) -> list[str]:
    return [net.store(low, np.float32), net.store(high, np.float32)]


@pytest.mark.parametrize("read", [False, True])
def test_of_constants_at_the_end_one_that_is_read_stays(read: bool) -> None:
    net = Net()
    inner, bias, outer = net.random.standard_normal((6, 9)), np.zeros(9), net.codes(9, 4)
    inner[:, [1, 4, 7]], bias[[1, 4, 7]] = 0, 50
    outer[[1, 4] if read else [1, 4, 7]] = 0
    hidden = net.add("Clip", net.add("Gemm", "x", net.store(inner, "f"), net.store(bias, "f")), *bounds(net, 0, 6))
    assert sorted(shapes(net.minimized(encoded(net, hidden, outer)).model)) == [(6, 7), (7, 4)]


def test_constants_that_others_reach_leave() -> None:
    """Nothing is less than 2, so that no constant of 2 is needed beside what varies and sets the scale itself."""
    net = Net()
    inner, bias, outer = net.random.standard_normal((6, 9)), np.zeros(9), net.codes(9, 4)
    inner[:, [1, 4, 7]], bias[[1, 4, 7]] = 0, -50
    outer[[1, 4, 7]] = 0
    hidden = net.add("Clip", net.add("Gemm", "x", net.store(inner, "f"), net.store(bias, "f")), *bounds(net, 2, 6))
    assert sorted(shapes(net.minimized(encoded(net, hidden, outer)).model)) == [(6, 4), (6, 6)]


def test_zeros_leave_where_nothing_is_bounded() -> None:
    """The range holds 0 whatever it is measured of."""
    net = Net()
    inner = net.random.standard_normal((6, 8))
    inner[:, [0, 3]] = 0
    y = encoded(net, net.add("MatMul", "x", net.store(inner, "f")), net.codes(8, 4))
    assert sorted(shapes(net.minimized(y).model)) == [(6, 4), (6, 6)]


def test_a_scale_counts_whatever_else_is_read() -> None:
    """Codes whose zero point nobody reads: they hang on the scale all the same."""
    net = Net()
    inner, outer = net.random.standard_normal((6, 8)), net.codes(8, 4)
    inner[:, 5] *= 100
    outer[5] = 0
    hidden = net.add("Relu", net.add("MatMul", "x", net.store(inner, "f")))
    codes, scale, _ = net.add("DynamicQuantizeLinear", hidden, outputs=3)
    sums = net.add("MatMulInteger", codes, net.store(outer, np.int8))
    result = net.minimized(net.add("Mul", net.add("Cast", sums, to=TensorProto.FLOAT), scale))
    assert sorted(shapes(result.model)) == [(6, 8), (8, 4)]


@pytest.mark.parametrize("sign", [1, -1])
def test_what_varies_within_what_others_reach_leaves(sign: int) -> None:
    """Between 0 and what one sigmoid moved by 3 reaches at least lie all the others."""
    net = Net()
    outer, moved = net.codes(8, 4), np.zeros(8)
    moved[5] = 3 * sign
    outer[[0, 2, 5, 6]] = 0  # they vary, and nobody reads them; the one that sets the scale stays
    hidden = net.add("Sigmoid", net.add("Gemm", "x", net.store(net.random.standard_normal((6, 8)), "f")))
    hidden = net.add("Mul", hidden, net.store(np.full(8, sign), "f"))
    result = net.minimized(encoded(net, net.add("Add", hidden, net.store(moved, "f")), outer))
    assert sorted(shapes(result.model)) == [(5, 4), (6, 5)]


def layer(net: Net, hidden: str, zero_rows: int) -> tuple[str, Any]:
    """Add a layer of whole numbers, most rows of which are zeros, and its bias, an Add of its own."""
    weight = net.codes(40, 60)
    weight[:, net.random.permutation(60)[:zero_rows]] = 0
    bias = net.store(net.random.standard_normal(60) / 4, "f")
    return net.add("Relu", net.add("Add", encoded(net, hidden, weight), bias)), weight


def test_rows_of_zeros_are_computed_once() -> None:
    """What a layer of whole numbers makes is brought back to its width behind it, and it stays what it is."""
    net = Net("N", 40)
    hidden, _ = layer(net, "x", 40)
    result = net.minimized(encoded(net, hidden, net.codes(60, 4)))
    assert shapes(result.model)[0] == (40, 21)
    kinds = [node.op_type for node in result.model.graph.node]
    assert kinds.count("MatMulInteger") == 2 and "MatMul" not in kinds and kinds.count("Gather") == 1


def test_columns_of_zeros_are_left_out_of_codes() -> None:
    """The scale is still measured over all of them."""
    net = Net("N", 40)
    inner, outer = net.random.standard_normal((40, 128)), net.codes(128, 60)
    inner[:, 50] *= 100
    outer[20:100] = 0
    y = net.add(
        "MatMul", dynamic(net, inner, np.zeros(128), outer), net.store(net.random.standard_normal((60, 4)), "f")
    )
    result = net.minimized(y)
    assert sorted(shapes(result.model)) == [(40, 128), (48, 60), (60, 4)]
    made = {name: node.op_type for node in result.model.graph.node for name in node.output}
    (product,) = [node for node in result.model.graph.node if node.op_type == "MatMulInteger"]
    assert made[product.input[0]] == "Gather"


def test_rows_of_layers_of_real_numbers() -> None:
    """Weights of codes and data of real numbers: nothing is computed in integers that a Gather could keep from it."""
    net = Net("N", 40)
    weight = net.codes(128, 40)
    weight[30:100] = 0
    hidden = net.add("Gemm", "x", net.weight(weight), net.store(net.random.standard_normal(128), "f"), transB=1)
    hidden = net.add("Softmax", hidden)
    result = net.minimized(net.add("MatMul", hidden, net.store(net.random.standard_normal((128, 4)), "f")), exact=False)
    assert shapes(result.model)[0] == (59, 40)


CURVES = ("Relu", "Sigmoid", "Tanh", "Clip", "HardSigmoid")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), curve=st.sampled_from(CURVES), unread=st.integers(0, 8), constant=st.integers(0, 8))
def test_random_layers(seed: int, curve: str, unread: int, constant: int) -> None:
    """Whatever leaves, the bits are the same: nothing that left could have set the scale."""
    net = Net()
    net.random = np.random.default_rng(seed)
    units = 10
    inner, bias = net.random.standard_normal((6, units)), net.random.standard_normal(units) * 3
    inner[:, net.random.permutation(units)[:constant]] = 0
    outer = net.codes(units, 4)
    outer[net.random.permutation(units)[:unread]] = 0
    hidden = net.add("Gemm", "x", net.store(inner, "f"), net.store(bias, "f"))
    hidden = net.add(curve, hidden, *(bounds(net, -1, 2) if curve == "Clip" else []))
    hidden = net.add("Mul", hidden, net.store(net.random.choice([-1, 1, 2], units), "f"))
    net.minimized(encoded(net, hidden, outer))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_bounds_are_those_of_float32(sign: float) -> None:
    """What is measured is in float32: the next number beyond what others reach could set the scale, nothing between."""
    above = float(np.nextafter(np.float32(2), np.float32(3)))
    ends = np.array([[2.0, 2.0], [0.0, 2.0], [0.0, (2 + above) / 2], [0.0, above], [-5e-324, 0.0]])
    lower, upper = (ends if sign > 0 else -ends[:, ::-1]).T
    extreme, witnesses = measured(Interval(lower, upper))
    np.testing.assert_array_equal(extreme, [False, False, False, True, False])
    np.testing.assert_array_equal(witnesses, [True, False, False, False, False])
