"""What float64 settles, and what it does not."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxsqueeze as sq
from onnxsqueeze.model.loading import load
from onnxsqueeze.verification import verify
from onnxsqueeze.verification.pieces import Pieces
from tests.verification.networks import INT64, changed, network, node, nudged, tensor

WIDTH, UNITS = 32, 64


def head(
    *nodes: onnx.NodeProto, seed: int = 0, bias: float = 0.0, classes: int = 1, **more: np.ndarray
) -> onnx.ModelProto:
    """Return a network of which half of the units are constant, with nodes from the scores "l" behind it."""
    random = np.random.default_rng(seed)
    w1, b1 = random.standard_normal((WIDTH, UNITS)) / 6, random.standard_normal(UNITS)
    w1[:, : UNITS // 2] = 0
    w2, b2 = random.standard_normal((UNITS, classes)) / 8, np.full(classes, bias)
    arrays = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    typed = {name: array.astype(np.float32) for name, array in arrays.items()}
    layers = [node("Gemm", "x w1 b1", "a"), node("Relu", "a", "q"), node("Gemm", "q w2 b2", "l")]
    outputs = {name for each in nodes for name in each.output} - {name for each in nodes for name in each.input}
    shapes = [
        tensor(name, "N", None, elem_type=INT64 if name == "i" else TensorProto.FLOAT) for name in sorted(outputs)
    ]
    return network([*layers, *nodes], [tensor("x", "N", WIDTH)], shapes, {**typed, **more})


def minimized(model: onnx.ModelProto) -> onnx.ModelProto:
    return sq.minimize(model, round_to=1, verify=False).model


def bias_of(model: onnx.ModelProto) -> str:
    """Return the name of the bias of the last layer."""
    return str(next(each for each in model.graph.node if each.output[0] == "l").input[2])


@pytest.mark.parametrize("bias", [-6, -10, -12, -14, -16])
def test_saturated_probabilities(bias: float) -> None:
    """onnxruntime's Sigmoid rounds at 1, which is much for a probability of a millionth."""
    refused = 0
    for seed in range(3):
        model = head(node("Sigmoid", "l", "p"), seed=seed, bias=bias)
        small = minimized(model)
        report = verify(model, small)
        assert report.passed, report.reason
        refused += not verify(model, nudged(small, bias_of(small), 1e-3, 0)).passed
    assert refused == 3


def tied(classes: int = 40) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a network that ends in TopK over scores of which each stands there twice, and its minimized form."""
    model = head(node("TopK", "l k", "v i", axis=1), classes=classes, k=np.array([7]))
    model = changed(model, "w2", lambda w: np.concatenate([w[:, : classes // 2]] * 2, axis=1))
    return model, minimized(model)


def test_ties_in_top_k() -> None:
    """One of two equal scores is selected, or the other: rounding decides."""
    model, small = tied()
    other = changed(small, [each for each in small.graph.node if each.output[0] == "l"][0].input[1], _last_bit)
    report = verify(model, other)
    assert report.passed, report.reason
    assert report.settled_in_float64 and any("given what each run selected" in note for note in report.notes)
    wrong = verify(model, nudged(other, bias_of(other), 1e-3, 3))
    assert not wrong.passed and "--rtol" not in wrong.reason


def _last_bit(weight: np.ndarray) -> np.ndarray:
    """Move half of a weight by a unit in its last place, and of any two equal columns one."""
    moved = np.nextafter(weight, np.float32(np.inf))
    half = weight.shape[1] // 2
    weight[:, half:] = moved[:, half:]
    return weight


def test_another_selection_than_the_scores_say_is_refused() -> None:
    model, small = tied()
    reversed_ = onnx.ModelProto()
    reversed_.CopyFrom(small)
    top = next(each for each in reversed_.graph.node if each.op_type == "TopK")
    top.attribute.append(onnx.helper.make_attribute("largest", 0))
    report = verify(model, reversed_)
    assert not report.passed and "selects what rounding of its scores does not explain" in report.reason


def normalized_constant(size: int = 100) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return an InstanceNormalization of a channel that is constant, and the same with its exact outcome, the bias."""
    arrays = {"s": np.ones(1, np.float32), "b": np.full(1, 0.25, np.float32), "value": np.float32(1000.1)}
    ends = [tensor("x", 1, 1, size, size)], [tensor("y", 1, 1, size, size)]
    zero = np.float32(0)
    wide = network(
        [node("Mul", "x zero", "z"), node("Add", "z value", "c"), node("InstanceNormalization", "c s b", "y")],
        *ends, {**arrays, "zero": zero},
    )  # fmt: skip
    exact = network([node("Mul", "x zero", "z"), node("Add", "z b", "y")], *ends, {"b": arrays["b"], "zero": zero})
    return wide, exact


def test_normalized_constants() -> None:
    """The mean of equal numbers is not that number in float32, and the variance next to nothing."""
    wide, exact = normalized_constant()
    report = verify(wide, exact)
    assert report.passed, report.reason
    assert report.deviation > 1e-3
    assert not verify(wide, nudged(exact, "b", 1e-3, 0)).passed


def test_a_tolerance_of_the_users_counts() -> None:
    wide, exact = normalized_constant()
    assert not verify(wide, exact, rtol=1e-6).passed


def test_what_an_error_advises_helps() -> None:
    """An option that is named in an error makes the same comparison pass."""
    wide, exact = normalized_constant()
    report = verify(wide, nudged(exact, "b", 1e-2, 0))
    assert not report.passed
    if "--rtol" in report.reason:
        advised = float(report.reason.split("--rtol ")[1].split()[0].rstrip(";,"))
        assert verify(wide, nudged(exact, "b", 1e-2, 0), rtol=advised).passed


def test_no_more_is_in_memory_than_a_node_needs() -> None:
    """A chain of many large tensors, evaluated in float64: a few of them at a time, however long it is."""
    length, size = 24, 500_000
    nodes = [node("Mul", f"t{index} w", f"t{index + 1}") for index in range(length)]
    names = [f"t{length}", f"t{length}"]
    model = network([*nodes, node("Add", " ".join(names), "y")], [tensor("t0", size)], [tensor("y", size)])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full(size, 0.9, np.float32), "w"))
    pieces = Pieces(load(model), 60.0)
    feeds = {"t0": np.ones(size, np.float32)}
    tracemalloc.start()
    try:
        found = pieces.run(feeds)["y"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(found, 2 * np.float64(np.float32(0.9)) ** length)
    assert peak < 8 * found.nbytes


def test_what_was_learned_is_not_evaluated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model is evaluated three times for a case: the original, the original judging, the minimized one."""
    evaluated = []
    steps = Pieces.steps
    monkeypatch.setenv("ONNXSQUEEZE_IN_PROCESS", "1")
    monkeypatch.setattr(Pieces, "steps", lambda self, feeds: evaluated.append(self) or steps(self, feeds))
    model, small = tied()
    other = changed(small, [each for each in small.graph.node if each.output[0] == "l"][0].input[1], _last_bit)
    report = verify(model, other, samples=1, dims={"N": 2})
    assert report.passed and report.settled_in_float64
    assert len(evaluated) == 2 + 2 * 2  # both ways of running: what rounding does, and then both models
