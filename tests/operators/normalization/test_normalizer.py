"""Normalizer of ai.onnx.ml: features that are zero among those that are divided by their norm."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.planted.checks import assert_equal_outputs, minimize, weights

FEATURES, KEPT = 12, 7


def network(norm: str, constant: float = 0.0) -> ModelProto:
    """The last features are constant."""
    random = np.random.default_rng(0)
    weight, bias = (random.normal(size=shape).astype(np.float32) for shape in ((5, FEATURES), (FEATURES,)))
    weight[:, KEPT:], bias[KEPT:] = 0, constant
    last = random.normal(size=(FEATURES, 3)).astype(np.float32)
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]> normalized
        (float[n,5] x) => (float[n,3] y) {{
        h = Gemm(x, w, b) r = Tanh(h) m = ai.onnx.ml.Normalizer <norm = "{norm}"> (r) y = MatMul(m, z) }}""")
    model.graph.initializer.extend(map(numpy_helper.from_array, (weight, bias, last), "wbz"))
    return model


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_zeros_go(norm: str) -> None:
    model = network(norm)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert weights(result) == [(5, KEPT), (KEPT,), (KEPT, 3)]


@pytest.mark.parametrize(("norm", "constant"), [("MAX", 0.0), ("L1", 0.5), ("L2", -0.5)])
def test_what_counts_stays(norm: str, constant: float) -> None:
    model = network(norm, constant)
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert (5, FEATURES) in weights(result.model)
    assert any(reason.startswith(Reason.NORMALISED.value) for reason in result.report.stayed)
