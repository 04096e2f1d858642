"""Norms over groups of channels and over space: statistics count what left, and groups stay equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.planted.checks import assert_equal_outputs, deviation, draw, in_double, minimize, operators, weights
from tests.support.planted.norm_networks import EXTENT, IMAGE, NormNetwork

UNITS = 4  # of a reader
DYNAMIC, STATIC = ("N", IMAGE, "H", "W"), (1, IMAGE, EXTENT, EXTENT)
EXACT = 1e-9
"""Largest deviation between two models in float64, relative to the output's scale."""
HALF = 5e-3
"""The same in float16: five roundings of 5e-4 each, between sums that onnxruntime makes in float32."""
SPELLINGS = [
    ("operator", 21),
    ("operator", 23),
    ("dynamic", 11),
    ("dynamic", 17),
    ("static", 18),
    ("bare", 11),
    ("bare", 18),
]


def grouped(
    groups: int, size: int, gone: int, constants: str, *, emptied: int = 0, opset: int = 17, dtype: Any = np.float32
) -> NormNetwork:
    """Return a network with as many removable units in each group; all of them in ``emptied`` groups."""
    net = NormNetwork(groups * size, 0, constants, opset=opset, dtype=dtype)
    chosen = [net.random.permutation(size)[: size if group < emptied else gone] for group in range(groups)]
    net.gone = np.sort(np.concatenate([group * size + places for group, places in enumerate(chosen)]))
    random = net.random.normal(size=len(net.gone))
    net.constants = {"zero": random * 0, "equal": random * 0 + 0.7, "different": random}[constants]
    return net


def channels_left(result: sq.Result) -> int:
    """Return how many channels both kernels agree on."""
    kernels = [shape for shape in weights(result.model) if len(shape) == 4 and shape[0] > 1]
    (left,) = (shape[0] for shape in kernels if shape[2:] == (3, 3))
    assert (UNITS, left, 1, 1) in kernels
    return left


def image_model(net: NormNetwork, output: str, spelling: str = "dynamic") -> onnx.ModelProto:
    """Return the model, its space static where the spelling needs that."""
    static = spelling == "static"
    return net.model(output, ranks=[4], dims=STATIC if static else DYNAMIC, declare=static)


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize(("groups", "size", "gone"), [(4, 2, 1), (3, 8, 5), (1, 12, 7)])
@pytest.mark.parametrize(("spelling", "opset"), SPELLINGS)
def test_unread_constants_leave_each_group(
    spelling: str, opset: int, groups: int, size: int, gone: int, constants: str
) -> None:
    net = grouped(groups, size, gone, constants, opset=opset)
    y = net.node("Sigmoid", net.group_norm(net.convolution(), groups, spelling=spelling))
    model = image_model(net, net.pointwise(y, UNITS, columns=False), spelling)
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == groups * (size - gone)


@pytest.mark.parametrize("constants", ["zero", "different"])
@pytest.mark.parametrize(("spelling", "opset"), [row for row in SPELLINGS if row[0] != "bare"])
def test_constants_without_scale_leave(spelling: str, opset: int, constants: str) -> None:
    """They become their bias, which is folded into what reads it."""
    net = grouped(3, 8, 5, constants, opset=opset)
    y = net.node("Sigmoid", net.group_norm(net.convolution(), 3, spelling=spelling, muted=True))
    model = image_model(net, net.pointwise(y, UNITS), spelling)
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 9


@pytest.mark.parametrize("gone", [0, 5])
@pytest.mark.parametrize(("spelling", "opset"), SPELLINGS)
def test_whole_groups_leave(spelling: str, opset: int, gone: int) -> None:
    """A group of constants is constant, whatever its scale."""
    net = grouped(4, 8, gone, "different", emptied=2, opset=opset)
    y = net.node("Sigmoid", net.group_norm(net.convolution(), 4, spelling=spelling))
    kernel = net.normal(UNITS, 32, 1, 1)
    kernel[:, np.setdiff1d(net.gone, np.arange(16))] = 0  # of groups that stay, the constants are not read
    model = image_model(net, net.node("Conv", y, net.weight(kernel)), spelling)
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 2 * (8 - gone)
    if spelling == "operator":
        assert operators(result.model)["GroupNormalization"] == (gone == 0)


@pytest.mark.parametrize(("spelling", "opset"), SPELLINGS)
def test_constants_that_are_read_stay(spelling: str, opset: int) -> None:
    """Behind the norm they vary with the image, and an activation folds nothing."""
    net = grouped(3, 8, 5, "different", opset=opset)
    y = net.node("Sigmoid", net.group_norm(net.convolution(), 3, spelling=spelling))
    model = image_model(net, net.pointwise(y, UNITS), spelling)
    result = minimize(model, narrowing=False)
    assert channels_left(result) == 24
    assert set(result.report.stayed) == {Reason.NEEDED.value}
    assert operators(result.model) == operators(model)


def test_groups_stay_equal() -> None:
    """The group with the fewest constants says how many leave."""
    net = grouped(3, 8, 5, "different", opset=21)
    net.gone, net.constants = net.gone[1:], net.constants[1:]
    y = net.node("Sigmoid", net.group_norm(net.convolution(), 3, spelling="operator"))
    model = image_model(net, net.pointwise(y, UNITS, columns=False))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 12
    assert result.report.stayed[Reason.REGULAR.value] > 0


@pytest.mark.parametrize("constants", ["zero", "different"])
@pytest.mark.parametrize(("spelling", "opset"), [("dynamic", 17), ("static", 18)])
def test_groups_in_double(spelling: str, opset: int, constants: str) -> None:
    net = grouped(3, 8, 5, constants, opset=opset, dtype=np.float64)
    y = net.group_norm(net.convolution(), 3, spelling=spelling)
    model = image_model(net, net.pointwise(y, UNITS, columns=False), spelling)
    result, feeds = minimize(model), draw(model, 1, EXTENT)
    assert channels_left(result) == 9
    assert deviation(in_double(model, feeds), in_double(result.model, feeds)) <= EXACT


@pytest.mark.parametrize(("spelling", "opset"), [("operator", 21), ("dynamic", 17)])
def test_unread_channels_that_vary_stay(spelling: str, opset: int) -> None:
    """The statistics of their group count them."""
    net = grouped(3, 8, 5, "different", opset=opset)
    y = net.node("Sigmoid", net.group_norm(net.convolution(), 3, spelling=spelling))
    net.gone = np.arange(1, 24)
    model = image_model(net, net.pointwise(y, UNITS, columns=False))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 3  # the other two groups leave


@pytest.mark.parametrize(("spelling", "opset"), [("operator", 21), ("dynamic", 17)])
def test_groups_in_half_precision(spelling: str, opset: int) -> None:
    """Squares of the constants are larger than the type can hold."""
    net = grouped(3, 8, 5, "different", opset=opset, dtype=np.float16)
    net.constants = net.constants * 400
    y = net.group_norm(net.convolution(), 3, spelling=spelling)
    model = image_model(net, net.pointwise(y, UNITS, columns=False))
    result = minimize(model)
    assert channels_left(result) == 9
    assert_equal_outputs(model, result.model, tolerance=HALF, double=False)


@pytest.mark.parametrize(
    ("target", "scale"), [([0, 3, -1, 1], 1.0), ([0, 4, -1], 1.0), ([0, 3, -1], 2.0)], ids=["rank", "count", "scaled"]
)
def test_what_only_looks_like_groups(target: list[int], scale: float) -> None:
    """The function stays, whatever is recognised."""
    net = grouped(3, 8, 5, "different")
    x = net.convolution()
    count = target[1]
    split = net.node("Reshape", x, net.integers(*target))
    parameters = [net.weight(np.full(count, scale)), net.weight(np.zeros(count))]
    normed = net.node("InstanceNormalization", split, *parameters)
    y = net.node("Mul", net.node("Reshape", normed, net.node("Shape", x)), net.weight(net.normal(24, 1, 1)))
    model = image_model(net, net.pointwise(y, UNITS, columns=False))
    assert_equal_outputs(model, minimize(model).model)


@pytest.mark.parametrize(("spelling", "opset"), [("operator", 21), ("bare", 11)])
def test_groups_of_a_signal(spelling: str, opset: int) -> None:
    """One axis of space instead of two."""
    net = grouped(3, 8, 5, "different", opset=opset)
    signal = net.node("Reshape", net.convolution(), net.integers(0, 0, -1))
    y = net.node("Sigmoid", net.group_norm(signal, 3, spelling=spelling))
    kernel = net.normal(UNITS, 24, 1)
    kernel[:, net.gone] = 0
    model = net.model(net.node("Conv", y, net.weight(kernel)), dims=DYNAMIC)
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert {(9, IMAGE, 3, 3), (UNITS, 9, 1)} <= {*weights(result.model)}


def test_groups_of_all_samples() -> None:
    """Samples may be laid out as more groups, as code did that made use of a batch norm."""
    net = grouped(6, 4, 2, "different")
    split = net.node("Reshape", net.convolution(), net.integers(1, 12, -1))
    normed = net.node("InstanceNormalization", split, net.weight(np.ones(12)), net.weight(np.zeros(12)))
    y = net.node("Sigmoid", net.node("Reshape", normed, net.integers(2, 24, EXTENT, EXTENT)))
    model = net.model(net.pointwise(y, UNITS, columns=False), ranks=[4], dims=(2, *STATIC[1:]), declare=True)
    assert_equal_outputs(model, minimize(model).model)


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 8, 1)])
def test_factors_that_vary_along_the_image(shape: tuple[int, ...]) -> None:
    """They are no scales of channels, although they are as many."""
    net = NormNetwork(8, 4, "different")
    y = net.group_norm(net.convolution(), 2, spelling="bare")
    y = net.node("Mul", y, net.weight(net.normal(*shape)))
    model = image_model(net, net.pointwise(y, UNITS, columns=False), "static")
    assert_equal_outputs(model, minimize(model).model, extents=(EXTENT, EXTENT))


def test_groups_of_another_image_shape() -> None:
    """An image that is laid out in another way behind the norm keeps all channels."""
    net = grouped(3, 8, 5, "different")
    split = net.node("Reshape", net.convolution(), net.integers(0, 3, -1))
    normed = net.node("InstanceNormalization", split, net.weight(np.ones(3)), net.weight(np.zeros(3)))
    y = net.node("Reshape", normed, net.integers(1, 24, EXTENT // 2, EXTENT * 2))
    model = image_model(net, net.pointwise(y, UNITS, columns=False), "static")
    assert_equal_outputs(model, minimize(model).model)


# -- instances ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize("opset", [11, 17, 23])
def test_instance_norm_makes_constants_of_constants(opset: int, constants: str) -> None:
    net = NormNetwork(12, 5, constants, opset=opset)
    parameters = [net.weight(net.normal(12)) for _ in range(2)]
    y = net.node("Sigmoid", net.node("InstanceNormalization", net.convolution(), *parameters))
    model = image_model(net, net.pointwise(y, UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 7


@pytest.mark.parametrize("op", ["InstanceNormalization", "GroupNormalization"])
def test_constants_that_differ_from_pixel_to_pixel_stay(op: str) -> None:
    net = NormNetwork(12, 5, opset=21)
    x = net.node("Add", net.convolution(), net.weight(net.normal(1, 12, EXTENT, EXTENT)))
    parameters = [net.weight(net.normal(12)) for _ in range(2)]
    groups = {"num_groups": 3} if op == "GroupNormalization" else {}
    y = net.node("Sigmoid", net.node(op, x, *parameters, **groups))
    model = image_model(net, net.pointwise(y, UNITS), "static")
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 12
    assert f"{Reason.CONSTANT_VARIES.value}: {op}" in result.report.stayed


@pytest.mark.parametrize("op", ["InstanceNormalization", "GroupNormalization"])
def test_computed_parameters(op: str) -> None:
    net = NormNetwork(12, 5, opset=21)
    scale = net.node("ReduceMax", "input", net.integers(0, 1, 2, 3), keepdims=0)
    scales = net.node("Expand", scale, net.integers(12))
    groups = {"num_groups": 3} if op == "GroupNormalization" else {}
    y = net.node(op, net.convolution(), scales, net.weight(net.normal(12)), **groups)
    model = image_model(net, net.pointwise(y, UNITS))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 12
    assert any(reason.startswith(Reason.COMPUTED_WEIGHT.value) for reason in result.report.stayed)


def test_instance_norm_without_scale() -> None:
    net = NormNetwork(12, 5)
    scale = net.normal(12)
    scale[net.varying[:3]] = 0
    y = net.node("InstanceNormalization", net.convolution(), net.weight(scale), net.weight(net.normal(12)))
    model = image_model(net, net.pointwise(net.node("Sigmoid", y), UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 4


# -- lengths of vectors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("opset", [11, 18, 23])
def test_zeros_leave_a_normalized_vector(opset: int, order: int) -> None:
    """As torch's exporters write ``normalize``."""
    net = NormNetwork(12, 5, opset=opset)
    model = image_model(net, net.pointwise(normalized(net, net.convolution(), order), UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 7


@pytest.mark.parametrize("order", [1, 2])
def test_constants_stay_in_a_normalized_vector(order: int) -> None:
    net = NormNetwork(12, 5, "different", opset=18)
    model = image_model(net, net.pointwise(normalized(net, net.convolution(), order), UNITS))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 12
    assert any(reason.startswith(Reason.CONSTANT_READ.value) for reason in result.report.stayed)


def normalized(net: NormNetwork, x: str, order: int) -> str:
    """Divide by the norm over the channels, which is at least a small number."""
    length = net.reduce(f"ReduceL{order}", x, 1, since=18, keepdims=1)
    least = net.node("Clip", length, net.weight(np.float32(1e-12)))
    return net.node("Div", x, net.node("Expand", least, net.node("Shape", x)))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("opset", [11, 23])
def test_lp_normalization(opset: int, order: int) -> None:
    net = NormNetwork(12, 5, opset=opset)
    model = image_model(net, net.pointwise(net.node("LpNormalization", net.convolution(), axis=1, p=order), UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False)
    assert channels_left(result) == 7


@pytest.mark.parametrize("order", [1, 2])
def test_constants_stay_in_lp_normalization(order: int) -> None:
    net = NormNetwork(12, 5, "different", opset=18)
    model = image_model(net, net.pointwise(net.node("LpNormalization", net.convolution(), axis=1, p=order), UNITS))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model, double=False)
    assert channels_left(result) == 12
    assert f"{Reason.NORMALISED.value}: LpNormalization" in result.report.stayed


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("order", [1, 2])
def test_bounds_of_lp_normalization(order: int, sign: float) -> None:
    """An element may reach 1 or -1, so that no ReLU is off that still switches on close to them."""
    net = NormNetwork(2, 0)
    y = net.node("LpNormalization", net.convolution(), axis=1, p=order)
    late = net.node("Sub", net.node("Mul", y, net.weight(sign)), net.weight(0.9))
    model = image_model(net, net.pointwise(net.node("Add", net.convolution(), net.node("Relu", late)), UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False)
    assert operators(result.model) == operators(model)


@pytest.mark.parametrize("opset", [11, 18, 23])
def test_zeros_leave_a_global_response_norm(opset: int) -> None:
    """ConvNeXt V2: lengths over space, set against their mean over the channels."""
    net = NormNetwork(12, 5, opset=opset)
    x = net.node("Transpose", net.convolution(), perm=[0, 2, 3, 1])
    length = net.reduce("ReduceL2", x, 1, 2, since=18, keepdims=1)
    against = net.node("Add", net.mean(length, -1), net.weight(1e-6))
    scaled = net.node("Mul", net.weight(net.normal(1, 1, 1, 12)), net.node("Mul", x, net.node("Div", length, against)))
    y = net.node("Add", net.node("Add", scaled, net.weight(net.normal(1, 1, 1, 12))), x)
    model = image_model(net, net.pointwise(net.node("Transpose", y, perm=[0, 3, 1, 2]), UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert channels_left(result) == 7
