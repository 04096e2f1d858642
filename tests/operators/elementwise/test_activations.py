"""Planted units behind every elementwise activation, and behind elementwise operators of two tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.builders import DEAD, ZERO, Tensor
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, weights
from tests.support.planted.layers import Twin
from tests.support.planted.opsets import LATEST

UNIT = ("Sigmoid",)  # brings values into (0, 1), where the operator is defined
UNARY: list[tuple[str, int, tuple[str, ...], dict[str, Any]]] = [
    ("Abs", 13, (), {}),
    ("Acos", 11, UNIT, {}),
    ("Acosh", 11, (*UNIT, "Exp"), {}),
    ("Asin", 11, UNIT, {}),
    ("Asinh", 11, (), {}),
    ("Atan", 11, (), {}),
    ("Atanh", 11, UNIT, {}),
    ("Ceil", 13, (), {}),
    ("Celu", 12, (), {"alpha": 0.7}),
    ("Cos", 11, (), {}),
    ("Cosh", 11, (), {}),
    ("Elu", 11, (), {"alpha": 0.6}),
    ("Erf", 13, (), {}),
    ("Exp", 13, (), {}),
    ("Floor", 13, (), {}),
    ("Gelu", 20, (), {}),
    ("Gelu", 20, (), {"approximate": "tanh"}),
    ("HardSigmoid", 11, (), {"alpha": 0.3, "beta": 0.4}),
    ("HardSwish", 14, (), {}),
    ("Identity", 13, (), {}),
    ("LeakyRelu", 11, (), {"alpha": 0.2}),
    ("Log", 13, UNIT, {}),
    ("Mish", 18, (), {}),
    ("Neg", 13, (), {}),
    ("Reciprocal", 13, UNIT, {}),
    ("Relu", 13, (), {}),
    ("Round", 11, (), {}),
    ("Selu", 11, (), {}),
    ("Shrink", 11, (), {"lambd": 0.3, "bias": 0.1}),
    ("Sigmoid", 13, (), {}),
    ("Sign", 13, (), {}),
    ("Sin", 11, (), {}),
    ("Sinh", 11, (), {}),
    ("Softplus", 11, (), {}),
    ("Softsign", 11, (), {}),
    ("Sqrt", 13, UNIT, {}),
    ("Swish", 24, (), {"alpha": 1.3}),
    ("Tan", 11, UNIT, {}),
    ("Tanh", 13, (), {}),
    ("ThresholdedRelu", 11, (), {"alpha": 0.2}),
]


def recover_behind(twin: Twin, activation: Callable[[Tensor], Tensor], layers: int = 2) -> None:
    """Assert that dead, constant and late units leave a dense network with this activation."""
    x = twin.input("N", 12)
    for late in range(layers):
        x = activation(twin.gemm(x, twin.units(live=6, dead=3, const=3, zero=1, late=late)))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=4))))


@pytest.mark.parametrize("latest", [False, True], ids=["oldest", "latest"])
@pytest.mark.parametrize(("op", "since", "before", "attributes"), UNARY, ids=[row[0] for row in UNARY])
def test_unary(op: str, since: int, before: tuple[str, ...], attributes: dict[str, Any], latest: bool) -> None:
    newest = 24 if op == "Swish" else LATEST  # onnxruntime expands Swish at this one opset only
    twin = Twin(seed=len(op), opset=newest if latest else since)

    def activation(x: Tensor) -> Tensor:
        for name in before:
            x = twin.op(name, x)
        return twin.op(op, x, **attributes)

    layers = 1 if op == "Sign" else 2  # of a second one, intervals find units that never change their sign
    recover_behind(twin, activation, layers)


def _silu(twin: Twin, x: Tensor) -> Any:
    return twin.op("Mul", x, twin.op("Sigmoid", x))


def _mish(twin: Twin, x: Tensor) -> Any:
    return twin.op("Mul", x, twin.op("Tanh", twin.op("Softplus", x)))


def _gelu_by_erf(twin: Twin, x: Tensor) -> Any:
    erf = twin.op("Erf", twin.op("Div", x, twin.parameter(2**0.5)))
    return twin.op("Mul", twin.op("Mul", x, twin.op("Add", erf, twin.parameter(1))), twin.parameter(0.5))


def _gelu_by_tanh(twin: Twin, x: Tensor) -> Any:
    cube = twin.op("Mul", twin.op("Pow", x, twin.parameter(3)), twin.parameter(0.044715))
    tanh = twin.op("Tanh", twin.op("Mul", twin.op("Add", x, cube), twin.parameter(0.79788456)))
    return twin.op("Mul", twin.op("Mul", x, twin.parameter(0.5)), twin.op("Add", tanh, twin.parameter(1)))


def _hard_swish(twin: Twin, x: Tensor) -> Any:
    clipped = twin.op("Clip", twin.op("Add", x, twin.parameter(3)), twin.parameter(0), twin.parameter(6))
    return twin.op("Div", twin.op("Mul", x, clipped), twin.parameter(6))


def _leaky_by_where(twin: Twin, x: Tensor) -> Any:
    return twin.op("Where", twin.op("Greater", x, twin.parameter(0)), x, twin.op("Mul", x, twin.parameter(0.1)))


def _clip(twin: Twin, x: Tensor) -> Any:
    return twin.op("Clip", x, twin.parameter(0), twin.parameter(6))


def _clip_below(twin: Twin, x: Tensor) -> Any:
    return twin.op("Clip", x, twin.parameter(-0.2))


def _clip_above(twin: Twin, x: Tensor) -> Any:
    return twin.op("Clip", x, "", twin.parameter(0.3))


def _minimum(twin: Twin, x: Tensor) -> Any:
    return twin.op("Min", twin.op("Max", x, twin.parameter(-0.5)), twin.parameter([1.0]))


def _scale_and_shift(twin: Twin, x: Tensor) -> Any:
    scaled = twin.op("Mul", x, twin.vector(x, twin.random.uniform(0.5, 2, len(x.kinds)), trailing=True))
    return twin.op("Sub", twin.vector(x, twin.random.uniform(-1, 1, len(x.kinds)), trailing=True), scaled)


def _slopes(twin: Twin, x: Tensor) -> Any:
    return twin.op("PRelu", x, twin.vector(x, twin.random.uniform(0.1, 0.5, len(x.kinds)), trailing=True))


def _one_slope(twin: Twin, x: Tensor) -> Any:
    return twin.op("PRelu", x, twin.parameter([0.2]))


WRITTEN_OUT = [
    _silu, _mish, _gelu_by_erf, _gelu_by_tanh, _hard_swish, _leaky_by_where, _clip, _clip_below, _clip_above, _minimum,
    _scale_and_shift, _slopes, _one_slope,
]  # fmt: skip


@pytest.mark.parametrize("activation", WRITTEN_OUT, ids=lambda function: function.__name__.strip("_"))
def test_written_out(twin: Twin, activation: Callable[[Twin, Tensor], Any]) -> None:
    recover_behind(twin, lambda x: activation(twin, x))


@pytest.mark.parametrize("activation", [_slopes, _one_slope, _scale_and_shift], ids=["slopes", "one_slope", "scale"])
def test_parameters_of_a_convolution(twin: Twin, activation: Callable[[Twin, Tensor], Any]) -> None:
    x = twin.input("N", 3, "H", "W")
    x = activation(twin, twin.conv(x, twin.units(live=5, dead=3, const=3), pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4))))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max"])
@pytest.mark.parametrize("pooled", [False, True], ids=["same", "broadcast"])
def test_of_two_tensors(twin: Twin, op: str, pooled: bool) -> None:
    x, units = twin.input("N", 3, "H", "W"), twin.units(live=5, dead=3, const=3)
    a = twin.op("Tanh", twin.conv(x, units))
    b = twin.op("Exp", twin.conv(x, units))
    b = twin.op("GlobalAveragePool", b) if pooled else b
    y = twin.op(op, a, b)
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=4))))


def test_power_of_two_tensors(twin: Twin) -> None:
    x, units = twin.input("N", 12), twin.units(live=5, dead=3, const=3)
    a, b = (twin.op("Sigmoid", twin.gemm(x, units)) for _ in range(2))
    assert_recovers(twin.pair(twin.gemm(twin.op("Pow", a, b), twin.units(live=4))))


def test_product_with_zero_makes_the_other_factor_dead(twin: Twin) -> None:
    x, units = twin.input("N", 12), twin.units(live=5, dead=4, zero=4)
    a = twin.op("Tanh", twin.gemm(x, units))
    b = twin.op("Sigmoid", twin.gemm(x, np.where(units == ZERO, DEAD, units)))
    assert_recovers(twin.pair(twin.gemm(twin.op("Mul", a, b), twin.units(live=4))))


def test_choice_between_two_tensors_by_a_graph_input(twin: Twin) -> None:
    x, chosen = twin.input("N", 12), twin.input("N", 1, elem_type=TensorProto.BOOL)
    units = twin.units(live=5, dead=3, zero=3)
    a, b = (twin.op("Tanh", twin.gemm(x, units)) for _ in range(2))
    assert_recovers(twin.pair(twin.gemm(twin.op("Where", chosen, a, b), twin.units(live=4))))


def test_constants_through_a_choice_by_constants(twin: Twin) -> None:
    x, units = twin.input("N", 12), twin.units(live=5, dead=3, const=4)
    a, b = twin.gemm(x, units), twin.gemm(x, units)
    y = twin.relu(twin.gemm(twin.op("Where", twin.op("Greater", a, b), a, b), twin.units(live=5, late=3)))
    assert_recovers(twin.pair(twin.gemm(y, twin.units(live=4))))


@pytest.mark.parametrize("first", [True, False])
def test_choice_between_a_constant_and_what_may_be_that(first: bool) -> None:
    """A ReLU is 0 for some inputs, and not for all: the condition counts, and so does the ReLU."""
    random = np.random.default_rng(0)
    arrays = {"w": random.normal(size=(5, 6)), "v": random.normal(size=(6, 2)), "o": np.repeat([0, 0.5], 3)}
    sides = "h, o" if first else "o, h"
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> choice
        (float[n,5] x, bool[n,6] c) => (float[n,2] y) {{
        m = MatMul(x, w) h = Relu(m) s = Where(c, {sides}) y = MatMul(s, v) }}""")
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()
    )
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert weights(result.model) == weights(model)
