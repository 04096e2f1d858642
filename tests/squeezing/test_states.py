"""A detector with a state: [layers, batch, units] beside samples that come first, and one probability."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze
from onnxsqueeze import UsageError
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.metrics import judge
from onnxsqueeze.squeezing.points import Maker
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import read

UNITS, HIDDEN, COUNT = 6, 24, 300


def detector() -> onnx.ModelProto:
    """Return a network that reads a sample and a state of two layers; a state leaves first, then a probability."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.normal(size=(8, 4)) @ random.normal(size=(4, HIDDEN)),
        "w2": random.normal(size=(HIDDEN, 1)),
        "first": np.array(0),
        "half": np.array(0.5),
    }
    arrays = [numpy_helper.from_array(w.astype(np.float32 if w.ndim else w.dtype), n) for n, w in weights.items()]
    arrays[-1] = numpy_helper.from_array(np.float32(0.5), "half")
    nodes = [
        helper.make_node("Mul", ["state", "half"], ["next"]),
        helper.make_node("Gather", ["state", "first"], ["own"], axis=0),
        helper.make_node("Concat", ["x", "own"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["said"]),
    ]
    shapes = {"x": ["batch", 2], "state": [2, "batch", UNITS], "next": [2, "batch", UNITS], "said": ["batch", 1]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(nodes, "g", [values["x"], values["state"]], [values["next"], values["said"]], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


MODEL = detector()
RANDOM = np.random.default_rng(1)
DATA = {
    "x": RANDOM.normal(size=(COUNT, 2)).astype(np.float32),
    "state": RANDOM.normal(size=(COUNT, 2, UNITS)).astype(np.float32),
}


def test_each_sample_is_fed_its_own_state() -> None:
    given = read(DATA, load(MODEL)).calibration
    feeds = next(given.batches())
    rows = given.rows[: given.batch]
    np.testing.assert_array_equal(feeds["x"], DATA["x"][rows])
    np.testing.assert_array_equal(feeds["state"], DATA["state"][rows].transpose(1, 0, 2))
    assert given.sizes(MODEL.graph.input) == {"batch": COUNT}
    states, said = outputs_of(load(MODEL), given)
    assert states.shape == (2, len(given), UNITS) and said.shape == (len(given), 1)


def test_states_of_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match="'state' has the shape"):
        read({**DATA, "state": DATA["state"][:, :1]}, load(MODEL))


def test_decisions_are_squeezed_and_timed_one_by_one() -> None:
    found = onnxsqueeze.squeeze(MODEL, DATA, ratio=1.5, judge_by="said").report
    assert found.metric == "agreement of decisions at 0.5" and found.chosen.metric > 0.9
    given = read(DATA, load(MODEL))
    judged = judge(outputs_of(load(MODEL), given.held_out), position=1)
    assert Maker(load(MODEL), judged, given.held_out, 1.0, {})._single() == 1


def test_the_output_that_is_judged_has_a_name() -> None:
    with pytest.raises(UsageError, match="--judge-by no: the model has no such output; it has 'next', 'said'"):
        onnxsqueeze.squeeze(MODEL, DATA, ratio=1.5, judge_by="no")
    assert onnxsqueeze.squeeze(MODEL, DATA, ratio=1.2).report.metric != "agreement of decisions at 0.5"


@pytest.mark.parametrize(
    ("values", "name"),
    [([0.01, 0.99, 0.02], "binary"), ([0.01, 0.02, 0.03], "deviation"), ([0.4, 0.6, 0.5], "deviation")],
)
def test_a_probability_that_decides_is_told_from_a_number(values: list[float], name: str) -> None:
    outputs = [np.array(values, np.float32)[:, None]]
    found = judge(outputs)
    assert found.metric.name == name
    if name == "binary":
        other = [np.array([[0.6], [0.99], [0.02]], np.float32)]
        assert found.value(outputs, other, None) == pytest.approx(2 / 3)
        assert found.error(outputs, outputs) == 0 < found.error(outputs, other)
