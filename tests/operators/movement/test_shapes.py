"""Planted networks that move, repeat, cut or retype what they compute, by sizes known or computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.support.builders import LIVE, Both, Tensor
from tests.support.planted.checks import assert_recovers
from tests.support.planted.layers import Twin


def features(twin: Twin, *space: int | str, **more: int) -> Tensor:
    """Return the output of a first convolution with dead and constant channels."""
    x = twin.conv(twin.input("N", 3, *space), twin.units(live=4, dead=3, const=3, **more), pads=1)
    return twin.op("Softplus", x)


def head(twin: Twin, x: Tensor) -> Tensor:
    """Add two dense layers."""
    x = twin.relu(twin.gemm(x, twin.units(live=5, dead=2, late=2)))
    return twin.gemm(x, twin.units(live=3))


def flat_width(x: Tensor, spots: int) -> Both:
    """Return the number of elements that all channels have at that many places."""
    return Both(x.width.wide * spots, x.width.small * spots)


@pytest.mark.parametrize("axis", [1, -3])
def test_flatten(twin: Twin, axis: int) -> None:
    assert_recovers(twin.pair(head(twin, twin.op("Flatten", features(twin, 4, 5), moves=True, axis=axis))))


@pytest.mark.parametrize("batch", [-1, 0])
def test_flatten_by_reshape(twin: Twin, batch: int) -> None:
    x = features(twin, 4, 5)
    rest = flat_width(x, 20) if batch else -1
    assert_recovers(twin.pair(head(twin, twin.op("Reshape", x, twin.integers(batch, rest), moves=True))))


@pytest.mark.parametrize("given", [False, True], ids=["inferred", "given"])
def test_flatten_by_computed_shape(twin: Twin, given: bool) -> None:
    """What the older exporter writes: Shape, Gather, Unsqueeze, Concat, Reshape."""
    x = features(twin, 4, 5)
    batch = twin.entry(twin.sizes("Shape", x), 0)
    target = twin.sizes("Concat", batch, twin.integers(flat_width(x, 20) if given else -1), axis=0)
    assert_recovers(twin.pair(head(twin, twin.op("Reshape", x, target, moves=True))))


def test_flatten_by_a_shape_that_multiplies_sizes(twin: Twin) -> None:
    """The target holds the product of the channel count and the image size, each taken from Shape."""
    x = features(twin, 4, 5)
    shape = twin.sizes("Shape", x)
    sizes = [twin.entry(shape, index) for index in range(4)]
    area = twin.sizes("Mul", twin.sizes("Mul", sizes[1], sizes[2]), sizes[3])
    target = twin.sizes("Concat", sizes[0], area, axis=0)
    assert_recovers(twin.pair(head(twin, twin.op("Reshape", x, target, moves=True))))


def test_flatten_with_channels_last(twin: Twin) -> None:
    x = twin.op("Transpose", features(twin, 4, 5), channels=3, perm=[0, 2, 3, 1])
    x = twin.op("Reshape", x, twin.integers(-1, flat_width(x, 20)), moves=True, channels=1)
    assert_recovers(twin.pair(head(twin, x)))


def test_tokens_of_an_image(twin: Twin) -> None:
    """[N, C, H, W] to [N, H * W, C] and back, through computed sizes."""
    x = features(twin, "H", "W")
    shape = twin.sizes("Shape", x)
    batch, height, width = (twin.entry(shape, index) for index in (0, 2, 3))
    target = twin.sizes("Concat", batch, twin.integers(x.width), twin.integers(-1), axis=0)
    y = twin.op("Transpose", twin.op("Reshape", x, target, moves=True), channels=2, perm=[0, 2, 1])
    y = twin.op("Tanh", twin.matmul(y, twin.units(live=5, dead=3, const=2)))
    y = twin.op("Transpose", y, channels=1, perm=[0, 2, 1])
    y = twin.op("Reshape", y, twin.sizes("Concat", batch, twin.integers(y.width), height, width, axis=0), moves=True)
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=3), kernel=1)))


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(twin: Twin, op: str) -> None:
    x = twin.op("Flatten", twin.op(op, features(twin, "H", "W")), moves=True)
    assert_recovers(twin.pair(head(twin, x)))


def test_global_lp_pool_of_a_fixed_size() -> None:
    twin = Twin(seed=4, opset=21)  # the last opset at which onnxruntime has it
    x = features(twin, 4, 5)
    norm = np.sqrt(4 * 5) * x.fill  # by hand, and not in float64: onnx.reference has no GlobalLpPool
    y = Tensor(twin.node("GlobalLpPool", [x], p=2)[0], (1, len(norm), 1, 1), 1, x.kinds, norm)
    assert_recovers(twin.pair(head(twin, twin.op("Flatten", y, moves=True))), double=False)


@pytest.mark.parametrize(("op", "attributes"), [
    ("MaxPool", {"strides": [2, 2]}), ("MaxPool", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("MaxPool", {"ceil_mode": 1, "dilations": [2, 2]}), ("MaxPool", {"auto_pad": "SAME_UPPER"}),
    ("AveragePool", {"strides": [2, 2]}), ("AveragePool", {"pads": [1, 1, 1, 1]}),
    ("AveragePool", {"ceil_mode": 1, "strides": [2, 2]}), ("LpPool", {"p": 2}), ("LpPool", {"strides": [2, 2]}),
], ids=str)  # fmt: skip
def test_pools(twin: Twin, op: str, attributes: dict[str, Any]) -> None:
    x = twin.op(op, features(twin, "H", "W"), kernel_shape=[3, 3], **attributes)
    x = twin.op("Tanh", twin.conv(x, twin.units(live=4, dead=2, late=2), kernel=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3), kernel=2)))


@pytest.mark.parametrize("space", [("L",), ("D", 6, "W")], ids=str)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_of_other_ranks(twin: Twin, op: str, space: tuple[int | str, ...]) -> None:
    x = twin.op(op, features(twin, *space), kernel_shape=[2] * len(space), strides=[2] * len(space))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3), kernel=1)))


def test_pool_that_counts_padding_keeps_zeros_constant(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=4, dead=3, zero=3)))
    x = twin.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3), pads=1)))


AXES_SINCE = {"ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18, "ReduceMin": 18}


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceMin"])
def test_reductions_over_space(twin: Twin, op: str, keepdims: int) -> None:
    x = twin.with_axes(op, features(twin, "H", "W"), [2, -1], since=AXES_SINCE[op], keepdims=keepdims)
    x = twin.op("Flatten", x, moves=True) if keepdims else x
    assert_recovers(twin.pair(head(twin, x)))


def test_sum_over_a_fixed_space(twin: Twin) -> None:
    x = twin.with_axes("ReduceSum", features(twin, 4, 5), [2, 3], since=13, keepdims=0)
    assert_recovers(twin.pair(head(twin, x)))


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
def test_mean_and_sum_over_channels(twin: Twin, op: str) -> None:
    """They read everything; constants leave, and the result is corrected by a factor and a summand."""
    x = twin.op("Softplus", twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=4, const=3), pads=1))
    y = twin.with_axes(op, x, [1], since=AXES_SINCE[op], units=np.array([LIVE]), keepdims=1)
    total = x.fill[x.constant].sum() / (7 if op == "ReduceMean" else 1)
    with twin.only("small"):
        name = y.name
        if op == "ReduceMean":
            name = twin.node("Mul", [name, twin.parameter(4 / 7)])[0]
        name = twin.node("Add", [name, twin.parameter(total)])[0]
    y = Tensor(Both(y.name, name), y.shape, 1, y.kinds, y.fill)
    assert_recovers(twin.pair(twin.op("Tanh", y)))


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_extremes_over_channels_keep_one_constant_at_most(twin: Twin, op: str) -> None:
    x = twin.op("Tanh", twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=4, zero=3), pads=1))
    y = twin.with_axes(op, x, [1], since=AXES_SINCE[op], units=np.array([LIVE]), keepdims=1)
    with twin.only("small"):
        name = twin.node(op.removeprefix("Reduce"), [y.name, twin.parameter(0)])[0]
    y = Tensor(Both(y.name, name), y.shape, 1, y.kinds, y.fill)
    one_channel = 3 * 9 + 1 - 1  # a row of the convolution and its bias, in place of the 0
    assert_recovers(twin.pair(twin.op("Exp", y)), allowance=one_channel, kernels=False)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("by", ["scales", "sizes", "computed"])
def test_resize(twin: Twin, mode: str, by: str) -> None:
    x = features(twin, 6, 6) if by == "sizes" else features(twin, "H", "W")
    empty = twin.parameter([])
    given: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        given["nearest_mode"] = "floor"
    if by == "scales":
        y = twin.op("Resize", x, empty, twin.parameter([1, 1, 2, 2]), **given)
    else:
        shape = twin.sizes("Shape", x)
        batch = twin.sizes("Slice", shape, twin.integers(0), twin.integers(2 if by == "computed" else 1))
        if by == "sizes":
            target = twin.sizes("Concat", batch, twin.integers(x.width, 12, 12), axis=0)
        else:
            space = twin.sizes("Slice", shape, twin.integers(2), twin.integers(4))
            target = twin.sizes("Concat", batch, twin.sizes("Mul", space, twin.integers(2, 2)), axis=0)
        y = twin.op("Resize", x, empty, empty, target, **given)
    y = twin.op("Tanh", twin.conv(y, twin.units(live=4, dead=2, late=2), kernel=1))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=3), kernel=1)))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_resize_with_channels_last(twin: Twin, mode: str, by: str) -> None:
    """As onnxruntime writes it between layers that keep their channels last."""
    x = twin.op("Transpose", features(twin, 6, 6), channels=3, perm=[0, 2, 3, 1])
    empty = twin.parameter([])
    given: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        given["nearest_mode"] = "floor"
    if by == "scales":
        y = twin.op("Resize", x, empty, twin.parameter([1, 2, 2, 1]), channels=3, **given)
    else:
        batch = twin.sizes("Slice", twin.sizes("Shape", x), twin.integers(0), twin.integers(1))
        target = twin.sizes("Concat", batch, twin.integers(12, 12, x.width), axis=0)
        y = twin.op("Resize", x, empty, empty, target, channels=3, **given)
    y = twin.op("Transpose", y, channels=1, perm=[0, 3, 1, 2])
    y = twin.op("Tanh", twin.conv(y, twin.units(live=4, dead=2, late=2), kernel=1))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=3), kernel=1)))


def test_upsample() -> None:
    twin = Twin(seed=9, opset=9)
    x = twin.op("Upsample", features(twin, "H", "W"), twin.parameter([1, 1, 2, 2]), mode="nearest")
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3), kernel=1)))


def test_expand_to_the_size_of_another_tensor(twin: Twin) -> None:
    """DeepLab's image pooling: one vector for the whole image, spread over it and joined to the features."""
    x = features(twin, "H", "W")
    pooled = twin.conv(twin.op("GlobalAveragePool", x), twin.units(live=3, dead=2, const=2), kernel=1)
    space = twin.sizes("Slice", twin.sizes("Shape", x), twin.integers(2), twin.integers(4))
    spread = twin.op("Expand", twin.relu(pooled), twin.sizes("Concat", twin.integers(1, 1), space, axis=0))
    y = twin.op("Tanh", twin.op("Concat", x, spread, moves=True, axis=1))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=3), kernel=1)))


def test_expand_that_names_the_channel_count(twin: Twin) -> None:
    x = twin.op("GlobalAveragePool", features(twin, "H", "W"))
    y = twin.op("Expand", x, twin.integers(1, x.width, 2, 3))
    assert_recovers(twin.pair(twin.conv(twin.op("Tanh", y), twin.units(live=3), kernel=1)))


@pytest.mark.parametrize("repeats", [(1, 1, 2, 3), (1, 2, 1, 1)], ids=["space", "channels"])
def test_tile(twin: Twin, repeats: tuple[int, ...]) -> None:
    y = twin.op("Tile", features(twin, "H", "W"), twin.integers(*repeats), moves=True)
    assert_recovers(twin.pair(twin.conv(twin.op("Tanh", y), twin.units(live=3), kernel=1)))


def test_unsqueeze_and_squeeze(twin: Twin) -> None:
    x = twin.with_axes("Unsqueeze", features(twin, "L"), [2])
    x = twin.relu(twin.conv(x, twin.units(live=4, dead=2, const=2, late=1), kernel=(1, 3)))
    x = twin.with_axes("Squeeze", x, [-2])
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3), kernel=1)))


def test_squeeze_of_all_ones(twin: Twin) -> None:
    x = twin.op("GlobalAveragePool", features(twin, "H", "W"))
    assert_recovers(twin.pair(head(twin, twin.with_axes("Squeeze", x, [2, 3]))))


def test_casts(twin: Twin) -> None:
    x = twin.op("Cast", features(twin, "H", "W"), to=TensorProto.DOUBLE)
    x = twin.op("Cast", twin.relu(x), to=TensorProto.FLOAT)
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3), kernel=1)))


def test_dropout_and_identity(twin: Twin) -> None:
    x = twin.op("Identity", features(twin, "H", "W"))
    x = twin.op("Dropout", x, ratio=0.3 if twin.opset < 12 else None)
    assert_recovers(twin.pair(twin.conv(twin.op("Tanh", x), twin.units(live=3), kernel=1)))


def test_crop_and_pad(twin: Twin) -> None:
    x = features(twin, "H", "W")
    x = twin.op("Slice", x, twin.integers(1, 1), twin.integers(-1, 2**31), twin.integers(2, 3))
    x = twin.op("Pad", x, twin.integers(0, 0, 1, 2, 0, 0, 1, 2), mode="reflect")
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3))))
