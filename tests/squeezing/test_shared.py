"""A weight that several layers share is repaired for all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

import onnxsqueeze
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.gathering import gathered
from onnxsqueeze.squeezing.least_squares import solved
from onnxsqueeze.squeezing.readers import readers_of, with_biases
from onnxsqueeze.squeezing.running import Runner, outputs_of
from onnxsqueeze.squeezing.samples import Part
from onnxsqueeze.units.discovery import units_of
from tests.squeezing.networks import dependent, model

X = np.random.default_rng(7).uniform(-1, 1, size=(400, 8)).astype(np.float32)
PART = Part({"x": X}, np.arange(400), {}, 100)


def twins(shared: bool = True, bias: bool = True) -> ModelProto:
    """Return two hidden layers of one weight, ten of whose units are sums of others, read by layers of one weight."""
    found = dependent(np.random.default_rng(0))
    weights = {each.name: numpy_helper.to_array(each) for each in found.graph.initializer}
    weights["other"] = weights["b2"] + 1
    second = ["w2", "b2"] if bias else ["w2"]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Gemm", ["n", "w1", "b1"], ["g"]),
        helper.make_node("Relu", ["g"], ["s"]),
        helper.make_node("Gemm", ["r", *second], ["u"]),
        helper.make_node("Gemm", ["s", *(second if shared else ["w2", "other"])], ["v"]),
        helper.make_node("Tanh", ["u"], ["t"]),
        helper.make_node("Concat", ["t", "v"], ["y"], axis=1),
    ]
    used = {name for node in nodes for name in node.input}
    return model(nodes, {n: w for n, w in weights.items() if n in used}, ["batch", 8], ["batch", 10])


def chain() -> ModelProto:
    """Return a layer whose weight is applied to what it gives; its last four units are copies of the first."""
    random = np.random.default_rng(0)
    true, copies = 6, 4
    same = np.concatenate([np.arange(true), np.arange(copies)])
    split = 1 / np.bincount(same)[same]
    weights = {
        "w1": random.normal(size=(8, true))[:, same],
        "w": (random.normal(size=(true, true)) / 3)[same][:, same] * split[:, None],
        "b": random.normal(size=true)[same],
        "w2": random.normal(size=(true + copies, 3)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Tanh", ["a"], ["h0"]),
        helper.make_node("Gemm", ["h0", "w", "b"], ["b1"]),
        helper.make_node("Tanh", ["b1"], ["h1"]),
        helper.make_node("Gemm", ["h1", "w", "b"], ["b2"]),
        helper.make_node("Tanh", ["b2"], ["h2"]),
        helper.make_node("MatMul", ["h2", "w2"], ["y"]),
    ]
    return model(nodes, weights, ["batch", 8], ["batch", 3])


@pytest.mark.parametrize("bias", [True, False])
def test_one_matrix_is_the_best_for_all_that_share_it(bias: bool) -> None:
    source = with_biases(load(twins(bias=bias)))
    readers = {reader.name: reader for reader in readers_of(source, units_of(source))}
    assert readers["u"].tensors == ("r", "s") and "v" not in readers
    (problem,) = gathered(source, [readers["u"]], PART, 0)["u"].joined()
    kept = np.array([1, 2, 5])
    weight, shift = solved(problem, kept, 1e-13)
    found = list(Runner(source, ["r", "s", "u", "v"]).run(PART))
    rows = np.concatenate([np.concatenate([batch[name] for batch in found]) for name in ("r", "s")])
    wanted = np.concatenate([np.concatenate([batch[name] for batch in found]) for name in ("u", "v")])
    columns = np.column_stack([rows[:, kept], np.ones(len(rows))]).astype(np.float64)
    best = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    np.testing.assert_allclose(weight[:, kept], best[:3].T, atol=1e-4)
    assert shift is not None
    np.testing.assert_allclose(shift, best[3], atol=1e-4)


def test_where_biases_differ_the_matrix_alone_is_repaired() -> None:
    source = load(twins(shared=False))
    (reader,) = [reader for reader in readers_of(source, units_of(source)) if reader.name == "u"]
    assert reader.bias({name: each.array for name, each in source.initializers.items()}) is None


@pytest.mark.parametrize(
    ("source", "name", "ratio"), [(twins(), "h", 2.4), (chain(), "a", 2.0)], ids=["twins", "chain"]
)
def test_units_of_shared_layers_that_others_can_stand_for_go(source: ModelProto, name: str, ratio: float) -> None:
    found = onnxsqueeze.squeeze(source, {"x": X}, ratio=ratio, metric="deviation", round_to=1, only=[name])
    assert [taken.after for taken in found.report.chosen.taken] == [6]
    before, now = outputs_of(load(source), PART)[0], outputs_of(found.minimized, PART)[0]
    assert np.abs(before - now).max() < 1e-3 * np.abs(before).max()
