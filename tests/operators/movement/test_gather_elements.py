"""GatherElements where what it takes from is told apart: it is left as it is, with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from tests.support.planted.checks import SINGLE, deviation, minimize, run

CHANNELS = """h = MatMul(x, w)
    taken = GatherElements <axis = 2> (h, places)
    y = MatMul(taken, v)"""
PART = """h = MatMul(x, w)
    taken = GatherElements <axis = 1> (h, places)
    y = MatMul(taken, v)"""
ROWS = """h = Mul(x, mask)
    taken = GatherElements <axis = 1> (h, places)
    row = Slice(taken, zero, one, one)
    other = Slice(x, zero, one, one)
    both = Concat <axis = 2> (row, other)
    y = MatMul(both, v)"""


def network(text: str, places: np.ndarray[tuple[int, ...], np.dtype[np.int64]], width: int) -> ModelProto:
    """Return a network of data [2, 4, 6] or, behind a layer, [2, 4, 8], whose channels 0 to 2 are zeros."""
    head = '<ir_version: 9, opset_import: ["": 17]> taken (float[2,4,6] x) => (float[2,k,3] y)'
    model, random = parser.parse_model(f"{head} {{ {text} }}"), np.random.default_rng(0)
    weight = random.standard_normal((6, 8)).astype(np.float32)
    weight[:, :3] = 0
    arrays = {
        "w": weight,
        "v": random.standard_normal((width, 3)).astype(np.float32),
        "places": places,
        "mask": np.array([0, 1, 1, 1], np.float32).reshape(1, 4, 1),
        "zero": np.array([0]),
        "one": np.array([1]),
    }
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in sorted(used & set(arrays)))
    return model


@pytest.mark.parametrize(
    ("text", "shape", "most", "width", "reason"),
    [
        (CHANNELS, (2, 4, 5), 8, 5, "GatherElements along axis 2"),
        (PART, (2, 3, 5), 4, 5, "GatherElements of a part"),
        (ROWS, (2, 4, 6), 4, 12, "GatherElements along axis 1"),
    ],
    ids=["channels", "a part", "rows"],
)
def test_what_is_told_apart_stays(text: str, shape: tuple[int, ...], most: int, width: int, reason: str) -> None:
    for seed in range(3):
        random = np.random.default_rng(seed)
        places = random.integers(0, most, shape)
        if text is ROWS:  # the first row is taken from others, of which none is of zeros
            places[:, 0] = random.integers(1, most, (2, 6))
        model = network(text, places, width)
        result = minimize(model)
        feeds = {"x": random.standard_normal((2, 4, 6)).astype(np.float32)}
        assert deviation(run(model, feeds), run(result.model, feeds)) <= SINGLE
        assert text is ROWS or any(reason in stayed for stayed in result.report.stayed), dict(result.report.stayed)
