"""What passes and what fails."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxsqueeze.errors import InvalidModelError, UsageError
from onnxsqueeze.verification import VerifyReport, verify
from tests.verification.networks import INT64, changed, network, node, nudged, perceptron, tensor


def folded() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a network with four constant hidden units, and the same with the units folded into the next bias."""
    wide = changed(perceptron(), "w1", lambda w: w * (np.arange(16) % 4 != 1))
    values = {stored.name: onnx.numpy_helper.to_array(stored).astype(np.float64) for stored in wide.graph.initializer}
    kept = np.arange(16) % 4 != 1
    constants = np.maximum(values["b1"][~kept], 0) @ values["w2"][~kept]
    narrow = wide
    for name, array in {
        "w1": values["w1"][:, kept],
        "b1": values["b1"][kept],
        "w2": values["w2"][kept],
        "b2": values["b2"] + constants,
    }.items():
        narrow = changed(narrow, name, array.astype(np.float32))
    return wide, narrow


def test_equal_models_pass() -> None:
    report = verify(perceptron(), perceptron())
    assert report.passed and report.reason == "" and report.first_deviating is None
    assert report.deviation == 0 and report.float64_deviation == 0
    assert report.runs == 12  # two sizes, two samples, optimizations off and on and float64


def test_removed_units_with_folded_constants_pass() -> None:
    report = verify(*folded())
    assert report.passed, report.reason
    assert 0 < report.deviation < 1e-6  # a few units in the last place of float32, 1.2e-7
    assert report.float64_deviation is not None
    assert 1e-9 < report.float64_deviation < 1e-7  # of folds, rounded once to float32: 6e-8


def test_pure_removal_is_held_to_float64() -> None:
    wide = changed(perceptron(), "w2", lambda w: w * (np.arange(16) < 10)[:, None])
    narrow = wide
    for name, axis in {"w1": 1, "b1": 0, "w2": 0}.items():
        narrow = changed(narrow, name, lambda array, axis=axis: np.take(array, range(10), axis))
    report = verify(wide, narrow)
    assert report.passed, report.reason
    assert report.float64_deviation is not None and report.float64_deviation < 1e-15  # of sums in another order
    assert report.outputs[0].float64_tolerance == 1e-9


@pytest.mark.parametrize(("name", "layer"), [("b1", "node_h1"), ("b2", "node_h2"), ("b3", "node_y")])
def test_a_wrong_bias_fails_and_names_its_layer(name: str, layer: str) -> None:
    wrong = np.argmax(onnx.numpy_helper.to_array(next(t for t in perceptron().graph.initializer if t.name == name)))
    report = verify(perceptron(), nudged(perceptron(), name, 1e-3, int(wrong)))
    assert not report.passed
    assert report.first_deviating == f"{layer} (Gemm)"
    assert "output 'y' is not the original's" in report.reason and layer in report.reason
    assert report.deviation > report.tolerance


def test_a_wrong_weight_in_a_dead_unit_passes() -> None:
    dead = changed(perceptron(), "w2", lambda w: w * (np.arange(16) != 3)[:, None])
    report = verify(dead, nudged(dead, "w1", 5.0, 0, 3))
    assert report.passed, report.reason


def test_a_fold_that_is_off_by_rounding_of_the_wrong_type_fails() -> None:
    wide, narrow = folded()
    rounded = changed(narrow, "b2", lambda b: b.astype(np.float16).astype(np.float32))
    assert not verify(wide, rounded).passed


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_deviation_is_relative_to_the_scale(scale: float) -> None:
    original = perceptron(scale=scale)
    assert not verify(original, nudged(original, "b3", 1e-3 * scale, 0)).passed
    report = verify(original, nudged(original, "b3", 1e-7 * scale, 0))
    assert report.passed, report.reason
    assert 0.1 < report.outputs[0].scale / scale < 100


@pytest.mark.parametrize(
    ("dtype", "passing", "failing"),
    [(np.float64, 1e-11, 1e-7), (np.float16, 1e-3, 1e-1), (ml_dtypes.bfloat16, 1e-2, 1.0)],
)
def test_other_precisions(dtype: type, passing: float, failing: float) -> None:
    original = perceptron(dtype=dtype)
    report = verify(original, original)
    assert report.passed and report.float64_deviation == 0
    assert not verify(original, nudged(original, "b3", failing * 10, 0)).passed
    report = verify(original, nudged(original, "b3", passing, 0))
    assert report.passed, report.reason


def test_bfloat16_is_said_to_be_computed_as_float32() -> None:
    notes = verify(perceptron(dtype=ml_dtypes.bfloat16), perceptron(dtype=ml_dtypes.bfloat16)).notes
    assert notes == ("bfloat16 was computed as float32, since onnxruntime lacks most of its kernels",)


def test_rtol_and_atol_override() -> None:
    original = perceptron()
    wrong = nudged(original, "b3", 1e-3, 0)
    assert not verify(original, wrong).passed
    assert verify(original, wrong, rtol=1e-2).passed
    assert verify(original, wrong, atol=2e-3).passed
    assert not verify(original, wrong, atol=2e-4).passed
    wide, narrow = folded()
    assert not verify(wide, narrow, rtol=0.0).passed


def test_nan_and_infinity_must_stand_at_equal_places() -> None:
    log = network([node("Mul", "x w", "s"), node("Log", "s", "y")], [tensor("x", 2, 3)], [tensor("y", 2, 3)])
    weights = {"w": np.array([1, 0, -1], np.float32)}
    log.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    assert verify(log, log).passed
    report = verify(log, changed(log, "w", np.array([1, 0, 1], np.float32)))
    assert not report.passed and "NaN or Inf at other places" in report.reason
    assert report.deviation == float("inf")
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["deviation"] is None


def test_outputs_without_a_number_are_no_evidence() -> None:
    nan = network([node("Acosh", "x", "y")], [tensor("x", 4)], [tensor("y", 4)])
    report = verify(nan, nan)
    assert not report.passed
    assert "'y' was NaN or Inf throughout" in report.reason and "--inputs" in report.reason
    assert verify(nan, nan, inputs={"x": np.full(4, 2, np.float32)}).passed


def test_inputs_are_positive_where_that_is_needed() -> None:
    square_root = network(
        [node("Neg", "x", "n"), node("Relu", "n", "r"), node("Neg", "r", "m"), node("Log", "m", "l"),
         node("Add", "x l", "z"), node("Sqrt", "x", "y")],
        [tensor("x", 1, 1)], [tensor("y", 1, 1)],
    )  # fmt: skip
    assert verify(square_root, square_root, samples=1, seed=2).passed


def classifier() -> onnx.ModelProto:
    model = perceptron()
    model.graph.node.append(node("ArgMax", "y", "label", axis=1, keepdims=0))
    model.graph.output.append(tensor("label", "batch", elem_type=INT64))
    return model


def test_integers_must_be_equal() -> None:
    assert verify(classifier(), classifier()).passed
    report = verify(classifier(), nudged(classifier(), "b3", 50.0, 0), rtol=100.0)
    assert not report.passed
    assert "output 'label' is not the original's" in report.reason and "which must be equal" in report.reason
    label = report.outputs[1]
    assert label.name == "label" and label.mismatches > 0 and label.tolerance == 0


def test_ties_are_no_difference_and_what_is_one_is_named() -> None:
    """Scores that tie may be ordered either way; where the scores differ, so does what is selected."""
    tied = network(
        [node("MatMul", "x w", "s"), node("ArgMax", "s", "y", axis=1, keepdims=0)],
        [tensor("x", 64, 8)], [tensor("y", 64, elem_type=INT64)],
        {"w": np.tile(np.random.default_rng(0).standard_normal((8, 1)), 2).astype(np.float32)},
    )  # fmt: skip
    report = verify(tied, nudged(tied, "w", 1e-6, 0, 1))
    assert report.passed and report.settled_in_float64 and 0 < report.outputs[0].mismatches <= 64
    report = verify(tied, nudged(tied, "w", 1e-3, 0, 1))
    assert not report.passed and report.first_deviating == "node_s (MatMul)"
    assert "float64 does not settle it" in report.reason and "--rtol" not in report.reason


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("name", "inputs ['x'] became ['renamed']"),
        ("dtype", "output 'y' was float[batch, 4], is double[batch, 4]"),
        ("shape", "input 'x' was float[batch, 8], is float[batch, 9]"),
        ("dim", "input 'x' was float[batch, 8], is float[n, 8]"),
        ("count", "outputs ['y'] became ['y', 'h1']"),
    ],
)
def test_another_signature_fails_before_anything_runs(field: str, reason: str) -> None:
    other = perceptron()
    if field == "name":
        other.graph.input[0].name = other.graph.node[0].input[0] = "renamed"
    elif field == "dtype":
        other.graph.node[-1].output[0] = "z"
        other.graph.node.append(node("Cast", "z", "y", to=TensorProto.DOUBLE))
        other.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    elif field == "shape":
        other = changed(other, "w1", lambda w: np.concatenate([w, w[:1]]))
        other.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 9
    elif field == "dim":
        other.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    else:
        other.graph.output.append(tensor("h1", "batch", 16))
    report = verify(perceptron(), other)
    assert not report.passed and report.runs == 0
    assert "the signature changed" in report.reason and reason in report.reason


def test_a_model_that_onnxruntime_refuses_cannot_be_verified() -> None:
    unknown = network([node("Relu", "x", "y", domain="some.where")], [tensor("x", 2)], [tensor("y", 2)])
    unknown.opset_import.append(helper.make_opsetid("some.where", 1))
    report = verify(unknown, unknown)
    assert not report.passed and report.runs == 0
    assert report.reason.startswith("cannot verify: onnxruntime refuses the original: ")
    assert "--no-verify" not in report.reason and "\n" not in report.reason  # `verify` has no such option


def test_a_minimized_model_that_does_not_load_or_run_fails() -> None:
    report = verify(perceptron(), changed(perceptron(), "w2", lambda w: w[:15]))
    assert not report.passed
    assert "onnxruntime refuses the minimized model" in report.reason or "but not the minimized" in report.reason


def test_an_invalid_minimized_model_fails() -> None:
    invalid = perceptron()
    invalid.graph.node[0].input[0] = "nowhere"
    report = verify(perceptron(), invalid)
    assert not report.passed and report.reason.startswith("the minimized model is invalid: ")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="missing.onnx"):
        verify(perceptron(), tmp_path / "missing.onnx")
    with pytest.raises(InvalidModelError, match="missing.onnx"):
        verify(tmp_path / "missing.onnx", perceptron())


def test_arguments_are_checked() -> None:
    for options in ({"samples": 0}, {"rtol": -1.0}, {"atol": float("nan")}, {"seed": -1}):
        with pytest.raises(UsageError, match=f"{next(iter(options)).rstrip('s')}.* at least"):
            verify(perceptron(), perceptron(), **options)  # type: ignore[arg-type]


def random_network(op: str) -> onnx.ModelProto:
    model = perceptron()
    del model.graph.node[-1:]
    if op == "Dropout":
        model.graph.node.append(node("Dropout", "r2 ratio training", "noisy"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.5, np.float32), "ratio"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "training"))
    else:
        model.graph.node.extend([node(op, "r2", "noise"), node("Add", "r2 noise", "noisy")])
    model.graph.node.append(node("Gemm", "noisy w3 b3", "y"))
    return model


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Dropout"])
def test_random_operators_draw_the_same_numbers(op: str) -> None:
    original = random_network(op)
    report = verify(original, original)
    assert report.passed and report.deviation == 0
    assert f"{op} got fixed seeds, so that both models draw the same numbers" in report.notes
    assert f"not evaluated in float64: {op} would draw other numbers" in report.notes
    assert not verify(original, nudged(original, "b3", 1e-2, 0)).passed
    assert not any(attribute.name == "seed" for item in original.graph.node for attribute in item.attribute)


def test_a_random_operator_may_follow_removed_nodes() -> None:
    original = random_network("RandomNormalLike")
    original.graph.node.insert(0, node("Identity", "x", "unused"))
    assert verify(original, random_network("RandomNormalLike")).passed


def test_models_stay_as_they_are_and_paths_do_too(tmp_path: Path) -> None:
    original = perceptron()
    before = original.SerializeToString(deterministic=True)
    onnx.save(original, tmp_path / "a.onnx")
    report = verify(original, tmp_path / "a.onnx")
    assert report.passed and isinstance(report, VerifyReport)
    assert original.SerializeToString(deterministic=True) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_external_data(tmp_path: Path) -> None:
    onnx.save(perceptron(), tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    assert verify(tmp_path / "a.onnx", perceptron()).passed
    report = verify(tmp_path / "a.onnx", nudged(perceptron(), "b2", 10.0, 0))
    assert report.first_deviating == "node_h2 (Gemm)"


def test_a_model_too_large_for_one_message_goes_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxsqueeze.model.loading import load

    monkeypatch.setattr("onnxsqueeze.verification.sessions.MAX_PROTO_BYTES", 100)
    assert verify(perceptron(), perceptron()).passed
    assert verify(load(perceptron()), load(perceptron())).passed


def test_progress_is_told() -> None:
    told: list[tuple[str, float]] = []
    verify(perceptron(), perceptron(), progress=lambda step, fraction: told.append((step, fraction)))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert all(step for step, _ in told)
