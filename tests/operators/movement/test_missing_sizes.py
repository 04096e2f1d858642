"""A size of -1 is found where the others cancel, however they are computed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

import onnxsqueeze as sq


@pytest.mark.parametrize("target", [[0, 0, -1], [0, -1, 8], [0, -1]])
def test_channels_and_height_become_features(target: list[int]) -> None:
    """A text reader: columns of an image of any width, each with its channels and rows as features."""
    channels, dead, height = 4, [0, 2], 2
    random = np.random.default_rng(0)
    weights = {
        "k": random.normal(size=(channels, 1, 3, 3)).astype(np.float32),
        "shape": np.array(target, np.int64),
        "w": random.normal(size=(channels * height, 5)).astype(np.float32),
    }
    weights["k"][dead] = 0
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> reader
        (float[1,1,4,width] x) => (float y) {
        c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, k) t = Transpose <perm = [3, 0, 1, 2]> (c)
        r = Reshape (t, shape) s = Relu (r) y = MatMul (s, w) }""")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    result = sq.minimize(model, round_to=1)
    assert result.plan.masks["c"].ravel().tolist() == [index not in dead for index in range(channels)]
    assert result.report.weights_after == 2 * 9 + 2 * height * 5
