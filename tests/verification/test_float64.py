"""Evaluation in float64."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.verification import float64, verify
from onnxsqueeze.verification.reference_cost import reference_seconds
from onnxsqueeze.verification.widen_types import widened
from tests.verification.networks import network, node, nudged, perceptron, tensor


def test_an_operator_that_the_reference_lacks_goes_to_onnxruntime() -> None:
    model = network(
        [node("Gelu", "x", "g", domain="com.microsoft"), node("MatMul", "g w", "y")],
        [tensor("x", "n", 8)], [tensor("y", "n", 4)],
        {"w": np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)},
    )  # fmt: skip
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    report = verify(model, model)
    assert report.passed, report.reason
    assert report.float64_deviation is None
    assert len(report.notes) == 1 and report.notes[0].startswith("not evaluated in float64: reference: ")
    assert not verify(model, nudged(model, "w", 1e-3, 0, 0)).passed


def test_a_large_model_without_convolutions_goes_to_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = float64.Budget(reference_weights=100, onnxruntime_weights=10_000, longest=0.5, total=0.5)
    monkeypatch.setattr("onnxsqueeze.verification.comparison.USUAL", budget)
    report = verify(perceptron(), perceptron())
    assert report.float64_deviation == 0 and report.notes == ()


def test_why_there_is_no_float64_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxsqueeze.verification.comparison.USUAL", NOTHING)
    report = verify(perceptron(), perceptron())
    assert report.passed and report.float64_deviation is None
    assert report.notes == (
        "not evaluated in float64: reference: 400 weights are too many; onnxruntime: 400 weights are too many",
    )
    assert report.tolerance == 2e-5  # and not a quarter of it


def constant_average(size: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a constant image, averaged at run time, beside its exact average: float32 sums of it round badly."""
    value = np.float32(0.1)
    wide = network(
        [node("Mul", "x zero", "z"), node("Add", "z value", "c"), node("GlobalAveragePool", "c", "p"),
         node("Add", "p shift", "y")],
        [tensor("x", 1, 1, size, size)], [tensor("y", 1, 1, 1, 1)],
        {"zero": np.float32(0), "value": value, "shift": np.float32(-0.05)},
    )  # fmt: skip
    exact = network(
        [node("GlobalAveragePool", "x", "p"), node("Mul", "p zero", "z"), node("Add", "z value", "y")],
        [tensor("x", 1, 1, size, size)], [tensor("y", 1, 1, 1, 1)],
        {"zero": np.float32(0), "value": np.float32(np.float64(value) - np.float64(np.float32(0.05)))},
    )  # fmt: skip
    return wide, exact


NOTHING = float64.Budget(reference_weights=0, onnxruntime_weights=0, longest=0.0, total=0.0)


def test_a_second_look_excuses_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxsqueeze.verification.comparison.USUAL", NOTHING)
    wide, exact = constant_average(400)
    report = verify(wide, exact)
    assert report.passed, report.reason
    assert report.deviation > 2e-5 and report.float64_deviation is not None
    monkeypatch.setattr("onnxsqueeze.verification.comparison.SECOND_LOOK", NOTHING)
    report = verify(wide, exact)  # node by node it can be evaluated all the same
    assert report.passed and report.settled_in_float64 and report.float64_deviation is None
    monkeypatch.setattr("onnxsqueeze.verification.second_opinion.SECONDS", 0.0)
    report = verify(wide, exact)
    assert not report.passed and "float64 does not settle it: it takes too long" in report.reason


def test_a_second_look_finds_a_small_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxsqueeze.verification.comparison.USUAL", NOTHING)
    wrong = nudged(perceptron(), "b3", 1e-3, 0)
    report = verify(perceptron(), wrong)
    assert not report.passed and 5e-6 < report.deviation < 2e-5 and report.tolerance == 5e-6
    monkeypatch.setattr("onnxsqueeze.verification.comparison.SECOND_LOOK", NOTHING)
    assert verify(perceptron(), wrong).passed


@pytest.mark.parametrize("opset", [9, 13, 15])
def test_batch_normalization_of_every_opset(opset: int) -> None:
    random = np.random.default_rng(0)
    weights = {name: random.uniform(0.5, 2, 3).astype(np.float32) for name in ("scale", "bias", "mean", "var")}
    model = network(
        [node("BatchNormalization", "x scale bias mean var", "y")],
        [tensor("x", "n", 3, 4, 4)], [tensor("y", "n", 3, 4, 4)], weights, opset,
    )  # fmt: skip
    report = verify(model, model)
    assert report.passed and report.float64_deviation == 0 and report.notes == ()
    assert not verify(model, nudged(model, "mean", 1e-4, 1)).passed


def test_evaluation_that_contradicts_onnxruntime_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float64, "_TRUSTED_BATCH_NORM", 0)  # lets onnx.reference normalize in its own wrong way
    ones = {name: np.full(3, value, np.float32) for name, value in (("s", 1), ("b", 0), ("m", 5), ("v", 4))}
    model = network(
        [node("BatchNormalization", "x s b m v", "n"), node("Conv", "n w", "y")], [tensor("x", 1, 3, 4, 4)],
        [tensor("y", 1, 1, 4, 4)], {**ones, "w": np.ones((1, 3, 1, 1), np.float32)}, opset=11,
    )  # fmt: skip
    report = verify(model, model)
    assert report.passed and report.float64_deviation is None
    assert "the result is not onnxruntime's" in report.notes[0]


def test_everything_becomes_float64() -> None:
    branch = helper.make_graph(
        [node("Constant", "", "inner", value_float=0.5), node("Add", "x inner", "out")],
        "branch", [], [tensor("out", 2)],
    )  # fmt: skip
    other = helper.make_graph(
        [node("ConstantOfShape", "shape", "inner2"), node("Add", "inner2 x", "out2")], "other", [], [tensor("out2", 2)]
    )
    model = network(
        [node("Constant", "", "k", value=numpy_helper.from_array(np.float32([1, 2]))),
         helper.make_node("If", ["c"], ["i"], name="node_i", then_branch=branch, else_branch=other),
         node("Cast", "n", "f", to=TensorProto.FLOAT), node("Add", "i f", "s"), node("Add", "s k", "y")],
        [tensor("x", 2), tensor("c", elem_type=TensorProto.BOOL), tensor("n", 2, elem_type=TensorProto.INT64)],
        [tensor("y", 2)], {"shape": np.array([2])},
    )  # fmt: skip
    wide = to_proto(widened(load(model), [TensorProto.FLOAT], TensorProto.DOUBLE))
    onnx.checker.check_model(wide, full_check=True)
    assert wide.graph.output[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    report = verify(model, model)
    assert report.passed and report.float64_deviation == 0


def test_cost_of_the_reference_is_estimated() -> None:
    weights = {"w": np.zeros((64, 64, 3, 3), np.float32)}
    conv = network(
        [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("MaxPool", "c", "y", kernel_shape=[2, 2])],
        [tensor("x", 1, 64, "h", "w")], [tensor("y", 1, 64, "a", "b")], weights,
    )  # fmt: skip
    small, large = (reference_seconds(conv, {"x": (1, 64, size, size)}) for size in (16, 160))
    assert 50 < large / small < 200  # a hundred times the pixels
    assert large > 1  # a thousand million multiplications alone take that
    nonzero = network(
        [node("NonZero", "x", "n"), node("Cast", "n", "f", to=1), node("Unsqueeze", "f axis", "u"),
         node("MaxPool", "u", "y", kernel_shape=[1])],
        [tensor("x", 4)], [tensor("y", 1, 1, "n")], {"axis": np.array([0])},
    )  # fmt: skip
    assert math.isinf(reference_seconds(nonzero, {"x": (4,)}))


def scaled_twice(stored: bool) -> onnx.ModelProto:
    """Return a network that scales by 1 / sqrt(6), which it stores, and again: by the root of 1 / 6, or as stored."""
    sixth, root = np.float32(1 / 6), np.sqrt(np.float32(1 / 6))
    nodes = [node("Mul", "x root", "a"), node("Mul", "a again", "y")]
    weights = {"root": root, "again": root} if stored else {"root": root, "sixth": sixth}
    first = [] if stored else [node("Sqrt", "sixth", "again")]
    return network([*first, *nodes], [tensor("x", "n", 4)], [tensor("y", "n", 4)], weights)


def test_a_fold_of_a_number_that_is_stored_elsewhere_is_rounded_as_others_are() -> None:
    computed, folded = scaled_twice(stored=False), scaled_twice(stored=True)
    report = verify(computed, folded)
    assert report.passed, report.reason
    assert report.float64_deviation is not None and report.float64_deviation > 1e-9
    assert not verify(computed, nudged(folded, "again", 1e-6)).passed


def test_a_part_of_what_is_stored_is_nothing_new() -> None:
    wide, narrow = perceptron(), perceptron()
    for tensor_ in narrow.graph.initializer:
        values = numpy_helper.to_array(tensor_)
        tensor_.CopyFrom(numpy_helper.from_array(values[: max(1, len(values) // 2)], tensor_.name))
    assert not float64.stores_new_values(load(wide), load(narrow))
    assert float64.stores_new_values(load(narrow), load(wide))
