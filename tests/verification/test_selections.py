"""Which selections rounding explains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxsqueeze.model.model import Model
from onnxsqueeze.verification.pieces import Pieces
from onnxsqueeze.verification.selections import Selection, chosen_by, read_by, selects

ROOM = 1e-3
NEAR, FAR = 1e-4, 1e-1
MICROSOFT = helper.make_opsetid("com.microsoft", 1)


def selection(op: str, chosen: Any, *arrays: Any, opset: int = 17, **attributes: Any) -> Selection:
    """Return a node's selection among float64 inputs that rounding may move by `ROOM`."""
    names = [f"i{index}" for index in range(len(arrays))]
    outputs = ["values", "places"] if op == "TopK" else ["out"]
    node = helper.make_node(op, names, outputs, **attributes)
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info(outputs[0], TensorProto.UNDEFINED, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), MICROSOFT], ir_version=8)
    pieces = Pieces(Model(model), 60.0)
    inputs = {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}
    made = pieces.evaluate(0, inputs)
    assert selects(node)
    slack = dict.fromkeys(read_by(node), ROOM)
    kind = np.asarray(made[chosen_by(node)]).dtype
    return Selection(node, inputs, made, np.asarray(chosen, kind), slack, lambda given: pieces.evaluate(0, given))


SCORES = np.array([[3.0, 1.0, 2.0, 2.0 - NEAR, 0.0, 1.0 - FAR]])
K = np.array([3])


@pytest.mark.parametrize(
    ("chosen", "consistent"),
    [
        ([[0, 2, 3]], True),
        ([[0, 3, 2]], True),  # they tie
        ([[2, 0, 3]], False),
        ([[0, 2, 1]], False),
        ([[0, 2, 2]], False),  # twice the same
        ([[0, 2, 9]], False),
    ],
)
def test_top(chosen: list[list[int]], consistent: bool) -> None:
    assert selection("TopK", chosen, SCORES, K).consistent == consistent


def test_top_hands_on_the_values_at_the_places() -> None:
    settled = selection("TopK", [[0, 3, 2]], SCORES, K).settled()
    np.testing.assert_array_equal(settled["values"], [[3.0, 2.0 - NEAR, 2.0]])
    np.testing.assert_array_equal(settled["places"], [[0, 3, 2]])


def test_smallest_and_unsorted() -> None:
    assert selection("TopK", [[4, 5, 1]], SCORES, K, largest=0).consistent
    assert not selection("TopK", [[4, 5, 2]], SCORES, K, largest=0).consistent
    assert selection("TopK", [[3, 0, 2]], SCORES, K, sorted=0).consistent


@pytest.mark.parametrize("keep", [0, 1])
def test_best(keep: int) -> None:
    tied = np.array([[2.0, 2.0 - NEAR, 1.0], [0.0, 1.0, 1.0 + FAR]])
    shape = (2, 1) if keep else (2,)
    for chosen, consistent in (([0, 2], True), ([1, 2], True), ([2, 2], False), ([0, 1], False)):
        found = selection("ArgMax", np.reshape(chosen, shape), tied, axis=1, keepdims=keep)
        assert found.consistent == consistent, chosen
    assert selection("ArgMin", np.reshape([2, 0], shape), tied, axis=1, keepdims=keep).consistent


def test_hardest() -> None:
    tied = np.array([[2.0, 2.0 - NEAR, 1.0]])
    for chosen, consistent in (([1, 0, 0], True), ([0, 1, 0], True), ([0, 0, 1], False), ([1, 1, 0], False)):
        assert selection("Hardmax", [chosen], tied, axis=1).consistent == consistent


@pytest.mark.parametrize("op", ["Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"])
def test_comparisons(op: str) -> None:
    """Where the two are far from each other, there is one answer."""
    left, right = np.array([1.0, 1.0]), np.array([1.0 + NEAR, 1.0 + FAR])
    made = selection(op, [0, 0], left, right).made["out"]
    assert selection(op, made, left, right).consistent
    assert selection(op, made ^ [True, False], left, right).consistent
    assert not selection(op, made ^ [False, True], left, right).consistent


@pytest.mark.parametrize(
    ("op", "at", "attributes"),
    [("Floor", 2.0, {}), ("Ceil", 2.0, {}), ("Round", 2.5, {}), ("Sign", 0.0, {}), ("Cast", 2.0, {"to": 7})],
)
def test_steps(op: str, at: float, attributes: dict[str, int]) -> None:
    x = np.array([at - NEAR, at + NEAR, at + 0.3])
    below, above = (selection(op, [0, 0, 0], np.full(3, at + by), **attributes).made["out"][0] for by in (-NEAR, NEAR))
    beyond = selection(op, [0, 0, 0], x, **attributes).made["out"][2]
    assert below != above
    assert selection(op, [below, above, beyond], x, **attributes).consistent
    assert selection(op, [above, below, beyond], x, **attributes).consistent
    assert not selection(op, [below, above, below], x, **attributes).consistent
    assert not selection(op, [below - 1, above, beyond], x, **attributes).consistent


def test_truth_values() -> None:
    """Only what is as good as 0 may be either."""
    x = np.array([0.0, NEAR, FAR])
    for chosen, consistent in (([0, 1, 1], True), ([0, 0, 1], True), ([1, 0, 1], True), ([0, 1, 0], False)):
        assert selection("Cast", chosen, x, to=TensorProto.BOOL).consistent == consistent, chosen


@pytest.mark.parametrize(
    ("places", "consistent"),
    [
        ([[0, 1], [2, 1]], True),
        ([[0, 0, 1], [0, 2, 1]], True),  # the first of the scores is as good as 0
        ([[0], [2]], True),  # and so is the last
        ([[1], [1]], False),
        ([[1, 0], [1, 2]], False),  # in another order
        ([[0, 1], [2, 3]], False),  # elsewhere
    ],
)
def test_places_that_are_not_zero(places: list[list[int]], consistent: bool) -> None:
    scores = np.array([[NEAR / 10, 0.0, 1.0], [0.0, NEAR, 0.0]])
    found = selection("NonZero", places, scores)
    assert found.fits and found.consistent == consistent


@pytest.mark.parametrize(("opset", "domain"), [(13, ""), (21, ""), (13, "com.microsoft")])
def test_codes(opset: int, domain: str) -> None:
    """A number right between two codes may be either, and no other; the last code holds all beyond."""
    x, scale, zero = np.array([0.5, 0.6, -7.4, 300.0]), np.array(1.0), np.array(8, np.uint8)
    for codes, consistent in (([9, 9, 1, 255], True), ([8, 9, 1, 255], True), ([8, 8, 1, 255], False)):
        found = selection("QuantizeLinear", codes, x, scale, zero, opset=opset, domain=domain)
        assert found.consistent == consistent, codes
    assert not selection("QuantizeLinear", [8, 9, 1, 254], x, scale, zero, opset=opset, domain=domain).consistent


BOXES = np.array([[[0, 0, 1, 1], [0, 0, 1, 1.02], [2, 2, 3, 3], [4, 4, 5, 5]]], float)


@pytest.mark.parametrize(
    ("kept", "consistent"),
    [
        ([0, 2], True),
        ([1, 2], True),  # the first two tie, and each hides the other
        ([0, 1, 2], False),  # they overlap
        ([0], False),  # nothing hides the third
        ([2, 0], False),  # in the order of their scores
        ([0, 2, 3], False),  # below the threshold
        ([0, 2, 2], False),
    ],
)
def test_suppression(kept: list[int], consistent: bool) -> None:
    scores = np.array([[[0.9, 0.9 - NEAR, 0.5, 0.1]]])
    chosen = [[0, 0, place] for place in kept]
    limits = (np.array([10]), np.array([0.5], np.float32), np.array([0.3], np.float32))
    assert selection("NonMaxSuppression", chosen, BOXES, scores, *limits).consistent == consistent


def test_suppression_stops_at_its_count() -> None:
    scores = np.array([[[0.9, 0.2, 0.5, 0.5 - NEAR]]])
    limits = (np.array([2]), np.array([0.5], np.float32), np.array([0.0], np.float32))
    for kept, consistent in (([0, 2], True), ([0, 3], True), ([2, 3], False), ([0], False)):
        chosen = [[0, 0, place] for place in kept]
        assert selection("NonMaxSuppression", chosen, BOXES, scores, *limits).consistent == consistent, kept


def test_casts_between_floats_select_nothing() -> None:
    assert not selects(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16))
    assert not selects(helper.make_node("TopK", ["x", "k"], ["y", "i"], domain="elsewhere"))
