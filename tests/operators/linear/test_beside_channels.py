"""Layers that work along another axis than the channels, which pass them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from tests.support.planted.checks import assert_equal_outputs, minimize, weights

CHANNELS, KEPT, TOKENS = 20, 12, 6
MIXED = {
    "right": "t = Transpose <perm = [0, 2, 1]> (r) g = MatMul(t, p) u = Transpose <perm = [0, 2, 1]> (g)",
    "left": "u = MatMul(p, r)",
    "behind a function": "v = MatMul(p, r) u = Sigmoid(v)",
}


def network(mixed: str, dead: str, constant: bool = False, rows: int = TOKENS) -> ModelProto:
    """Channels of tokens in front of what mixes those, the last ones zeros, or not read, behind it."""
    random = np.random.default_rng(0)
    shapes = {"a": (5, CHANNELS), "b": (CHANNELS,), "p": (TOKENS, TOKENS), "z": (CHANNELS, 3)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if dead == "zero":
        arrays["a"][:, KEPT:], arrays["b"][KEPT:] = 0, 0.5 if constant else 0
    else:
        arrays["z"][KEPT:] = 0
    arrays["p"][rows:] = 0
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> mixing
        (float[n,{TOKENS},5] x) => (float[n,{TOKENS},3] y) {{
        h = MatMul(x, a) hb = Add(h, b) r = Relu(hb) {MIXED[mixed]} y = MatMul(u, z) }}""")
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("dead", ["zero", "unread"])
@pytest.mark.parametrize("mixed", MIXED)
def test_channels_pass_what_mixes_tokens(mixed: str, dead: str) -> None:
    model = network(mixed, dead)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    first = [shape for shape in weights(result) if shape[0] == 5]
    assert first == [(5, KEPT)]
    assert (TOKENS, TOKENS) in weights(result)


def test_a_constant_that_tokens_mix_stays() -> None:
    """Each token gets another multiple of it. It is not said to be different at each position before."""
    model = network("left", "zero", constant=True)
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert (5, CHANNELS) in weights(result.model)
    assert any("cannot absorb a constant" in reason for reason in result.report.stayed)
    assert not any("different at each position" in reason for reason in result.report.stayed)


def test_a_layer_beside_the_channels_is_reported() -> None:
    """It has a row in the report, whole, and its multiplications count for the channels that pass."""
    report = minimize(network("left", "zero")).report
    assert len(report.layers) == 3
