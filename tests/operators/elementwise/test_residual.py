"""Planted residual networks: streams with channels that every writer leaves constant, and branches that vanish."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.builders import ZERO, Both, Tensor, Units, on
from tests.support.planted.checks import assert_recovers, operators
from tests.support.planted.layers import Twin


def normalized(twin: Twin, x: Tensor, units: Units, kernel: int, folded: bool, strides: int = 1) -> Tensor:
    """Add a convolution with a BatchNormalization, or with a bias in which that is folded."""
    y = twin.conv(x, units, kernel, pads=kernel // 2, strides=strides, bias=folded)
    return y if folded else twin.batch_norm(y)


def basic_block(twin: Twin, x: Tensor, units: Units, strides: int, folded: bool) -> Tensor:
    """Add two 3x3 convolutions and the shortcut, projected where the stream changes."""
    y = twin.relu(normalized(twin, x, twin.units(live=4, dead=3, zero=3, rep=1), 3, folded, strides))
    y = normalized(twin, y, units, 3, folded)
    shortcut = x if units is x.kinds else normalized(twin, x, units, 1, folded, strides)
    return twin.relu(twin.op("Add", y, shortcut))


def bottleneck(twin: Twin, x: Tensor, units: Units, strides: int, folded: bool) -> Tensor:
    """Add a 1x1, a 3x3 and a 1x1 convolution and the shortcut, projected where the stream changes."""
    y = twin.relu(normalized(twin, x, twin.units(live=3, dead=3, zero=3, rep=1), 1, folded))
    y = twin.relu(normalized(twin, y, twin.units(live=3, dead=2, zero=3), 3, folded, strides))
    y = normalized(twin, y, units, 1, folded)
    shortcut = x if units is x.kinds else normalized(twin, x, units, 1, folded, strides)
    return twin.relu(twin.op("Add", y, shortcut))


@pytest.mark.parametrize("folded", [False, True], ids=["batch_norm", "folded"])
@pytest.mark.parametrize("block", [basic_block, bottleneck])
def test_stream_channels_that_every_writer_leaves_constant(twin: Twin, block: object, folded: bool) -> None:
    assert callable(block)
    stand_in = int(block is basic_block)  # its 3x3 convolutions read the stream itself
    units = twin.units(live=5, dead=2, zero=3, rep=stand_in)
    x = twin.relu(normalized(twin, twin.input("N", 3, "H", "W"), units, 3, folded))
    x = twin.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for width, strides in ((0, 1), (0, 1), (6, 2), (0, 1)):
        units = twin.units(live=width, dead=2, zero=4, rep=stand_in) if width else x.kinds
        x = block(twin, x, units, strides, folded)
    x = twin.op("Flatten", twin.op("GlobalAveragePool", x), moves=True)
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=4))))


def _constant_branch(twin: Twin, x: Tensor, width: int) -> Tensor:
    """Add a branch of several layers to the wide network whose last one has no weights left, only biases."""
    y = twin.relu(normalized(twin, x, twin.units(dead=4, const=2), 1, folded=True))
    y = twin.relu(normalized(twin, y, twin.units(dead=4, zero=2), 3, folded=False))
    return normalized(twin, y, np.full(width, ZERO), 3, folded=False)


@pytest.mark.parametrize("reader", ["projection", "normalization", "head"])
def test_constant_branch_vanishes_into_the_next_layer(twin: Twin, reader: str) -> None:
    units = twin.units(live=5, dead=2, const=2)
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), units, pads=1))
    with twin.only("wide"):
        branch = _constant_branch(twin, x, len(x.kinds))
    y = twin.add_constant(x, branch)
    if reader == "normalization":
        y = twin.relu(twin.batch_norm(y))
    elif reader == "head":
        y = replace(twin.op("Flatten", twin.op("GlobalAveragePool", y), moves=True), shift=y.shift)
    y = twin.gemm(y, twin.units(live=4)) if reader == "head" else twin.conv(y, twin.units(live=4), kernel=1)
    assert_recovers(twin.pair(y))


def test_constant_branch_vanishes_into_the_shortcut_before_it(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=2, zero=2), pads=1))
    shortcut = twin.conv(x, twin.units(live=6, dead=2), kernel=1)
    with twin.only("wide"):
        branch = _constant_branch(twin, x, len(shortcut.kinds))
    y = twin.add_constant(shortcut, branch)
    twin.absorb(shortcut, branch.fill)
    y = twin.relu(replace(y, shift=0.0))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=4), pads=1)))


def test_zero_branch_vanishes_between_two_activations(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=2, zero=2), pads=1))
    with twin.only("wide"):
        branch = twin.relu(twin.conv(x, twin.units(dead=4), pads=1))
        branch = twin.conv(branch, np.full(len(x.kinds), ZERO), pads=1)
    y = twin.relu(twin.add_constant(x, branch))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=4), pads=1)))


def test_constant_branch_between_two_activations_becomes_one_vector(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=2), pads=1))
    with twin.only("wide"):
        branch = _constant_branch(twin, x, len(x.kinds))
        y = twin.op("Add", x, branch)
    with twin.only("small"):
        added = twin.node("Add", [x, twin.vector(x, branch.fill)])[0]
    y = twin.relu(replace(y, name=Both(y.name, added)))
    model = assert_recovers(twin.pair(twin.conv(y, twin.units(live=4), pads=1)))
    assert operators(model)["Conv"] == 2


@pytest.mark.parametrize("kernel", [1, 3])
def test_zero_summand_of_three(twin: Twin, kernel: int) -> None:
    """Its first layer shrinks the image and its second pads it back, so that the sizes agree only after all."""
    x, units = twin.input("N", 3, "H", "W"), twin.units(live=5, zero=3, dead=2)
    a = twin.batch_norm(twin.conv(x, units, kernel=1, bias=False))
    b = twin.batch_norm(twin.conv(x, units, pads=1, bias=False))
    y = twin.relu(twin.op("Add", a, b))
    with twin.only("wide"):
        branch = twin.relu(twin.conv(x, twin.units(dead=5), kernel))
        branch = twin.conv(branch, np.full(len(units), ZERO), pads=(kernel + 1) // 2)
        y = replace(y, name=Both(twin.op("Add", branch, y).name, on("small", y.name)))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=4), kernel=1)))


@pytest.mark.parametrize("strides", [1, 2])
def test_shortcut_that_slices_and_pads(twin: Twin, strides: int) -> None:
    """ResNet option A: the shortcut takes every other pixel and pads the channels with zeros on both sides."""
    inner = twin.units(live=4, zero=3, dead=2)
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), inner, pads=1))
    outer = [twin.units(live=2, zero=1, dead=1), twin.units(live=3, dead=2)]
    units = np.concatenate([outer[0], inner, outer[1]])
    starts, ends, axes = twin.integers(0, 0), twin.integers(2**31, 2**31), twin.integers(2, 3)
    shortcut = twin.op("Slice", x, starts, ends, axes, twin.integers(strides, strides))
    pads = twin.integers(0, Both(4, 2), 0, 0, 0, Both(5, 3), 0, 0)
    shortcut = twin.op("Pad", shortcut, pads, moves=True, mode="constant")
    shortcut = replace(shortcut, kinds=units)
    y = twin.relu(twin.conv(x, twin.units(live=4, dead=3, zero=2), pads=1, strides=strides))
    y = twin.relu(twin.op("Add", shortcut, twin.conv(y, units, pads=1)))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=4), pads=1)))


def test_stream_channels_that_nobody_reads(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=4, dead=4), pads=1))
    for _ in range(3):
        y = twin.relu(twin.conv(x, twin.units(live=4, dead=3), pads=1))
        x = twin.op("Add", x, twin.conv(y, x.kinds, pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=3), pads=1)))
