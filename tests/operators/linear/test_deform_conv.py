"""DeformConv: a layer like a padded convolution, whose offsets and mask stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.planted.checks import SINGLE, deviation, draw, minimize, run, weights

IN, IN_KEPT, OUT, OUT_KEPT = 10, 6, 12, 7


def network(constant: float = 0.0, masked: bool = True, bias: bool = True, groups: int = 1) -> ModelProto:
    """Constant channels, offsets and a mask computed beside them, a DeformConv with constant rows, and a reader."""
    random = np.random.default_rng(0)
    shapes = {"k": (IN, 3, 3, 3), "kb": (IN,), "o": (18 * groups, 3, 3, 3), "m": (9 * groups, 3, 3, 3)}
    shapes |= {"w": (OUT, IN, 3, 3), "b": (OUT,), "z": (4, OUT, 1, 1)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["k"][IN_KEPT:], arrays["kb"][IN_KEPT:] = 0, constant
    arrays["w"][OUT_KEPT:], arrays["b"][OUT_KEPT:] = 0, -0.5
    inputs = ["a", "w", "f", "b" if bias else "", *(["g"] if masked else [])]
    attributes = f"pads = [1, 1, 1, 1], kernel_shape = [3, 3], offset_group = {groups}"
    model = parser.parse_model(f"""<ir_version: 9, opset_import: ["": 19]> deformed
        (float[n,3,8,8] x) => (float[n,4,8,8] y) {{
        c = Conv <pads = [1, 1, 1, 1]> (x, k, kb) a = Relu (c)
        f = Conv <pads = [1, 1, 1, 1]> (x, o) g = Conv <pads = [1, 1, 1, 1]> (x, m)
        d = DeformConv <{attributes}> ({", ".join(inputs).rstrip(", ")})
        r = Tanh (d) y = Conv (r, z) }}""")
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in arrays if name in read)
    return model


def assert_same(model: ModelProto, result: ModelProto) -> None:
    """Compare in onnxruntime alone: onnx.reference takes seconds for an image."""
    feeds = draw(model, batch=2, extent=8)
    for optimized in (False, True):  # the original's own runs differ by more than one network from the other
        assert deviation(run(model, feeds, optimized), run(result, feeds, optimized)) <= SINGLE


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_zeros_and_constant_rows_go(masked: bool, bias: bool) -> None:
    model = network(masked=masked, bias=bias)
    result = minimize(model).model
    assert_same(model, result)
    assert (OUT_KEPT, IN_KEPT, 3, 3) in weights(result)
    assert (18, 3, 3, 3) in weights(result)


@pytest.mark.parametrize("masked", [True, False])
def test_one_constant_channel_stands_for_the_others(masked: bool) -> None:
    """Between the border and the image, and under the mask, all of them are the same multiple of what they are."""
    model = network(constant=0.7, masked=masked)
    result = minimize(model).model
    assert_same(model, result)
    assert (OUT_KEPT, IN_KEPT + 1, 3, 3) in weights(result)


def test_channels_that_are_read_at_different_places_stay() -> None:
    model = network(groups=2)
    result = minimize(model)
    assert_same(model, result.model)
    assert (OUT, IN, 3, 3) in weights(result.model)
    assert any(Reason.UNKNOWN_SHAPE.value in reason and "different places" in reason for reason in result.report.stayed)
