"""Networks become small, and what must hold of them does."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import onnxsqueeze
from onnxsqueeze import UsageError
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.points import without_idle_biases
from onnxsqueeze.squeezing.readers import with_biases
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part
from tests.squeezing.networks import convolutions, dependent
from tests.squeezing.networks import model as small_model


def vectors(count: int = 400, width: int = 8) -> np.ndarray:
    return np.random.default_rng(7).uniform(-1, 1, size=(count, width)).astype(np.float32)


def images(count: int = 200) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, 2, 8, 8)).astype(np.float32)


def outputs(source: object, x: np.ndarray) -> np.ndarray:
    return outputs_of(load(source), Part({"x": x}, np.arange(len(x)), {}, 64))[0]


def test_dependent_units_go_and_nothing_changes() -> None:
    """Sixteen hidden units of which ten are sums of two others: six are left, and only rounding is lost."""
    network = dependent(np.random.default_rng(0))
    found = onnxsqueeze.squeeze(
        network, {"x": vectors()}, ratio=2.4, metric="deviation", only=["h"], progress=lambda *step: None
    )
    (taken,) = found.report.chosen.taken
    assert (taken.before, taken.after) == (16, 6)
    x = vectors(50)
    before, after = outputs(network, x), outputs(found.model, x)
    assert np.abs(before - after).max() < 2e-5 * np.abs(before).max()
    assert found.report.reached and found.report.chosen.ratio > 2.4


@pytest.mark.parametrize(("auto_pad", "group"), [("", 1), ("SAME_UPPER", 1), ("", 2)])
def test_convolutions_with_a_norm_and_a_residual_sum(auto_pad: str, group: int) -> None:
    network = convolutions(np.random.default_rng(1), auto_pad, group)
    found = onnxsqueeze.squeeze(network, {"x": images()}, ratio=1.3, metric="deviation")
    assert found.report.chosen.ratio >= 1.3
    assert 0 < found.report.chosen.metric < 1
    assert outputs(found.model, images(4)).shape == (4, 3, 4, 4)


def test_the_same_seed_gives_the_same_model() -> None:
    network = convolutions(np.random.default_rng(2))
    one, other = (onnxsqueeze.squeeze(network, {"x": images()}, ratio=1.5, seed=3).model for _ in range(2))
    assert one == other


def test_the_source_is_not_changed_and_idle_biases_go_again() -> None:
    network = load(convolutions(np.random.default_rng(2)))
    added = with_biases(network)
    assert len(added.initializers) == len(network.initializers) + 2
    assert without_idle_biases(added, network).skeleton == network.skeleton


def test_a_goal_that_cannot_be_reached_says_so_and_gives_the_best() -> None:
    network = dependent(np.random.default_rng(0))
    found = onnxsqueeze.squeeze(network, {"x": vectors()}, ratio=40, max_drop=1.0, metric="deviation")
    assert not found.report.reached and "40" in found.report.why
    assert found.report.chosen.drop <= 1.0 and found.report.chosen.ratio > 1.5


def test_what_is_kept_stays() -> None:
    network = dependent(np.random.default_rng(0))
    found = onnxsqueeze.squeeze(network, {"x": vectors()}, ratio=1.2, metric="deviation", keep=["h"])
    assert "h" not in {taken.name for taken in found.report.chosen.taken}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "give a goal"),
        ({"ratio": 0.5}, "above 1"),
        ({"ratio": 2, "macs": 2}, "give one size"),
        ({"latency": 2}, "between 0 and 1"),
        ({"max_drop": -1}, "percentage points"),
        ({"ratio": 2, "metric": "bleu"}, "--metric bleu"),
        ({"ratio": 2, "keep": ["nothing"]}, "--keep nothing"),
        ({"ratio": 2, "only": ["nothing"]}, "--only nothing"),
        ({"ratio": 2, "labels": "classes"}, "--labels classes"),
    ],
)
def test_what_cannot_be_followed(asked: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        onnxsqueeze.squeeze(dependent(np.random.default_rng(0)), {"x": vectors()}, **asked)


def test_copies_of_channels_that_a_transposed_convolution_reads() -> None:
    """Four of eight channels are sums of two others: its taps take them over, and only rounding is lost."""
    random = np.random.default_rng(4)
    first = random.normal(size=(4, 2, 3, 3)) * 0.05
    mixed = np.stack([first[i] + first[(i + 1) % 4] for i in range(4)])
    weights = {
        "k1": np.concatenate([first, mixed]),
        "b1": np.concatenate([np.full(4, 5.0), np.full(4, 10.0)]),  # positive for all inputs: ReLU is linear there
        "k2": random.normal(size=(8, 3, 2, 2)) * 0.2,
    }
    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("ConvTranspose", ["r", "k2"], ["y"], strides=[2, 2]),
    ]
    network = small_model(nodes, weights, ["batch", 2, 8, 8], ["batch", 3, 16, 16])
    found = onnxsqueeze.squeeze(network, {"x": images()}, ratio=1.9, metric="deviation", only=["h"], round_to=1)
    assert [(each.before, each.after) for each in found.report.chosen.taken] == [(8, 4)]
    before, after = outputs(network, images(10)), outputs(found.model, images(10))
    assert np.abs(before - after).max() < 2e-4 * np.abs(before).max()
