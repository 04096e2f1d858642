"""Norms over channels and space together (torch.nn.LayerNorm([C, H, W])) over fewer channels, also spelt out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper, parser

from tests.support.planted.checks import assert_equal_outputs, minimize, weights

CHANNELS, INPUTS, OUTPUTS, SIDE = 8, 3, 4, 5


def network(
    constants: Any,
    *,
    axis: int = 1,
    opset: int = 17,
    bias: bool = True,
    unread: bool = True,
    places: Any = None,
    kind: str = "float",
    spelt: str = "",
    axes: str = "[1, 2, 3]",
) -> ModelProto:
    """Return convolutions around the norm, of whose channels the first are constants that nothing reads behind it.

    Args:
        constants: at places of no order, or at ``places``. axis, bias: of the norm. unread: whether that holds.
        spelt: "layer" or "rms" for the norm in elementary operators. axes: of its means.
    """
    random = np.random.default_rng(6)
    first, vector = random.standard_normal((CHANNELS, INPUTS, 3, 3)), random.standard_normal(CHANNELS)
    last = random.standard_normal((OUTPUTS, CHANNELS, 3, 3))
    scale, shift = random.standard_normal((2, CHANNELS, SIDE, SIDE))
    chosen = (random.permutation(CHANNELS) if places is None else places)[: len(constants)]
    first[chosen], vector[chosen] = 0, constants
    if unread:
        last[:, chosen] = 0
    arrays = {"a": first, "k": vector, "z": last, "scale": scale, "shift": shift if bias else None}
    norm = f"l = LayerNormalization <axis = {axis}, epsilon = 0.001> (h, scale{', shift' if bias else ''})"
    if spelt:
        norm, arrays["epsilon"] = spelling(spelt, axes), np.array(1e-3)
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": {opset}]> net
        ({kind}[n,{INPUTS},{SIDE},{SIDE}] x) => ({kind}[n,{OUTPUTS},{SIDE},{SIDE}] y) {{
        h = Conv <pads = [1, 1, 1, 1]> (x, a, k)
        {norm}
        y = Conv <pads = [1, 1, 1, 1]> (l, z) }}""")
    dtype = np.float32 if kind == "float" else np.float16
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(dtype), name) for name, array in arrays.items() if array is not None
    )
    return model


def spelling(form: str, axes: str) -> str:
    """Return a norm from h to l in elementary operators, with a scale and, around a mean, a shift."""
    centre = f"m = ReduceMean <axes = {axes}> (h) c = Sub (h, m)" if form == "layer" else "c = Identity (h)"
    last = "l = Add (w, shift)" if form == "layer" else "l = Identity (w)"
    return f"""{centre} q = Mul (c, c) v = ReduceMean <axes = {axes}> (q) e = Add (v, epsilon)
        t = Sqrt (e) u = Div (c, t) w = Mul (u, scale) {last}"""


def left(model: ModelProto) -> int:
    """Return how many channels the first layer makes."""
    return next(shape[0] for shape in weights(model) if len(shape) == 4 and shape[1] == INPUTS)


@pytest.mark.parametrize("constants", [[0.0] * 3, [1.5, -2.0, 0.5]], ids=["zeros", "others"])
@pytest.mark.parametrize(("axis", "opset", "bias"), [(1, 17, True), (-3, 18, False)])
def test_constants_that_nothing_reads_leave(axis: int, opset: int, bias: bool, constants: Any) -> None:
    model = network(constants, axis=axis, opset=opset, bias=bias)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert left(result) == CHANNELS - len(constants)
    assert not any(CHANNELS in shape for shape in weights(result))


@pytest.mark.parametrize("axes", ["[1, 2, 3]", "[-3, -2, -1]"])
@pytest.mark.parametrize(("spelt", "kind"), [("layer", "float"), ("rms", "float"), ("rms", "float16")])
def test_spelt_out(spelt: str, kind: str, axes: str) -> None:
    """No rank is declared: axes that are counted from the front are the last ones by inference."""
    model = network([1.5, -2.0, 0.5], spelt=spelt, kind=kind, axes=axes)
    result = minimize(model).model
    half = kind == "float16"
    assert_equal_outputs(model, result, tolerance=1e-2 if half else 2e-5, double=not half)
    assert left(result) == CHANNELS - 3
    assert not any(CHANNELS in shape for shape in weights(result))


@pytest.mark.parametrize("spelt", ["", "layer", "rms"])
def test_constants_that_are_read_stay(spelt: str) -> None:
    """The norm makes of each another number for each image and place, but of zeros without a mean."""
    model = network([2.5, 1.5], unread=False, spelt=spelt)
    result = minimize(model, narrowing=False).model
    assert_equal_outputs(model, result)
    assert left(result) == CHANNELS


def test_channels_that_vary_are_part_of_the_norm() -> None:
    model = network([])
    tensor = next(each for each in model.graph.initializer if each.name == "z")
    array = numpy_helper.to_array(tensor).copy()
    array[:, [2, 5]] = 0
    tensor.CopyFrom(numpy_helper.from_array(array, "z"))
    result = minimize(model, narrowing=False).model
    assert_equal_outputs(model, result)
    assert left(result) == CHANNELS


def test_elements_without_scale_are_their_bias() -> None:
    model = network([0.0, 1.5], unread=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    first = numpy_helper.to_array(tensors["a"])
    gone = ~first.any(axis=(1, 2, 3))
    for name in ("scale", "shift"):
        array = numpy_helper.to_array(tensors[name]).copy()
        array[gone] = 0
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert left(result) == CHANNELS - 2


def test_half_precision() -> None:
    model = network([0.0, 1.5, -1.0], kind="float16")
    result = minimize(model).model
    assert_equal_outputs(model, result, tolerance=1e-2, double=False)
    assert left(result) == CHANNELS - 3


@settings(max_examples=10, deadline=None)
@given(
    constants=st.lists(st.sampled_from([0.0, 0.5, -1.0, 3.0]), max_size=CHANNELS - 1),
    unread=st.booleans(),
    places=st.permutations(range(CHANNELS)),
    spelt=st.sampled_from(["", "layer", "rms"]),
)
def test_it_is_the_same_function(constants: Any, unread: bool, places: Any, spelt: str) -> None:
    model = network(constants, unread=unread, places=np.array(places), spelt=spelt)
    assert_equal_outputs(model, minimize(model).model)
