"""Global response normalization (ConvNeXt V2) over fewer channels: zeros leave, and so do constants but one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper, parser

from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.planted.checks import assert_equal_outputs, minimize, operators, size, weights

CHANNELS, LIVE, INPUTS, OUTPUTS = 12, 7, 5, 4
ENDS = {
    "torch": "s = Mul(w, p) t = Add(s, b) u = Add(t, h)",
    "timm": "s = Mul(w, p) k = Mul(s, one) t = Add(b, k) u = Add(h, t)",
}


def network(
    constants: Any,
    *,
    first: bool = False,
    end: str = "torch",
    opset: int = 18,
    behind: str = "",
    changed: Any = None,
    kind: str = "float",
) -> ModelProto:
    """Return pointwise layers with the norm between them, of which some hidden channels are constants.

    Args:
        constants: of the leading channels, which are then laid at places of no order.
        first: whether channels stand in front of space. end: how the norm is spelt.
        behind: nodes between the norm and the last layer. changed: leading entries of the norm's weight.
    """
    random = np.random.default_rng(3)
    order = random.permutation(CHANNELS)
    dtype = np.float32 if kind == "float" else np.float16
    matrix, vector = random.standard_normal((INPUTS, CHANNELS)), random.standard_normal(CHANNELS)
    weight, bias = random.standard_normal((2, CHANNELS))
    last = random.standard_normal((CHANNELS, OUTPUTS))
    matrix[:, : len(constants)], vector[: len(constants)] = 0, constants
    if changed is not None:
        weight[: len(changed)] = changed
    matrix, vector, weight, bias, last = matrix[:, order], vector[order], weight[order], bias[order], last[order]
    shape = (1, CHANNELS, 1, 1) if first else (1, 1, 1, CHANNELS)
    arrays = {"a": matrix, "v": vector, "w": weight.reshape(shape), "b": bias.reshape(shape), "z": last}
    if first:
        arrays |= {"a": matrix.T[:, :, None, None], "z": last.T[:, :, None, None]}
    numbers = {"one": 1.0, "eps": 1e-6}
    axes = {"space": [2, 3] if first else [1, 2], "channel": [1] if first else [-1]}
    reduce = {
        name: f"{name} = {op} <axes = {axes[key]}> ({source})"
        if opset < 18
        else f"{name} = {op} (" + f"{source}, {key})"
        for name, op, source, key in (("n", "ReduceL2", "h", "space"), ("m", "ReduceMean", "n", "channel"))
    }
    layer = "h0 = Conv(x, a, v)" if first else "l = MatMul(x, a) h0 = Add(l, v)"
    read = "h0 = Conv(x, a, v)" and ("y = Conv(e, z)" if first else "y = MatMul(e, z)")
    sizes = (f"n,{INPUTS},p,q", f"n,{OUTPUTS},p,q") if first else (f"n,p,q,{INPUTS}", f"n,p,q,{OUTPUTS}")
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": {opset}]> net
        ({kind}[{sizes[0]}] x) => ({kind}[{sizes[1]}] y) {{
        {layer} h = Tanh(h0) {reduce["n"]} {reduce["m"]} d = Add(m, eps) r = Div(n, d) p = Mul(h, r)
        {ENDS[end]} {behind or "e = Identity(u)"} {read} }}""")
    used = {name for node in model.graph.node for name in node.input}
    stored = {name: np.asarray(array, dtype) for name, array in {**arrays, **numbers}.items()}
    stored |= {name: np.array(value) for name, value in axes.items()}
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items() if name in used]
    model.graph.initializer.extend(tensors)
    return model


def channel() -> int:
    """Return how many elements belong to one channel."""
    return INPUTS + 1 + 2 + OUTPUTS


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("first", [False, True])
def test_zeros_leave(first: bool, end: str, opset: int) -> None:
    model = network(np.zeros(CHANNELS - LIVE), first=first, end=end, opset=opset)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    left = [shape for shape in weights(result) if CHANNELS in shape]
    assert left == [] and size(result) >= LIVE * channel()
    assert operators(result)["ReduceL2"] == operators(result)["ReduceMean"] == 1
    assert operators(result).total() <= operators(model).total() + 1  # a bias for the last layer


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("first", [False, True])
def test_one_constant_stands_for_all_others(first: bool, end: str, opset: int) -> None:
    model = network([0.8, -1.3, 0.4, 0.0, 2.0], first=first, end=end, opset=opset)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert not [shape for shape in weights(result) if CHANNELS in shape]
    stays = LIVE + 1
    # beside the channels: what constants add to the last bias, epsilon, and the share of their norms in the mean
    assert stays * channel() <= size(result) <= stays * channel() + OUTPUTS + 3


@pytest.mark.parametrize("changed", [[0, 0, 0], [0, 1, 0], [1, 0, 0]])
def test_a_channel_that_the_norm_does_not_weigh_can_stand_for_others(changed: Any) -> None:
    model = network([0.8, -1.3, 0.4], changed=changed)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) < size(model)


def test_readers_that_are_not_linear_need_the_constants() -> None:
    """What each of them became is another number for each image; zeros are their bias, and go."""
    model = network([0.8, -1.3, 0.0, 0.0], behind="e = Sigmoid(u)")
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert (INPUTS, CHANNELS - 2) in weights(result)


def test_an_output_keeps_all() -> None:
    model = network([0.8, -1.3, 0.0, 0.0])
    model.graph.output.append(type(model.graph.output[0])())
    model.graph.output[1].CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "u"
    model.graph.output[1].type.tensor_type.shape.dim[3].dim_value = CHANNELS
    result = minimize(model, narrowing=False).model
    assert_equal_outputs(model, result)
    assert (INPUTS, CHANNELS) in weights(result)


def test_half_precision() -> None:
    model = network([0.8, -1.3, 0.4, 0.0, 2.0], kind="float16")
    result = minimize(model).model
    assert_equal_outputs(model, result, tolerance=5e-3, double=False)
    assert size(result) < size(model)


@settings(max_examples=15, deadline=None)
@given(
    constants=st.lists(st.sampled_from([0.0, 0.3, -0.7, 1.5, 2.0]), min_size=1, max_size=CHANNELS - 1),
    changed=st.lists(st.sampled_from([0.0, 1.0, -2.0]), max_size=CHANNELS),
    first=st.booleans(),
)
def test_it_is_the_same_function(constants: Any, changed: Any, first: bool) -> None:
    model = network(constants, changed=changed, first=first)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) <= size(model)


def test_a_weight_that_would_not_hold_its_growth_keeps_the_channels() -> None:
    """The mean over fewer channels is larger, and so the weight; 2.1e38 times 12 / 7 is no float32."""
    zeros = CHANNELS - LIVE
    model = network(np.zeros(zeros), changed=[1] * zeros + [2.1e38])
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    heavy = numpy_helper.to_array(stored["w"]).ravel() > 1e38
    for name, axis, share in (("a", 1, 1e-2), ("v", 0, 1e-2), ("z", 0, 1e-38)):  # so that nothing in between overflows
        array = numpy_helper.to_array(stored[name]).copy()
        np.moveaxis(array, axis, 0)[heavy] *= np.float32(share)
        stored[name].CopyFrom(numpy_helper.from_array(array, name))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert any(reason.startswith(Reason.OVERFLOW.value) for reason in result.report.stayed)
