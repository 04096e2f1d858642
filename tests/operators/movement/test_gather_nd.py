"""Planted channels in slices that GatherND takes: of activations, and of the weights of experts."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from tests.support.planted.checks import SINGLE, assert_recovers, deviation, minimize, run, weights
from tests.support.planted.layers import Twin


@pytest.mark.parametrize("batched", [False, True])
def test_gathered_tokens(batched: bool) -> None:
    """Constants go on through a choice of tokens."""
    twin = Twin(seed=0, opset=17)
    units = twin.units(live=4, dead=3, zero=2, const=2)
    x = twin.relu(twin.matmul(twin.input(3, 6, 5, axis=2), units))
    places = twin.random.integers(0, 6, (3, 4, 1)) if batched else twin.random.integers(0, 3, (3, 2))
    stored = twin.parameter(places, np.int64)
    y = twin.op("GatherND", x, stored, batch_dims=int(batched), channels=2 if batched else 1)
    assert_recovers(twin.pair(twin.matmul(y, twin.units(live=2))))


EXPERTS = """<ir_version: 9, opset_import: ["": 18]> experts (float[n,7] x, int64[n,1] expert) => (float[n,2] y) {
    w = GatherND(up, expert)
    v = GatherND(bias, expert)
    row = Unsqueeze(x, one)
    h = MatMul(row, w)
    flat = Squeeze(h, one)
    a = Add(flat, v)
    r = Relu(a)
    y = MatMul(r, down)
}"""
KEPT = [1, 2, 4, 7, 8, 9]


def network(unread: bool) -> ModelProto:
    """Four experts of one layer; all but KEPT of their outputs are zeros, or are not read."""
    model, random = parser.parse_model(EXPERTS), np.random.default_rng(0)
    up, bias, down = (random.normal(size=shape).astype(np.float32) for shape in ((4, 7, 10), (4, 10), (10, 2)))
    gone = [unit for unit in range(10) if unit not in KEPT]
    if unread:
        down[gone] = 0
    else:
        up[:, :, gone], bias[:, gone] = 0, 0
    for name, array in {"up": up, "bias": bias, "down": down, "one": np.array([1])}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("unread", [False, True])
def test_weights_of_experts(unread: bool) -> None:
    model = network(unread)
    result = minimize(model).model
    random = np.random.default_rng(1)
    feeds = {"x": random.normal(size=(5, 7)).astype(np.float32), "expert": random.integers(0, 4, (5, 1))}
    assert deviation(run(model, feeds), run(result, feeds)) <= SINGLE
    assert weights(result) == sorted([(4, 7, len(KEPT)), (4, len(KEPT)), (len(KEPT), 2)])
