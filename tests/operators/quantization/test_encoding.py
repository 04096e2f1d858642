"""QuantizeLinear and DequantizeLinear by themselves: their values, their bounds, and what their constants belong to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.registry import rule_for
from tests.operators.quantization.test_scales import COMPUTED, SHAPE, VECTOR, Around, F

ENCODE, DECODE = "QuantizeLinear", "DequantizeLinear"


def evaluated(op: str, *arrays: Any, left_out: bool = False, **attributes: int) -> Any:
    """Return what a rule computes; ``left_out`` names a third input that is none, and gives something for it."""
    names = [*"xsz"[: len(arrays)]]
    node = Node(
        0, op, "", 21, tuple(names[:2]) + ("",) * left_out + tuple(names[2:]), ("y",), (), _proto(op, attributes)
    )
    inputs = [*arrays, np.int8(77)] if left_out else arrays
    evaluate = rule_for(node).evaluate
    assert evaluate is not None
    (found,) = evaluate(node, [np.asarray(each) for each in inputs])
    return found


def _proto(op: str, attributes: Any) -> Any:
    return helper.make_node(op, ["x", "s"], ["y"], **attributes)


REAL = np.array([[-1.0, 0.24, 0.25], [0.75, 1.25, 99.0]], F)


@pytest.mark.parametrize(
    ("arrays", "attributes", "dtype", "codes"),
    [
        ((F(0.5),), {}, np.uint8, [[0, 0, 0], [2, 2, 198]]),  # half to even
        ((F(0.5), np.int8(-3)), {}, np.int8, [[-5, -3, -3], [-1, -1, 127]]),
        ((F(0.5),), {"output_dtype": TensorProto.INT16}, np.int16, [[-2, 0, 0], [2, 2, 198]]),
        ((np.array([1, 0.25, 1], F),), {}, np.uint8, [[0, 1, 0], [1, 5, 99]]),  # along the second axis
        ((np.array([1, 0.25], F),), {"axis": 0}, np.uint8, [[0, 0, 0], [3, 5, 255]]),
        ((np.array([1, 0.25], F),), {"axis": -2}, np.uint8, [[0, 0, 0], [3, 5, 255]]),
        ((np.array([[1, 0.25], [1, 0.5]], F),), {"block_size": 2}, np.uint8, [[0, 0, 1], [1, 1, 198]]),
        ((F([0.5]),), {"block_size": 2}, np.uint8, [[0, 0, 0], [2, 2, 198]]),
    ],
)
def test_codes(arrays: Any, attributes: Any, dtype: Any, codes: Any) -> None:
    found = evaluated(ENCODE, REAL, *arrays, **attributes)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, codes)
    back = evaluated(
        DECODE, found, *arrays, **{name: value for name, value in attributes.items() if "dtype" not in name}
    )
    zero = arrays[1] if len(arrays) > 1 else 0
    axis = attributes.get("axis", 1)
    scale = arrays[0]
    if scale.ndim == 2:
        scale = np.repeat(scale, 2, 1)[:, :3]
    elif scale.size > 1:
        scale = scale.reshape((-1, 1) if axis in (0, -2) else (1, -1))
    np.testing.assert_array_equal(back, (found.astype(F) - F(zero)) * scale)


def test_a_zero_point_that_is_left_out() -> None:
    np.testing.assert_array_equal(evaluated(ENCODE, REAL, F(0.5), left_out=True), evaluated(ENCODE, REAL, F(0.5)))
    codes = np.array([[3, 4]], np.int8)
    np.testing.assert_array_equal(evaluated(DECODE, codes, F(0.5), left_out=True), [[1.5, 2]])


class Bounded(Around):
    """A node of whose data bounds are known."""

    def __init__(self, lower: Any, upper: Any, *scales: Any, **given: Any) -> None:
        super().__init__(*scales, **given)
        self._data = Interval(*(np.asarray(end, float).reshape(1, -1, 1) for end in (lower, upper)))
        self.graph = SimpleNamespace(producers={})

    def interval(self, name: str) -> Interval:
        return self._data

    @property
    def found(self) -> tuple[list[float], list[float]]:
        forward = rule_for(self.node).forward
        assert forward is not None
        (interval,) = forward(self.node, self)  # type: ignore[arg-type]
        return interval.lower.ravel().tolist(), interval.upper.ravel().tolist()


INF = np.inf


def test_bounds_of_codes() -> None:
    """What may round either way is no constant; what lies beyond the last code is one; 0 is exact."""
    lower, upper = [0, 0.25, 0.6, 200, -INF], [0, 0.25, 0.6, INF, 0.1]
    found = Bounded(lower, upper, F(0.5), np.int8(1), op=ENCODE, shape=(2, 5, 4)).found
    assert found == ([1, 1, 2, 127, -128], [1, 2, 2, 127, 1])
    found = Bounded([1, 1, 1], [1, 1, 1], VECTOR, op=ENCODE).found
    assert found == ([1, 0, 0], [1, 1, 0])


@pytest.mark.parametrize("scale", [COMPUTED, np.ones(2, F)])
@pytest.mark.parametrize("op", [ENCODE, DECODE])
def test_bounds_of_scales_that_are_not_known(op: str, scale: Any) -> None:
    assert Bounded([1], [1], scale, op=op).found == ([-INF], [INF])


@pytest.mark.parametrize(("saturate", "most"), [(1, 448), (0, INF)])
def test_bounds_of_float8(saturate: int, most: float) -> None:
    """What saturates ends at the last code; what does not may be NaN."""
    given: dict[str, Any] = {"saturate": saturate} if saturate == 0 else {}
    around = Bounded([900], [900], F(1), np.zeros((), ml_dtypes.float8_e4m3fn), op=ENCODE, **given)
    around.dtypes["y"] = TensorProto.FLOAT8E4M3FN
    assert around.found == ([most if saturate else -INF], [most])


def test_bounds_of_what_codes_stand_for() -> None:
    assert Bounded([-INF, 1], [INF, 3], F(0.5), np.int8(1)).found == ([-64.5, 0], [63, 1])
    assert Bounded([2, 2, 2], [2, 2, 2], VECTOR).found == ([2, 4, 6], [2, 4, 6])
    assert Bounded([2], [4], np.array([1, 0, -1], F)).found == ([2, 0, -4], [4, 0, -2])


@pytest.mark.parametrize(
    ("maker", "zero"), [("DynamicQuantizeLinear", "z"), ("DynamicQuantizeLinear", "o"), ("Add", "z"), ("", "z")]
)
def test_bounds_of_what_was_measured(maker: str, zero: str) -> None:
    """0 is decoded as 0, by the zero point with which it was encoded; of others nothing is known."""
    around = Bounded([0, 0, 2], [0, 1, 2], COMPUTED, COMPUTED)
    proto = helper.make_node(maker, ["a"], ["x", "s", zero])
    around.graph.producers = {"x": Node(1, maker, "", 21, ("a",), ("x", "s", zero), (), proto)} if maker else {}
    known = maker == "DynamicQuantizeLinear" and zero == "z"
    lower, upper = around.found
    assert (lower, upper) == (([0, -INF, -INF], [0, INF, INF]) if known else ([-INF], [INF]))


@pytest.mark.parametrize(("scale", "own"), [(VECTOR, True), (F(1), False), (np.ones((2, 2, 4), F), False)])
def test_scales_belong_to_channels_where_there_are_several(scale: Any, own: bool) -> None:
    around = Around(scale, np.zeros_like(scale, np.int8), **({"block_size": 2} if np.ndim(scale) == 3 else {}))
    around.is_activation = lambda name: False  # type: ignore[attr-defined]
    around.ids = lambda name: np.arange(24).reshape(SHAPE)  # type: ignore[attr-defined]
    parameters = rule_for(around.node).parameters
    assert parameters is not None
    found = parameters(around.node, around)  # type: ignore[arg-type]
    assert [(each.name, each.position) for each in found] == [("s", 1), ("z", 2)]
    for each in found:
        assert each.role is (Role.OPERAND if own else Role.SETTING)
        assert [classes.tolist() for classes in each.classes] == ([[0, 4, 8]] if own else [])
    around.is_activation = lambda name: name == "z"  # type: ignore[attr-defined]
    assert [each.name for each in parameters(around.node, around)] == ["s"]  # type: ignore[arg-type]


def test_scales_of_few_places() -> None:
    """Along the only axis, and two blocks of one row."""
    codes = np.array([1, 2, 3], np.int8)
    np.testing.assert_array_equal(evaluated(DECODE, codes, VECTOR, axis=-1), [1, 4, 9])
    np.testing.assert_array_equal(evaluated(DECODE, codes[None], np.array([[1, 2]], F), block_size=2), [[1, 2, 6]])


def test_whole_numbers_always_saturate() -> None:
    assert Bounded([900], [900], F(1), np.int8(0), op=ENCODE, saturate=0).found == ([127], [127])


def test_0_is_exact_among_codes_that_are_not_whole() -> None:
    around = Bounded([0, 0.25], [0, 0.25], F(1), np.zeros((), ml_dtypes.float8_e4m3fn), op=ENCODE)
    around.dtypes["y"] = TensorProto.FLOAT8E4M3FN
    lower, upper = around.found
    assert lower[0] == upper[0] == 0 and lower[1] <= 0.25 <= upper[1]


def test_scales_that_are_not_known_are_no_codes() -> None:
    for around, known in ((Around(F(1)), True), (Around(COMPUTED), False), (Around(np.ones(2, F)), False)):
        codes = rule_for(around.node).codes
        assert codes is not None
        assert (codes(around.node, around) is not None) == known  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [F([1]), np.ones(2, F), COMPUTED])
def test_scales_that_belong_to_no_channel(scale: Any) -> None:
    """One number in a vector, as many as do not fit, and what is a constant of which nothing is known."""
    around = Around(scale)
    around.node = Node(0, DECODE, "", 21, ("x", "s", ""), ("y",), (), around.node.proto)
    around.is_activation = lambda name: False  # type: ignore[attr-defined]
    parameters = rule_for(around.node).parameters
    assert parameters is not None
    (found,) = parameters(around.node, around)  # type: ignore[arg-type]
    assert (found.name, found.role, found.classes) == ("s", Role.SETTING, ())


@pytest.mark.parametrize("zero", [None, np.int8(1)])
def test_shapes_and_types(zero: Any) -> None:
    """Onnx infers the shapes of its own operators."""
    around = Around(F(1), zero, op=ENCODE)
    node = Node(0, ENCODE, "com.microsoft", 1, around.node.inputs, ("y",), (), around.node.proto)
    rule = rule_for(node)
    assert rule.infer is not None and rule_for(around.node).infer is None
    assert list(rule.infer(node, around)) == [SHAPE]  # type: ignore[arg-type]
    assert rule.element_type is not None
    kind = TensorProto.UINT8 if zero is None else TensorProto.INT8
    assert rule.element_type(node, around) == kind  # type: ignore[arg-type]
