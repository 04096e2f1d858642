"""Norms whose output is wanted whole: constants leave what is in front of them, and are brought back for the norm."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from tests.support.planted.checks import assert_equal_outputs, minimize, weights

INPUTS, CHANNELS = 64, 12
NORMS = {
    "LayerNormalization": "y = LayerNormalization(h, scale, shift)",
    "RMS norm": "q = Mul(h, h) m = ReduceMean(q, last) e = Add(m, eps) r = Sqrt(e) d = Div(h, r) y = Mul(d, scale)",
}


def network(norm: str, constants: dict[int, float]) -> ModelProto:
    """A layer and a norm, with constant channels at given places."""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 18]> whole
        (float[n,{INPUTS}] x) => (float[n,{CHANNELS}] y) {{ p = MatMul(x, w) h = Add(p, b) {NORMS[norm]} }}""")
    random = np.random.default_rng(4)
    w, b, scale, shift = (random.standard_normal(shape) for shape in ((INPUTS, CHANNELS), *[(CHANNELS,)] * 3))
    w[:, [*constants]], b[[*constants]] = 0, [*constants.values()]
    arrays = {"w": w, "b": b, "scale": scale, "shift": shift, "eps": np.array(1e-5)}
    used = {name for node in model.graph.node for name in node.input}
    tensors = [numpy_helper.from_array(each.astype(np.float32), name) for name, each in arrays.items() if name in used]
    model.graph.initializer.extend([*tensors, numpy_helper.from_array(np.array([-1]), "last")])
    return model


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "constants", [{3: 0.5, 5: -1.5, 6: 0.5, 10: 2.0}, {0: 0.5, 5: -1.5, 6: 0.5, 11: 2.0}], ids=["inside", "first"]
)
def test_one_constant_stands_for_the_others(norm: str, constants: dict[int, float]) -> None:
    """Also where a channel that is no constant comes first."""
    model = network(norm, constants)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert (INPUTS, CHANNELS - len(constants) + 1) in weights(result)
