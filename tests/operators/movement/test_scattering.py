"""Planted channels in data that is written over at some places, and in what is written."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.builders import Both, Pair, Tensor
from tests.support.planted.checks import (
    SINGLE,
    assert_equal_outputs,
    assert_recovers,
    deviation,
    minimize,
    run,
    weights,
)
from tests.support.planted.layers import Twin

REDUCTIONS = ("none", "add", "mul", "max", "min")


def tokens(twin: Twin, const: int = 0) -> tuple[Tensor, Tensor]:
    """Return data [6, C] and updates [4, C], whose channels are removable at the same places."""
    units = twin.units(live=5, dead=3, zero=3, const=const)
    data = twin.relu(twin.gemm(twin.input(6, 7), units))
    return data, twin.relu(twin.gemm(twin.input(4, 7), units))


def finished(twin: Twin, x: Tensor) -> Pair:
    return twin.pair(twin.gemm(x, twin.units(live=2)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_written_by_scatter_nd(reduction: str) -> None:
    twin = Twin(seed=1, opset=18)
    data, updates = tokens(twin)
    places = twin.parameter([[0], [3], [-1], [2]], np.int64)
    x = twin.op("ScatterND", data, places, updates, reduction=reduction)
    pair = finished(twin, x)
    if reduction == "mul":  # what is multiplied by zeros is not known to be one: it may be infinite
        assert_equal_outputs(pair.wide, minimize(pair.wide).model)
    else:
        assert_recovers(pair)


@pytest.mark.parametrize("constant", ["data", "updates"])
def test_constant_operands_are_sliced(constant: str) -> None:
    twin = Twin(seed=2, opset=18)
    rows, others = (6, 4) if constant == "data" else (4, 6)
    computed = twin.relu(twin.gemm(twin.input(others, 7), twin.units(live=5, dead=3, zero=3)))
    values = twin.random.normal(size=(rows, 11)) * np.isin(computed.kinds, ("live", "dead"))
    stored = twin.parameter(Both(values, values[:, computed.kept]))
    places = twin.parameter([[0], [3], [-1], [2]], np.int64)
    operands = (stored, places, computed) if constant == "data" else (computed, places, stored)
    assert_recovers(finished(twin, twin.op("ScatterND", *operands)))


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_elements_written_along_the_tokens(reduction: str) -> None:
    """Each channel has places of its own, which are sliced with it."""
    twin = Twin(seed=3, opset=18)
    data, updates = tokens(twin)
    places = twin.random.integers(0, 6, (4, len(data.kinds)))
    if reduction == "none":
        places = np.stack([twin.random.permutation(6)[:4] for _ in data.kinds], axis=1)
    stored = twin.parameter(Both(places, places[:, data.kept]), np.int64)
    assert_recovers(finished(twin, twin.op("ScatterElements", data, stored, updates, axis=0, reduction=reduction)))


TEXT = """<ir_version: 9, opset_import: ["": 18]> scattered
    (float[n,6,7] x, float[4,7] u, int64[4,1] at) => (float[n,6,2] y) {
    a = MatMul(x, wa)
    data = Add(a, b)
    updates = MatMul(u, wu)
    t = Transpose <perm = [1, 0, 2]> (data)
    v = Unsqueeze(updates, one)
    ones = Shape <start = 0, end = 1> (x)
    both = Concat <axis = 0> (four, ones, nine)
    w = Expand(v, both)
    s = ScatterND(t, at, w)
    y0 = MatMul(s, w2)
    y = Transpose <perm = [1, 0, 2]> (y0)
}"""


def network(**changes: np.ndarray) -> ModelProto:
    model, random = parser.parse_model(TEXT), np.random.default_rng(0)
    arrays = {"wa": random.normal(size=(7, 9)), "b": random.normal(size=9), "wu": random.normal(size=(7, 9))}
    arrays |= {"w2": random.normal(size=(9, 2))}
    integers = {"one": np.array([1]), "four": np.array([4]), "nine": np.array([9])}
    for name, array in {**{k: v.astype(np.float32) for k, v in (arrays | changes).items()}, **integers}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def feeds() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "x": random.normal(size=(2, 6, 7)).astype(np.float32),
        "u": random.normal(size=(4, 7)).astype(np.float32),
        "at": np.array([[5], [0], [2], [3]]),
    }


def test_a_constant_that_is_written_over_stays() -> None:
    """Constant in the data and not in the updates: no bias can stand for it. One that is dead goes from both."""
    random = np.random.default_rng(2)
    first, last = random.normal(size=(7, 9)), random.normal(size=(9, 2))
    first[:, :3] = 0
    last[3:5] = 0
    model = network(wa=first, w2=last)
    result = minimize(model).model
    assert deviation(run(model, feeds()), run(result, feeds())) <= SINGLE
    assert (7, 2) in weights(result) and (7, 7) in weights(result)


def test_single_elements_are_refused_by_their_reason() -> None:
    model = parser.parse_model("""<ir_version: 9, opset_import: ["": 18]> single
        (float[3,7] x, float[4] u) => (float[3,2] y) {
        a = MatMul(x, wa)
        s = ScatterND(a, at, u)
        y = MatMul(s, w2)
    }""")
    random = np.random.default_rng(0)
    last = random.normal(size=(9, 2)).astype(np.float32)
    last[:3] = 0
    arrays = {"wa": random.normal(size=(7, 9)).astype(np.float32), "w2": last}
    for name, array in {**arrays, "at": random.integers(0, 3, (4, 2))}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert any(f"{Reason.SINGLE_ELEMENTS.value}: ScatterND" in reason for reason in result.report.stayed)


PLACES = """<ir_version: 9, opset_import: ["": 18]> placed
    (float[n,t,5] x, int64[n,k,1] at, int64[k,2] spots, float[n,k,5] u, float[k,5] v) => (float[n,s,2] y) {
    h = MatMul(x, wa)
    c = Relu(h)
    NODES
    y = MatMul(d, wb)
}"""
BY_CHANNEL = "l = Shape(g) e = Expand(at, l)"
NODES = {
    "into zeros": "f = Shape <start = 0, end = 2> (x) l = Concat <axis = 0> (f, nine) z = ConstantOfShape(l) "
    "m = MatMul(v, wa) g = Relu(m) d = ScatterND(z, spots, g)",
    "rows into zeros": "f = Shape <start = 0, end = 2> (x) l = Concat <axis = 0> (f, nine) z = Expand(nought, l) "
    "m = MatMul(v, wa) g = Relu(m) d = ScatterND(z, spots, g)",
    "elements": f"m = MatMul(u, wa) g = Relu(m) {BY_CHANNEL} d = ScatterElements <axis = 1> (c, e, g)",
    "taken": "k = Shape <start = 0, end = 2> (u) l = Concat <axis = 0> (k, nine) e = Expand(at, l) "
    "d = GatherElements <axis = 1> (c, e)",
}


@pytest.mark.parametrize("what", NODES)
def test_what_each_channel_shares(what: str) -> None:
    """Zeros of a shape, and places that are the same for each channel, become as many as channels are left."""
    model = parser.parse_model(PLACES.replace("NODES", NODES[what]))
    random = np.random.default_rng(0)
    first, last = random.normal(size=(5, 9)).astype(np.float32), random.normal(size=(9, 2)).astype(np.float32)
    first[:, [1, 7]], last[[0, 4]] = 0, 0
    stored = {"wa": first, "wb": last, "nine": np.array([9]), "nought": np.zeros((1, 1, 1), np.float32)}
    read = {name for node in model.graph.node for name in node.input}
    for name in stored:
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(stored[name], name))
    result = minimize(model)
    kept = [shape for shape in weights(result.model) if len(shape) == 2]
    assert kept == [(5, 2), (5, 5)], dict(result.report.stayed)
    for batch, tokens, count in ((1, 6, 3), (2, 4, 4)):
        spots = np.stack([random.integers(0, batch, count), random.permutation(tokens)[:count]], axis=1)
        feeds = {
            "x": random.normal(size=(batch, tokens, 5)).astype(np.float32),
            "at": np.stack([random.permutation(tokens)[:count] for _ in range(batch)])[:, :, None],
            "spots": spots,
            "u": random.normal(size=(batch, count, 5)).astype(np.float32),
            "v": random.normal(size=(count, 5)).astype(np.float32),
        }
        feeds = {value.name: feeds[value.name] for value in model.graph.input}
        for optimized in (False, True):
            assert deviation(run(model, feeds, optimized), run(result.model, feeds, optimized)) <= SINGLE
