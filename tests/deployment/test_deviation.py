"""Deviations and accuracies, on outputs made up for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxsqueeze.deployment.deployment as deployment_module
from onnxsqueeze import deployment
from onnxsqueeze.deployment.deviation import Deviation, IncomparableError, accuracy, deviation, judged
from onnxsqueeze.verification.report import VerificationError
from tests.deployment.networks import classifier, saved


def test_each_output_is_judged_at_its_own_scale_over_all_runs() -> None:
    expected = [
        {"a": np.array([1.0, -4.0]), "b": np.array([100.0])},
        {"a": np.array([0.5, 0.5]), "b": np.array([10.0])},
    ]
    actual = [{"a": np.array([1.0, -4.0]), "b": np.array([100.0])}, {"a": np.array([0.5, 0.7]), "b": np.array([12.0])}]
    found = deviation("model.onnx", "a runtime", "inputs", expected, actual)
    assert found.outputs == {"a": pytest.approx(0.05), "b": pytest.approx(0.02)}
    assert found.relative == max(found.outputs.values())
    assert (found.runs, found.mismatches) == (2, 0)


def test_integers_are_counted() -> None:
    found = deviation("f", "r", "i", [{"best": np.array([1, 2, 3])}], [{"best": np.array([1, 3, 4])}])
    assert found.mismatches == 2


def test_an_output_of_zeros_has_no_scale() -> None:
    assert deviation("f", "r", "i", [{"y": np.zeros(2)}], [{"y": np.array([0, 0.25])}]).relative == 0.25


@pytest.mark.parametrize(
    ("actual", "reason"),
    [
        ({}, "it has no output 'y'"),
        ({"y": np.zeros((2, 1))}, "of its output 'y' its shape is [2, 1] instead of [2]"),
        ({"y": np.array([0.0, np.nan])}, "of its output 'y' it has NaN or Inf at other places"),
    ],
)
def test_what_cannot_be_compared(actual: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(IncomparableError) as error:
        deviation("f", "r", "i", [{"y": np.zeros(2)}], [actual])
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("output", "labels", "right"),
    [
        (np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]), 0.5),  # [batch, classes]
        (np.moveaxis(np.eye(3)[np.array([[0, 1], [2, 2]])], -1, 1), np.array([[0, 1], [2, 0]]), 0.75),  # classes second
        (np.eye(3)[np.array([[0, 1], [2, 2]])], np.array([[0, 1], [2, 0]]), 0.75),  # classes last
        (np.array([[[5, 0], [7, 8]]] * 2), np.array([[1, 1]] * 2), 1.0),  # classes second, where last would do as well
        (np.array([0.1, 0.9]), np.array(1), 1.0),  # without a batch
        (np.array([1, 0, 2]), np.array([1, 0, 0]), 2 / 3),  # classes themselves
    ],
)
def test_accuracy(output: np.ndarray, labels: np.ndarray, right: float) -> None:
    found = accuracy([labels], [{"other": np.zeros((9, 9, 9, 9)), "y": output}], [{"y": output, "other": output}])
    assert found is not None
    assert (found.output, found.labels, found.before) == ("y", labels.size, right)


def test_accuracy_after() -> None:
    before, after = np.eye(4)[[0, 1, 2, 3]], np.eye(4)[[0, 1, 2, 0]]
    found = accuracy([np.arange(4)], [{"y": before}], [{"y": after}])
    assert found is not None
    assert (found.before, found.after) == (1.0, 0.75)


def test_no_output_fits() -> None:
    assert accuracy([np.zeros((2, 7), np.int64)], [{"y": np.zeros((2, 3))}], [{"y": np.zeros((2, 3))}]) is None


def apart(by: float, mismatches: int = 0) -> Deviation:
    """Return a deviation of one output by some part of its scale."""
    return Deviation("f", "r", "i", 1, by, {"y": by}, mismatches)


@pytest.mark.parametrize(
    ("found", "rounding", "excess"),
    [
        (apart(5e-4), None, ""),
        (apart(2e-2), None, "it deviates by 0.02 of an output's scale (allowed 0.001)"),
        (apart(2e-2), apart(1e-5), "it deviates by 0.02 of an output's scale (allowed 0.001)"),
        (apart(2e-2), apart(1e-2), ""),
        (apart(5e-2), apart(1e-2), "it deviates by 0.05 of an output's scale (allowed 0.04)"),
        (apart(0.5), apart(0.5), "it deviates by 0.5 of an output's scale (allowed 0.1)"),
        (apart(0.0, 3), None, "3 of the integers that it gives differ"),
        (apart(0.0, 3), apart(0.0), "3 of the integers that it gives differ"),
        (apart(0.0, 3), apart(0.0, 1), ""),
    ],
)
def test_the_source_is_its_own_yardstick(found: Deviation, rounding: Deviation | None, excess: str) -> None:
    assert judged(found, rounding, 1e-3)[1] == excess


def test_a_deployment_is_held_to_what_the_source_does_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were nothing plausible at all, its own runs with and without optimizations would still be no less right."""
    monkeypatch.setattr(deployment_module, "largest_plausible", lambda types: 1e-12)
    source = saved(classifier(), tmp_path / "net.onnx")
    manifest = deployment.deploy(source, "ort", tmp_path / "out", deployment.Options())
    assert manifest.deviations[-1].relative > 1e-12
    assert "does from itself with graph optimizations on" in manifest.notes[-1]
    monkeypatch.setattr(deployment_module._Deployment, "_rounding", lambda self, runs: None)
    with pytest.raises(VerificationError, match="does not compute what"):
        deployment.deploy(source, "ort", tmp_path / "other", deployment.Options())
