"""The Scaler of ai.onnx.ml: its shape, its constants, and features that leave it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from tests.support.planted.checks import assert_equal_outputs, minimize, weights


def network(text: str, **arrays: np.ndarray) -> ModelProto:
    model = parser.parse_model(f"""<ir_version: 10, opset_import: ["": 21, "ai.onnx.ml": 1]> scaled {text}""")
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def test_a_network_behind_a_scaler() -> None:
    random = np.random.default_rng(0)
    first, last = random.normal(size=(6, 16)), random.normal(size=(16, 1))
    first[:, :8] = 0
    model = network(
        """(float[n,6] x) => (float[n,1] y) {
        s = ai.onnx.ml.Scaler <offset = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], scale = [2.0, 1.0, 1.0, 3.0, 1.0, 1.0]> (x)
        h = MatMul(s, wa) r = Relu(h) y = MatMul(r, wb) }""",
        wa=first,
        wb=last,
    )
    result = minimize(model).model
    assert_equal_outputs(model, result, double=False)
    assert weights(result) == [(6, 8), (8, 1)]


@pytest.mark.parametrize("shared", [False, True])
def test_features_leave_a_scaler(shared: bool) -> None:
    """Zeros become constants that the next layer folds; what is not read goes with its numbers."""
    random = np.random.default_rng(1)
    first, last = random.normal(size=(6, 7)), random.normal(size=(7, 2))
    first[:, 2:4], last[5] = 0, 0
    vectors = "offset = [0.5], scale = [2.0]"
    if not shared:
        vectors = "offset = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], scale = [2.0, 1.0, 1.5, 3.0, 1.0, -1.0, 0.0]"
    model = network(
        f"""(float[n,6] x) => (float[n,2] y) {{
        h = MatMul(x, wa) s = ai.onnx.ml.Scaler <{vectors}> (h) y = MatMul(s, wb) }}""",
        wa=first,
        wb=last,
    )
    result = minimize(model).model
    assert_equal_outputs(model, result, double=False)
    left = 4 if shared else 3  # a scale of 0 makes a constant, too
    assert {(6, left), (left, 2)} <= set(weights(result))
