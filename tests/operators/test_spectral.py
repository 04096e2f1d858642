"""Planted channels beside DFT, and what STFT keeps."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper, parser

from tests.support.planted.checks import assert_equal_outputs, minimize, weights

TEXT = """<ir_version: 9, opset_import: ["": 20]> transformed (float[n,6,5] x) => (float[n,6,2] y) {
    a = MatMul(x, wa)
    h = Add(a, b)
    z = Unsqueeze(h, three)
    f = DFT(z, , one)
    re, im = Split <axis = 3, num_outputs = 2> (f)
    power = Mul(re, re)
    rows = Squeeze(power, three)
    y = MatMul(rows, wb)
}"""


def test_dft_along_tokens() -> None:
    """Unread channels and zeros leave; a constant is none behind it, so that it stays, with that reason."""
    random = np.random.default_rng(0)
    first, bias, last = (random.normal(size=shape).astype(np.float32) for shape in ((5, 9), (9,), (9, 2)))
    first[:, :4], bias[:3], last[4:6] = 0, 0, 0
    model = parser.parse_model(TEXT)
    for name, array in {"wa": first, "b": bias, "wb": last, "one": np.array(1), "three": np.array([3])}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert weights(result.model) == [(4,), (4, 2), (5, 4)]
    assert any(reason.endswith("DFT") for reason in result.report.stayed)
