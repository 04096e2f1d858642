"""Planted channels in a network that pools, and unpools to the places of the maxima."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxsqueeze.training.module import from_onnx
from tests.support.planted.checks import SINGLE, assert_equal_outputs, deviation, minimize, run, weights
from tests.training.lowerings.checking import assert_same_outputs

KEPT = 6


def network(shape: str = "", size: int = 8, more: str = "", dead: str = "both") -> ModelProto:
    """Pool, convolve, unpool: ten channels on both ways, KEPT of which are alive."""
    unpooled = f"MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (m, places{shape})"
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> unpooled
        (float[2,3,8,8] x) => (float[2,2,h,w] y{more}) {{
        h = Conv(x, wa, ba)
        p, places = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)
        m = Conv(p, wm, bm)
        u = {unpooled}
        y = Conv(u, wb) {"q = Neg(places)" if " q" in more else ""} }}""")
    random = np.random.default_rng(0)
    shapes = {"wa": (10, 3, 1, 1), "ba": (10,), "wm": (10, 10, 1, 1), "bm": (10,), "wb": (2, 10, 1, 1)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["wb"][:, KEPT:] = 0
    if dead == "both":
        arrays["wm"][:, KEPT:] = 0
    arrays["size"] = np.array([2, 10, size, size])
    for name, array in arrays.items():
        if name != "size" or shape:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("shape", ["", ", size"])
def test_channels_leave_both_ways(shape: str) -> None:
    """The places are numbers among all elements, and follow the number of channels."""
    model = network(shape)
    result = minimize(model).model
    assert_equal_outputs(model, result, double=False)
    assert {(KEPT, 3, 1, 1), (KEPT, KEPT, 1, 1), (2, KEPT, 1, 1)} <= set(weights(result))
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)}
    assert_same_outputs(from_onnx(model), model, feeds)


def test_a_channel_whose_places_are_read_stays() -> None:
    """What is unread on one of the ways stays for the sake of the other."""
    model = network(dead="unread")
    result = minimize(model).model
    assert_equal_outputs(model, result, double=False)
    assert (10, 3, 1, 1) in weights(result)


@pytest.mark.parametrize(("size", "more"), [(9, ""), (8, ", int64[2,10,4,4] places"), (8, ", int64[2,10,4,4] q")])
def test_places_in_another_size_or_read_otherwise_are_left_alone(size: int, more: str) -> None:
    model = network(", size", size, more)
    result = minimize(model)
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)}
    assert deviation(run(model, feeds), run(result.model, feeds)) <= SINGLE
    assert (10, 3, 1, 1) in weights(result.model)
    assert any("MaxUnpool to another size" in reason or "MaxPool" in reason for reason in result.report.stayed)
