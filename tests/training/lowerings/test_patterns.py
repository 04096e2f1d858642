"""What exporters spell out is one call, which computes the same and has the same gradients."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from onnxsqueeze.training.module import from_onnx
from tests.support.drawing import Draw
from tests.support.patterns.graphs import model, names
from tests.support.patterns.spellings import (
    GELU,
    GUARDED_SOFTMAX,
    LAYER_NORMALIZATION,
    RESPONSE_NORMALIZATION,
    RMS_NORMALIZATION,
    SWISH,
)
from tests.training.lowerings.checking import as_model, assert_gradients, assert_same_outputs, computed

D = Draw(9)
SPELLED = [
    *(("LayerNormalization", text) for _, _, text in LAYER_NORMALIZATION),
    *(("RMSNormalization", text) for _, _, text in RMS_NORMALIZATION),
    *(("Gelu", text) for _, text in GELU),
    *(("Swish", text) for _, text in SWISH),
    *(("GuardedSoftmax", text) for _, text in GUARDED_SOFTMAX),
    *(("GlobalResponseNormalization", text) for text in RESPONSE_NORMALIZATION),
]


@pytest.mark.parametrize(("op", "text"), SPELLED, ids=[f"{op}-{place}" for place, (op, _) in enumerate(SPELLED)])
def test_spelling(op: str, text: str) -> None:
    proto = model(text)
    assert names(proto) == [op]
    module = from_onnx(proto)
    feeds = {"x": D.floats(2, 3, 6)}
    assert_same_outputs(module, proto, feeds)
    assert_gradients(module, feeds)


OVER_CHANNELS = {
    "ChannelLayerNormalization": "m = ReduceMean<axes=[1]>(x) c = Sub(x, m) q = Mul(c, c) v = ReduceMean<axes=[1]>(q) "
    "e = Add(v, eps) r = Sqrt(e) u = Div(c, r) s = Mul(g_channel, u) y = Add(s, b_channel)",
    "ChannelRMSNormalization": "q = Mul(x, x) v = ReduceMean<axes=[1]>(q) e = Add(v, eps) r = Sqrt(e) u = Div(x, r) "
    "y = Mul(u, g_channel)",
}


@pytest.mark.parametrize("op", OVER_CHANNELS)
def test_over_channels_of_an_image(op: str) -> None:
    proto = model(OVER_CHANNELS[op], shape="2,4,3,5")
    assert names(proto) == [op]
    module = from_onnx(proto)
    feeds = {"x": D.floats(2, 4, 3, 5)}
    assert_same_outputs(module, proto, feeds)
    assert_gradients(module, feeds)


@pytest.mark.parametrize("channels", [(6, 1, 1), (1, 6, 1, 1)])
def test_group_normalization(channels: tuple[int, ...]) -> None:
    """Groups as the channels of an InstanceNormalization."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["x", "groups"], ["split"]),
        helper.make_node("InstanceNormalization", ["split", "ones", "zeros"], ["unit"], epsilon=1e-3),
        helper.make_node("Reshape", ["unit", "shape"], ["image"]),
        helper.make_node("Mul", ["image", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["y"]),
    ]
    stored = {
        "groups": np.array([0, 2, -1]),
        "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32),
        "scale": D.positive(*channels),
        "bias": D.floats(*channels),
    }
    declared = [helper.make_tensor_value_info(name, 1, ["n", 6, "h", 4]) for name in "xy"]
    initializers = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    proto = as_model(helper.make_graph(nodes, "net", declared[:1], declared[1:], initializers), 17)
    assert names(proto) == ["GroupNormalization"]
    module = from_onnx(proto)
    feeds = {"x": D.floats(3, 6, 5, 4)}
    assert_same_outputs(module, proto, feeds)
    assert_gradients(module, feeds)
    assert set(module.initializers) == {"scale", "bias"}


def test_guarded_softmax_of_a_shut_row() -> None:
    """It gives zeros, and no gradient becomes NaN, here and before the mask."""
    proto = model(GUARDED_SOFTMAX[0][1])
    x = D.floats(2, 3, 6)
    x[0, 1] = -np.inf
    x[1, 2, 3] = -np.inf
    module = from_onnx(proto)
    assert_same_outputs(module, proto, {"x": x})
    data = torch.from_numpy(x).requires_grad_()
    (found,) = computed(module, {"x": data})
    (gradient,) = torch.autograd.grad((found * torch.from_numpy(D.floats(2, 3, 6))).sum(), data)
    assert torch.isfinite(gradient).all() and not gradient[0, 1].any() and gradient[0, 0].any()


def test_half_precision_is_computed_unrounded() -> None:
    """A norm that a float16 file spells out keeps its squares within what float32 holds."""
    proto = model(LAYER_NORMALIZATION[0][2], dtype=np.float16)
    assert isinstance(proto, onnx.ModelProto)
    module = from_onnx(proto)
    x = 300 * D.floats(2, 3, 6)
    (found,) = computed(module, {"x": x.astype(np.float16)})
    wide = from_onnx(model(LAYER_NORMALIZATION[0][2]))
    (expected,) = computed(wide, {"x": x.astype(np.float16).astype(np.float32)})
    assert (found.detach().float() - expected.detach()).abs().max() < 1e-2
