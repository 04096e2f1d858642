"""Planted convolutional networks: padding, strides, dilations, groups, any number of spatial axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.support.builders import CONST, DEAD, REPRESENTATIVE, ZERO, Both, Tensor
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, size
from tests.support.planted.layers import Twin

SPACES = [("L",), ("H", "W"), (7, 9), ("D", 8, "W")]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_unpadded(twin: Twin, space: tuple[int | str, ...]) -> None:
    x = twin.input("N", 3, *space)
    for late in (0, 2):
        x = twin.relu(twin.conv(x, twin.units(live=6, dead=3, const=3, late=late)))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=2)))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_constants_into_zero_padding_leave_one_representative(twin: Twin, space: tuple[int | str, ...]) -> None:
    x = twin.input("N", 3, *space)
    for _ in range(2):
        x = twin.op("Softplus", twin.conv(x, twin.units(live=5, dead=3, const=4, rep=1), pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), pads=1)))


def test_zeros_into_zero_padding_leave_none(twin: Twin) -> None:
    x = twin.input("N", 3, "H", "W")
    for _ in range(2):
        x = twin.relu(twin.conv(x, twin.units(live=5, dead=3, zero=4), pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), pads=1)))


def test_one_representative_serves_all_readers(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=2, const=4, rep=1)))
    units = twin.units(live=4)
    y = twin.op("Add", twin.conv(x, units, pads=1), twin.conv(x, units, kernel=5, pads=2))
    assert_recovers(twin.pair(twin.op("Add", y, twin.conv(x, units, kernel=1))))


def test_constant_only_for_unpadded_readers_leaves_no_representative(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=2, const=4)))
    units = twin.units(live=4)
    assert_recovers(twin.pair(twin.op("Add", twin.conv(x, units, kernel=1), twin.conv(x, units, kernel=1, strides=1))))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("strides", [1, 2])
def test_auto_pad(auto_pad: str, strides: int) -> None:
    twin = Twin(seed=strides, opset=13)
    x, padded = twin.input("N", 3, "H", "W"), "SAME" in auto_pad
    for _ in range(2):
        units = twin.units(live=5, dead=3, const=3, rep=int(padded))
        x = twin.op("Sigmoid", twin.conv(x, units, strides=1, auto_pad=auto_pad))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), strides=strides, auto_pad=auto_pad)))


@pytest.mark.parametrize("attributes", [
    {"strides": 2}, {"dilations": 2}, {"strides": [1, 2], "pads": [0, 1, 1, 0]}, {"dilations": [2, 1], "pads": 2},
    {"kernel": (1, 3), "pads": [0, 1, 0, 1]}, {"kernel": 1, "strides": 2}, {"kernel": 1, "pads": 1},
], ids=str)  # fmt: skip
def test_strides_dilations_and_pads(attributes: dict[str, Any]) -> None:
    twin = Twin(seed=7, opset=17)
    units = twin.units(live=5, dead=3, const=3, rep=int("pads" in attributes))
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), units))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), **attributes)))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_before_a_convolution(twin: Twin, mode: str) -> None:
    zeros = mode == "constant"
    units = twin.units(live=5, dead=3, const=3, rep=int(zeros))
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), units))
    y = twin.op("Pad", x, twin.integers(0, 0, 1, 1, 0, 0, 1, 1), mode=mode)
    y = Tensor(y.name, y.shape, y.axis, y.kinds, x.fill)  # constant but for the border, as `padded` says
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=4), padded=zeros)))


def test_batch_norm_makes_constants_of_channels_without_bias(twin: Twin) -> None:
    x = twin.input("N", 3, "H", "W")
    for _ in range(2):
        x = twin.conv(x, twin.units(live=5, dead=3, zero=4, rep=1), pads=1, bias=False)
        x = twin.relu(twin.batch_norm(x))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), pads=1)))


def test_batch_norm_scale_of_zero_makes_constants(twin: Twin) -> None:
    x = twin.input("N", 3, "H", "W")
    for _ in range(2):
        x = twin.relu(twin.batch_norm(twin.conv(x, twin.units(live=5, dead=5), bias=False), mute=True))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4))))


def test_batch_norm_in_front_of_a_convolution(twin: Twin) -> None:
    x = twin.input("N", 3, "H", "W")
    for late in (0, 2):
        units = twin.units(live=5, dead=3, const=4, late=late)
        x = twin.relu(twin.batch_norm(twin.op("Tanh", twin.conv(x, units)), mute=True))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4))))


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("pads", [0, 1])
def test_depthwise(twin: Twin, multiplier: int, pads: int) -> None:
    units = twin.units(live=5, dead=3, **{"zero" if pads else "const": 3})
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), units, kernel=1))
    x = twin.relu(twin.depthwise(x, multiplier=multiplier, pads=pads))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))


def test_depthwise_filters_of_zero_make_their_inputs_dead(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=6), kernel=1))
    x = twin.relu(twin.depthwise(x, units=np.where(x.kinds == DEAD, CONST, x.kinds), pads=1))
    x = twin.relu(twin.conv(x, twin.units(live=5, dead=3, zero=3), kernel=1))
    x = twin.depthwise(x, kernel=5, units=np.where(x.kinds == DEAD, ZERO, x.kinds), pads=2, strides=2)
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))


def test_depthwise_multiplier_shrinks_when_each_group_loses_one(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=6), kernel=1))
    x = twin.relu(twin.depthwise(x, multiplier=3, units=twin.groups(6, live=2, dead=1), pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))


def test_inverted_residuals(twin: Twin) -> None:
    """MobileNetV2: expansions with dead and constant channels, a stream with constant ones."""
    stream = twin.units(live=4, zero=2, dead=2)
    x = twin.batch_norm(twin.conv(twin.input("N", 3, "H", "W"), stream, pads=1, strides=2, bias=False))
    for _ in range(2):
        y = twin.batch_norm(twin.conv(x, twin.units(live=6, dead=4, zero=3), kernel=1, bias=False), mute=True)
        y = twin.op("Clip", y, twin.parameter(0), twin.parameter(6))
        muted = np.where(np.isin(y.kinds, (DEAD, ZERO)), ZERO, y.kinds)
        y = twin.batch_norm(twin.depthwise(y, units=muted, pads=1, bias=False))
        y = twin.op("Clip", y, twin.parameter(0), twin.parameter(6))
        x = twin.op("Add", x, twin.batch_norm(twin.conv(y, stream, kernel=1, bias=False)))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))


def test_groups_with_equal_counts(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.groups(3, live=3, dead=2, zero=1)))
    x = twin.relu(twin.conv(x, twin.groups(3, live=2, dead=1, zero=2), groups=3, pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))


@pytest.mark.parametrize("left", [1, 2])
def test_whole_groups(twin: Twin, left: int) -> None:
    alive = twin.random.permutation(4) < left
    reads = np.concatenate([twin.units(live=3, dead=1) if group else twin.units(dead=4) for group in alive])
    makes = np.concatenate([twin.units(live=2, dead=1) if group else twin.units(dead=2, const=1) for group in alive])
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), reads))
    x = twin.relu(twin.conv(x, makes, groups=4, pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))


def test_unequal_groups_keep_as_many_as_the_largest(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=8)))
    units = np.concatenate([twin.units(live=3, dead=1), twin.units(live=2, spare=1, dead=1)])
    x = twin.relu(twin.conv(x, units, groups=2, pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))


def test_network_of_grouped_convolutions(twin: Twin) -> None:
    """ResNeXt: a grouped convolution between two pointwise ones, whose groups agree on both sides."""
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=6, dead=2), kernel=1))
    for _ in range(2):
        y = twin.relu(twin.batch_norm(twin.conv(x, twin.groups(4, live=2, dead=2), kernel=1, bias=False)))
        y = twin.conv(y, twin.groups(4, live=2, dead=1, zero=1), groups=4, pads=1, bias=False)
        y = twin.relu(twin.batch_norm(y))
        x = twin.relu(twin.op("Add", x, twin.conv(y, x.kinds, kernel=1)))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))


@pytest.mark.parametrize("space", [("L",), ("H", "W"), ("D", 4, "W")], ids=str)
def test_transposed(twin: Twin, space: tuple[int | str, ...]) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, *space), twin.units(live=5, dead=3, zero=3)))
    x = twin.op("Tanh", twin.conv(x, twin.units(live=4, dead=2, const=2), kernel=2, op="ConvTranspose", strides=2))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3), kernel=1)), extents=(4, 5))


def test_constants_into_a_transposed_convolution_leave_one_representative(twin: Twin) -> None:
    x = twin.op("Sigmoid", twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=3, const=3, rep=1)))
    units = twin.units(live=4, dead=2, const=2)
    x = twin.conv(x, units, op="ConvTranspose", strides=2, pads=1, output_padding=[1, 1])
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3), kernel=1)), extents=(4, 5))


def test_transposed_in_groups(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.groups(2, live=3, dead=2, zero=1), kernel=1))
    x = twin.conv(x, twin.groups(2, live=2, dead=2), groups=2, op="ConvTranspose", kernel=2, strides=2)
    pair = twin.pair(twin.conv(x, twin.units(live=3), kernel=1))
    assert_recovers(pair, extents=(4, 5), double=False)  # onnx.reference has no groups here


def test_decoder_of_transposed_convolutions(twin: Twin) -> None:
    x = twin.relu(twin.gemm(twin.input("N", 6), np.repeat(twin.units(live=4, dead=3, zero=3), 4)))
    y = twin.op("Reshape", x, twin.integers(-1, Both(10, 4), 2, 2), moves=True)
    for _ in range(2):
        units = twin.units(live=4, dead=3, zero=2, rep=1)
        y = twin.conv(y, units, kernel=4, op="ConvTranspose", strides=2, pads=1, bias=False)
        y = twin.relu(twin.batch_norm(y))
    assert_recovers(twin.pair(twin.op("Tanh", twin.conv(y, twin.units(live=3), op="ConvTranspose", pads=1))))


def test_kinds_are_what_they_say() -> None:
    """Guard the builder itself: constants are found where they are, and representatives among them."""
    twin = Twin(seed=1)
    x = twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=4, const=3, rep=2, dead=2), pads=1)
    assert np.array_equal(x.constant, np.isin(x.kinds, (CONST, REPRESENTATIVE)))
    assert not twin.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1).constant.any()


def test_pad_of_channels_and_space_in_front_of_a_pool_keeps_one_added_channel() -> None:
    """Without one, onnxruntime would take the Pad for the pool's own padding, which is not zero but the least value."""
    random = np.random.default_rng(3)
    tensors = {
        "w1": random.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "pads": np.array([0, 2, 1, 1, 0, 0, 1, 1]),
        "zero": np.float32(0),
        "w2": random.standard_normal((2, 6, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"]),
        helper.make_node("Pad", ["h", "pads", "zero"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["m"], kernel_shape=[2, 2]),
        helper.make_node("Conv", ["m", "w2"], ["y"]),
    ]
    ends = ([helper.make_tensor_value_info(n, 1, ["N", c, s, s])] for n, c, s in (("x", 3, 6), ("y", 2, 7)))
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "pad", *ends, initializers), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) == 4 * 3 + 2 * 5 + 1
