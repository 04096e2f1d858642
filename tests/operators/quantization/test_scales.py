"""What a node that encodes or decodes says of its codes, and what of its scales belongs to a part of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.quantization.scales import codes_at, need, sliced_from
from onnxsqueeze.rules.codes import Codes
from onnxsqueeze.rules.contract import Refusal

SHAPE = (2, 3, 4)
COMPUTED = "computed"


class Around:
    """A node and what is known around it: shapes, types and constants."""

    def __init__(
        self, scale: Any, zero: Any = None, op: str = "DequantizeLinear", shape: Any = SHAPE, **attributes: int
    ) -> None:
        names = ["x", "s", *(["z"] if zero is not None else [])]
        proto = helper.make_node(op, names, ["y"], **attributes)
        self.node = Node(0, op, "", 21, tuple(names), ("y",), (), proto)
        given = {"s": scale, **({"z": zero} if zero is not None else {})}
        self.values = {name: None if each is COMPUTED else np.asarray(each) for name, each in given.items()}
        self.shapes: dict[str, Any] = {"x": shape, "y": shape}
        self.shapes |= {name: () if each is None else each.shape for name, each in self.values.items()}
        self.dtypes = {"s": TensorProto.FLOAT, "z": TensorProto.INT8, "x": TensorProto.INT8, "y": TensorProto.INT8}

    def memo(self, function: Any) -> dict[Any, Any]:
        return {}

    def value(self, name: str) -> Any:
        return self.values.get(name)

    def shape(self, name: str) -> Any:
        return self.shapes[name]

    def rank(self, name: str) -> int:
        return len(self.shapes[name])

    @property
    def codes(self) -> Codes | Refusal:
        return codes_at(self.node, self)  # type: ignore[arg-type]

    @property
    def reason(self) -> Reason | None:
        return self.codes.reason if isinstance(self.codes, Refusal) else None


F = np.float32
VECTOR = np.array([1, 2, 3], F)


def test_one_scale() -> None:
    found = Around(F(0.5), np.int8(3)).codes
    assert isinstance(found, Codes)
    assert (found.name, found.dtype, found.scale, found.zero_point) == ("x", np.int8, 0.5, 3)
    encoded = Around(F(0.5), op="QuantizeLinear").codes
    assert isinstance(encoded, Codes) and encoded.name == "y"


@pytest.mark.parametrize("gone", ["x", "s"])
def test_shapes_that_are_not_known(gone: str) -> None:
    around = Around(F(0.5))
    del around.shapes[gone]
    assert around.reason is Reason.UNKNOWN_SHAPE


def test_a_type_that_is_not_known() -> None:
    around = Around(F(0.5))
    del around.dtypes["x"]
    assert around.reason is Reason.UNKNOWN_SHAPE


def test_an_input_that_is_left_out() -> None:
    around = Around(F(0.5))
    around.node = Node(0, around.node.op, "", 21, ("x", "s", ""), ("y",), (), around.node.proto)
    assert isinstance(around.codes, Codes)


@pytest.mark.parametrize("zero", [None, np.int8(3), COMPUTED])
def test_a_scale_that_a_run_computes(zero: Any) -> None:
    found = Around(COMPUTED, zero).codes
    assert isinstance(found, Codes) and np.isnan(found.scale) and found.zero_point is None


@pytest.mark.parametrize(("name", "zero"), [("s", None), ("s", np.int8(3)), ("z", COMPUTED)])
def test_several_that_a_run_computes(name: str, zero: Any) -> None:
    around = Around(COMPUTED, zero)
    around.shapes[name] = (2,)
    assert around.reason is Reason.COMPUTED_WEIGHT


def test_a_zero_point_that_a_run_computes() -> None:
    found = Around(F(0.5), COMPUTED).codes
    assert isinstance(found, Codes) and np.isnan(found.scale)


@pytest.mark.parametrize(
    ("op", "scale", "reason"),
    [
        ("DequantizeLinear", np.array([1, np.inf, 1], F), Reason.NOT_FINITE),
        ("DequantizeLinear", np.array([1, 0, -1], F), None),
        ("QuantizeLinear", np.array([1, np.nan, 1], F), Reason.NOT_FINITE),
        ("QuantizeLinear", np.array([1, 0, 1], F), Reason.NOT_FINITE),
        ("QuantizeLinear", VECTOR, None),
    ],
)
def test_scales_that_are_none(op: str, scale: Any, reason: Reason | None) -> None:
    assert Around(scale, op=op).reason is reason


FITTING: list[tuple[Any, Any, tuple[Any, ...], Mapping[str, int], bool]] = [
    (VECTOR, None, SHAPE, {}, True),  # along the second axis
    (VECTOR, np.zeros(3, np.int8), SHAPE, {}, True),
    (VECTOR, np.zeros(2, np.int8), SHAPE, {}, False),
    (VECTOR, np.int8(0), SHAPE, {}, False),
    (F(1), np.zeros(3, np.int8), SHAPE, {}, False),
    (F([1]), np.zeros(1, np.int8), SHAPE, {}, True),
    (VECTOR, None, (3,), {"axis": -1}, True),
    (VECTOR, None, (), {}, False),
    (VECTOR, None, SHAPE, {"axis": 2}, False),
    (VECTOR, None, (2, "n", 4), {}, False),
    (np.ones((2, 2, 4), F), None, SHAPE, {"block_size": 2}, True),
    (np.ones((2, 3, 4), F), None, SHAPE, {"block_size": 2}, False),
    (np.ones((2, 3, 2), F), None, SHAPE, {"block_size": 2, "axis": -1}, True),
    (F(1), None, SHAPE, {"block_size": 2}, True),
]


@pytest.mark.parametrize(("scale", "zero", "shape", "attributes", "fits"), FITTING)
def test_scales_fit_a_tensor_or_are_refused(
    scale: Any, zero: Any, shape: Any, attributes: Mapping[str, int], fits: bool
) -> None:
    around = Around(scale, zero, shape=shape, **attributes)
    assert around.reason is (None if fits else Reason.UNKNOWN_SHAPE)
    if fits:
        assert isinstance(around.codes, Codes)
        assert around.codes.block == (attributes.get("block_size", 0) if np.ndim(scale) else 0)
        assert around.codes.per_tensor or around.codes.axis == attributes.get("axis", 1) % len(shape)


def test_scales_are_read_whole() -> None:
    around = Around(VECTOR, np.zeros(3, np.int8))
    live = np.array([True, False])
    found = need(around.node, around, [live])  # type: ignore[arg-type]
    assert found[0] is not None and found[0].live is live
    assert len(found) == 3
    for each in found[1:]:
        assert each is not None and each.hold is not None and each.live.all() and each.hold.all()


def test_a_part_is_made_of_the_same_part() -> None:
    kept = (None, np.array([True, False, True]), None)
    for scale, scales in ((VECTOR, (kept[1],)), (F(1), ()), (np.ones((1, 1, 1), F), (None,) * 3)):
        around = Around(scale, np.zeros_like(scale, np.int8))
        assert sliced_from(around.node, around, kept) == [kept, scales, scales]  # type: ignore[arg-type]
    for around in (Around(COMPUTED), Around(np.ones(2, F))):
        assert sliced_from(around.node, around, kept) is None  # type: ignore[arg-type]
