"""From samples to repaired weights: for each operator that is repaired, what numpy's own solver finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.gathering import gathered
from onnxsqueeze.squeezing.least_squares import solved
from onnxsqueeze.squeezing.readers import readers_of
from onnxsqueeze.squeezing.running import Runner, outputs_of
from onnxsqueeze.squeezing.samples import Part
from onnxsqueeze.units.discovery import units_of
from tests.squeezing.networks import model


def convolution(**attributes: object) -> onnx.ModelProto:
    """Return two convolutions, the second with a bias and three channels that read some of eight."""
    random = np.random.default_rng(0)
    group = int(attributes.get("group", 1))  # type: ignore[call-overload]
    weights = {
        "k1": random.normal(size=(8, 2, 1, 1)), "b1": random.uniform(0.5, 1.5, size=8),
        "k2": random.normal(size=(4, 8 // group, 2, 2)), "b2": random.normal(size=4),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "k2", "b2"], ["y"], **attributes),
    ]
    return model(nodes, weights, ["n", 2, 5, 5], ["n", 4, "a", "b"])


def product(op: str) -> onnx.ModelProto:
    """Return a layer behind a ReLU: a Gemm with factors, or a MatMul with a bias of its own."""
    random = np.random.default_rng(1)
    weights = {"w1": random.normal(size=(50, 8)), "w2": random.normal(size=(8, 4)), "b2": random.normal(size=4)}
    last = [helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], alpha=0.5, beta=2.0)]
    if op == "MatMul":
        last = [helper.make_node("MatMul", ["r", "w2"], ["m"]), helper.make_node("Add", ["m", "b2"], ["y"])]
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        *last,
    ]
    return model(nodes, weights, ["n", 2, 5, 5], ["n", 4])


def patches(r: np.ndarray, group: int, strides: int) -> np.ndarray:
    """Return all windows of 2 x 2, [group, windows, channels * taps], by hand."""
    found = []
    for row in range(0, 4, strides):
        for column in range(0, 4, strides):
            found.append(r[:, :, row : row + 2, column : column + 2].reshape(len(r), group, -1))
    return np.concatenate(found).transpose(1, 0, 2)


CASES = {
    "Conv": (convolution(), 1, 1),
    "Conv, strides": (convolution(strides=[2, 2]), 1, 2),
    "Conv, groups": (convolution(group=2), 2, 1),
    "Gemm": (product("Gemm"), 0, 0),
    "MatMul": (product("MatMul"), 0, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_repair_is_least_squares_over_the_samples(name: str) -> None:
    """Half of the channels leave; the outputs are those of the original, run by onnxruntime."""
    source, group, strides = CASES[name]
    dense = load(source)
    x = np.random.default_rng(2).normal(size=(300, 2, 5, 5)).astype(np.float32)
    part = Part({"x": x}, np.arange(300), {}, 60)
    reader = next(
        each for each in readers_of(dense, units_of(dense)) if each.name in ("y", "m") and each.tensors == ("r",)
    )
    problems = gathered(dense, [reader], part, 0)[reader.name].joined()
    (y,) = outputs_of(dense, part)
    r = np.concatenate([found["r"] for found in Runner(dense, ["r"]).run(part)])
    rows = patches(r, group, strides) if group else r[None]
    wanted = y if y.ndim == 2 else y.transpose(2, 3, 0, 1).reshape(-1, 4)
    taps = 4 if group else 1
    kept = np.arange(rows.shape[2]).reshape(-1, taps)[::2].ravel()
    for place, problem in enumerate(problems):
        own = wanted.reshape(len(wanted), len(problems), -1)[:, place]
        weight, bias = solved(problem, kept, 1e-14)
        read = np.column_stack([rows[place][:, kept], np.ones(rows.shape[1])])
        best = np.linalg.lstsq(read.astype(np.float64), own, rcond=None)[0]
        assert bias is not None
        np.testing.assert_allclose(weight[:, kept], best[:-1].T, atol=2e-4)
        np.testing.assert_allclose(bias, best[-1], atol=2e-4)
