"""Norms over the channels of an image, which exporters spell out, over fewer channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper, parser

from tests.support.planted.checks import assert_equal_outputs, minimize, size, weights

CHANNELS, INPUTS, OUTPUTS = 12, 5, 4
CENTRED = "m = ReduceMean{axes}(h{more}) c = Sub(h, m)"
BODIES = {
    "LayerNorm": f"{CENTRED} q = Mul(c, c) v = ReduceMean{{axes}}(q{{more}}) e = Add(v, eps) r = Sqrt(e) u = Div(c, r) "
    "s = Mul(w, u) t = Add(s, b)",
    "LayerNorm by powers": f"{CENTRED} q = Pow(c, two) v = ReduceMean{{axes}}(q{{more}}) e = Add(v, eps) "
    "r = Pow(e, half) u = Div(c, r) s = Mul(u, w) t = Add(b, s)",
    "LayerNorm without parameters": f"{CENTRED} q = Mul(c, c) v = ReduceMean{{axes}}(q{{more}}) e = Add(v, eps) "
    "r = Sqrt(e) t = Div(c, r)",
    "RMSNorm": "q = Mul(h, h) v = ReduceMean{axes}(q{more}) e = Add(v, eps) r = Sqrt(e) u = Div(h, r) t = Mul(u, w)",
}


def network(
    body: str,
    constants: Any,
    *,
    opset: int = 18,
    reader: str = "y = Conv(t, z)",
    places: Any = None,
    scale: Any = None,
) -> ModelProto:
    """Return a pointwise layer, a norm over its channels, of which the first are constants, and a layer behind.

    Args:
        body: of BODIES. constants: laid at places of no order, or at ``places``.
        reader: the last nodes. scale: leading entries of the norm's scale.
    """
    random = np.random.default_rng(4)
    matrix, vector = random.standard_normal((CHANNELS, INPUTS)), random.standard_normal(CHANNELS)
    weight, bias = random.uniform(0.5, 1.5, CHANNELS), random.standard_normal(CHANNELS)
    last = random.standard_normal((OUTPUTS, CHANNELS, 1, 1))
    order = random.permutation(CHANNELS) if places is None else places
    chosen = order[: len(constants)]
    matrix[chosen], vector[chosen] = 0, constants
    if scale is not None:
        weight[order[: len(scale)]] = scale
    arrays = {"a": matrix[:, :, None, None], "k": vector, "z": last}
    arrays |= {"w": weight[:, None, None], "b": bias[None, :, None, None]}
    arrays |= {"eps": 1e-5, "two": 2.0, "half": 0.5, "z3": random.standard_normal((OUTPUTS, CHANNELS, 3, 3))}
    axes, more = ("<axes=[1]>", "") if opset < 18 else ("", ", axis")
    text = BODIES[body].format(axes=axes, more=more)
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": {opset}]> net
        (float[n,{INPUTS},p,q] x) => (float[n,{OUTPUTS},p,q] y) {{
        h = Conv(x, a, k) {text} {reader} }}""")
    used = {name for node in model.graph.node for name in node.input}
    stored = {name: np.asarray(array, np.float32) for name, array in arrays.items()} | {"axis": np.array([1])}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in stored.items() if name in used
    )
    return model


def first(model: ModelProto) -> list[int]:
    """Return how many channels the layer in front makes."""
    return [shape[0] for shape in weights(model) if len(shape) == 4 and shape[1] == INPUTS]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("constants", [[0.0] * 5, [1.5] * 5, [1.0, -2.0, 0.5, 0.0, 3.0]], ids=["0", "equal", "apart"])
@pytest.mark.parametrize("body", BODIES)
def test_constants_leave_the_channels_of_an_image(body: str, constants: Any, opset: int) -> None:
    """One stays for those that are equal, two of a LayerNorm for those that are not; an RMSNorm's zeros need none."""
    model = network(body, constants, opset=opset)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    stay = 0 if body == "RMSNorm" and not any(constants) else 1 if body == "RMSNorm" or len({*constants}) == 1 else 2
    assert first(result) == [CHANNELS - len(constants) + stay]


@pytest.mark.parametrize("body", BODIES)
def test_readers_that_see_a_border_keep_what_varies(body: str) -> None:
    model = network(body, [0.0, 0.0, 1.5, 1.5], reader="y = Conv <pads = [1, 1, 1, 1]> (t, z3)")
    assert_equal_outputs(model, minimize(model).model)


@pytest.mark.parametrize("body", BODIES)
def test_an_output_is_whole(body: str) -> None:
    model = network(body, [0.0, 0.0, 1.5, 1.5])
    output = model.graph.output.add()
    output.CopyFrom(model.graph.output[0])
    output.name = "t"
    output.type.tensor_type.shape.dim[1].dim_value = CHANNELS
    result = minimize(model, narrowing=False).model
    assert_equal_outputs(model, result)
    assert size(result) <= size(model)


@settings(max_examples=15, deadline=None)
@given(
    body=st.sampled_from(sorted(BODIES)),
    constants=st.lists(st.sampled_from([0.0, 0.5, -1.0, 2.0]), min_size=1, max_size=CHANNELS - 2),
    scale=st.lists(st.sampled_from([0.0, 1.0, -2.0]), max_size=CHANNELS),
    places=st.permutations(range(CHANNELS)),
)
def test_it_is_the_same_function(body: str, constants: Any, scale: Any, places: Any) -> None:
    model = network(body, constants, places=np.array(places), scale=scale)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) <= size(model)
