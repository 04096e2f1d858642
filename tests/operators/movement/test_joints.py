"""Planted networks whose tensors are joined and divided along their channels, or change places with space."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.builders import DEAD, ZERO, Both, Tensor
from tests.support.planted.checks import assert_recovers
from tests.support.planted.layers import Twin

SPLIT_TAKES_SIZES = 13  # as an input, from this opset on
SPLIT_COUNTS = 18  # needs num_outputs, from this opset on


def concat(twin: Twin, *tensors: Tensor) -> Tensor:
    """Join tensors along their channels."""
    return twin.op("Concat", *tensors, moves=True, axis=tensors[0].axis)


def split(twin: Twin, x: Tensor, parts: int, equal: bool = False) -> list[Tensor]:
    """Divide a tensor into parts of one size in the wide network; ``equal`` states no sizes there."""
    kept = np.split(x.kept, parts)
    wide, small = [len(part) for part in kept], [int(part.sum()) for part in kept]
    given: dict[str, Any] = {"axis": x.axis}
    inputs: list[Any] = [x]
    if twin.opset < SPLIT_TAKES_SIZES:
        given["split"] = Both(None if equal else wide, small)
    else:
        sizes = twin.parameter(Both(wide, small), np.int64)
        inputs.append(Both(None if equal else sizes, sizes))
        if twin.opset >= SPLIT_COUNTS and equal:
            given["num_outputs"] = Both(parts, None)
    return twin.ops("Split", *inputs, moves=True, outputs=parts, **given)


@pytest.mark.parametrize("padded", [False, True])
def test_densenet(twin: Twin, padded: bool) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=4, dead=2, const=3), kernel=1))
    for _ in range(3):
        y = twin.relu(twin.batch_norm(x))
        y = twin.conv(y, twin.units(live=5, dead=3, zero=2, rep=int(padded)), kernel=1, bias=False)
        y = twin.relu(twin.batch_norm(y))
        x = concat(twin, x, twin.conv(y, twin.units(live=3, dead=2, const=2), pads=int(padded)) if padded else y)
    x = twin.op("Flatten", twin.op("GlobalAveragePool", twin.relu(twin.batch_norm(x))), moves=True)
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=4))))


def test_inception(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=3, const=3, rep=1)))
    for _ in range(2):
        pooled = twin.op("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
        a = twin.conv(x, twin.units(live=3, dead=2, const=2, rep=1), kernel=1)
        b = twin.conv(x, twin.units(live=3, dead=1, zero=2), pads=1)
        c = twin.relu(twin.conv(x, twin.units(live=3, dead=3), kernel=1))
        c = twin.conv(c, twin.units(live=2, dead=2), kernel=5, pads=2)
        d = twin.conv(pooled, twin.units(live=2, dead=2, const=2), kernel=1)
        x = twin.relu(concat(twin, a, b, c, d))
    pair = twin.pair(twin.conv(x, twin.units(live=4), pads=1))
    assert_recovers(pair, kernels=False)  # the representative may be in another branch


@pytest.mark.parametrize("kind", ["dead", "const"])
def test_branch_of_a_concat_vanishes(twin: Twin, kind: str) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=3), kernel=1))
    a, b = (twin.conv(x, twin.units(live=3, dead=2), kernel=1) for _ in range(2))
    with twin.only("wide"):
        c = twin.relu(twin.conv(x, twin.units(dead=4), kernel=1))
        c = twin.batch_norm(twin.conv(c, twin.units(**{kind: 5}), kernel=1))
    y = twin.op("Tanh", concat(twin, a, b, replace(c, name=Both(c.name, None))))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=4), kernel=1)))


def test_concat_of_which_one_part_is_left_vanishes(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=3), kernel=1))
    a = twin.conv(x, twin.units(live=3, dead=2), kernel=1)
    with twin.only("wide"):
        b = twin.conv(twin.relu(twin.conv(x, twin.units(dead=4), kernel=1)), twin.units(dead=3, const=2), kernel=1)
        joined = concat(twin, b, a)
    y = twin.op("Tanh", replace(joined, name=Both(joined.name, a.name)))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=4), kernel=1)))


@pytest.mark.parametrize("resized", [False, True], ids=["transposed", "resized"])
def test_unet(twin: Twin, resized: bool) -> None:
    x, skips = twin.input("N", 3, "H", "W"), []
    for live in (4, 5):
        x = twin.relu(twin.conv(x, twin.units(live=live, dead=2, const=2, rep=1), pads=1))
        skips.append(x)
        x = twin.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    stand_in = int(not resized)  # for constants that a transposed convolution reads; a pointwise one takes them all
    x = twin.relu(twin.conv(x, twin.units(live=6, dead=3, const=2, rep=stand_in), pads=1))
    for skip, last in zip(reversed(skips), (False, True), strict=True):
        if resized:
            x = twin.op("Resize", x, twin.parameter([]), twin.parameter([1, 1, 2, 2]), mode="nearest")
            x = twin.conv(x, twin.units(live=4, dead=2, zero=2), kernel=1)
        else:
            x = twin.conv(x, twin.units(live=4, dead=2, zero=2), kernel=2, strides=2, op="ConvTranspose")
        units = twin.units(live=4, dead=3, const=2, rep=0 if last else stand_in)
        x = twin.relu(twin.conv(concat(twin, skip, x), units, pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=2), kernel=1)), extents=(8, 12))


@pytest.mark.parametrize("equal", [False, True], ids=["sizes", "equal"])
def test_split(twin: Twin, equal: bool) -> None:
    x = twin.input("N", 3, "H", "W")
    units = np.concatenate([twin.units(live=4, dead=2, const=2), twin.units(live=3, dead=4, const=1)])
    a, b = split(twin, twin.relu(twin.conv(x, units, kernel=1)), 2, equal)
    units = twin.units(live=4, dead=2)
    y = twin.op("Add", twin.conv(a, units, kernel=1), twin.conv(twin.relu(b), units, kernel=1))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=3), kernel=1)))


def test_part_of_a_split_that_nobody_needs(twin: Twin) -> None:
    units = np.concatenate([twin.units(live=5, dead=3), twin.units(dead=8)])
    x = twin.conv(twin.input("N", 3, "H", "W"), units, kernel=1)
    with twin.only("wide"):
        a, b = split(twin, x, 2, equal=True)
        lost = twin.relu(twin.conv(b, twin.units(zero=8), kernel=1))
        a = twin.op("Add", a, lost)
    y = twin.relu(replace(a, name=Both(a.name, x.name)))
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=3), kernel=1)))


@pytest.mark.parametrize("layer", ["conv", "matmul"])
def test_gated_linear_unit(twin: Twin, layer: str) -> None:
    half = twin.units(live=4, dead=2, zero=2, const=2)
    units = np.concatenate([half, np.where(half == ZERO, DEAD, half)])
    if layer == "conv":
        x = twin.conv(twin.input("N", 3, "H", "W"), units, kernel=1)
    else:
        x = twin.matmul(twin.input("N", "T", 6, axis=2), units)
    a, b = split(twin, x, 2)
    y = twin.op("Mul", a, twin.op("Sigmoid", b))
    y = twin.conv(y, twin.units(live=3), kernel=1) if layer == "conv" else twin.matmul(y, twin.units(live=3))
    assert_recovers(twin.pair(y))


def test_gate_and_value_of_separate_layers(twin: Twin) -> None:
    x, units = twin.input("N", "T", 6, axis=2), twin.units(live=4, dead=2, zero=2, const=2)
    for _ in range(2):
        gate = twin.matmul(x, np.where(units == DEAD, ZERO, units))
        gate = twin.op("Mul", gate, twin.op("Sigmoid", gate))
        y = twin.op("Mul", gate, twin.matmul(x, np.where(units == ZERO, DEAD, units)))
        x = twin.op("Tanh", twin.matmul(y, twin.units(live=4, dead=2, const=2)))
    assert_recovers(twin.pair(twin.matmul(x, twin.units(live=3))))


def _slice(twin: Twin, x: Tensor, start: Any, end: Any) -> Any:
    return twin.op("Slice", x, twin.integers(start), twin.integers(end), twin.integers(x.axis), moves=True)


@pytest.mark.parametrize("negative", [False, True], ids=["from_the_start", "from_the_end"])
def test_halves_by_slices(twin: Twin, negative: bool) -> None:
    units = np.concatenate([twin.units(live=4, dead=2, const=2), twin.units(live=3, dead=2, const=3)])
    x = twin.conv(twin.input("N", 3, "H", "W"), units, kernel=1)
    middle = Both(-8, -3) if negative else Both(8, 4)
    a = twin.relu(_slice(twin, x, 0, middle))
    b = twin.op("Tanh", _slice(twin, x, middle, 2**31 - 1))
    units = twin.units(live=4)
    assert_recovers(twin.pair(twin.op("Add", twin.conv(a, units, kernel=1), twin.conv(b, units, kernel=1))))


def _gather(twin: Twin, x: Tensor, chosen: Any) -> Any:
    """Pick channels; in the small network those of them that it has."""
    small = (np.cumsum(x.kept) - 1)[chosen[x.kept[chosen]]]
    return twin.op("Gather", x, twin.parameter(Both(chosen, small), np.int64), moves=True, axis=x.axis)


def test_channels_by_gather(twin: Twin) -> None:
    x = twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=6, dead=4, const=4), kernel=1)
    order = twin.random.permutation(14)
    parts = [twin.relu(_gather(twin, x, order[:7])), twin.op("Tanh", _gather(twin, x, order[7:]))]
    units = twin.units(live=4)
    assert_recovers(twin.pair(twin.op("Add", *(twin.conv(part, units, kernel=1) for part in parts))))


def test_every_other_channel_by_slice(twin: Twin) -> None:
    x = twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=6, dead=4, const=4), kernel=1)
    parts = []
    for first in (0, 1):
        with twin.only("small"):
            places = np.flatnonzero(x.places % 2 == first)
            small = twin.node("Gather", [x, twin.integers(*places)], axis=1)[0]
        with twin.only("wide"):
            part = twin.op("Slice", x, *(twin.integers(n) for n in (first, 2**31 - 1, 1, 2)), moves=True)
        parts.append(twin.relu(replace(part, name=Both(part.name, small))))
    units = twin.units(live=4)
    y = twin.op("Add", *(twin.conv(part, units, kernel=1) for part in parts))
    assert_recovers(twin.pair(y), more=["Slice"])  # where what is left lies evenly, a Slice still does


def _shuffle(twin: Twin, x: Tensor, groups: int) -> Tensor:
    each = Both(x.width.wide // groups, x.width.small // groups)
    y = twin.node("Reshape", [x, twin.integers(-1, groups, each, 6, 6)])
    y = twin.node("Transpose", y, perm=[0, 2, 1, 3, 4])
    y = twin.node("Reshape", [*y, twin.integers(-1, x.width, 6, 6)])
    moved = np.arange(x.width.wide).reshape(groups, -1).T.ravel()
    order = np.argsort(moved)[x.places].reshape(groups, -1).T.ravel()
    return replace(x, name=y[0], kinds=x.kinds[moved], fill=x.fill[moved], order=order)


@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle_between_grouped_convolutions(twin: Twin, groups: int) -> None:
    """ShuffleNet: what each group keeps must suit the groups before the shuffle and those behind it."""
    units = np.tile(twin.groups(groups, live=2, dead=1, zero=1), groups)
    x = twin.relu(twin.conv(twin.input("N", 3, 6, 6), units, kernel=1))
    x = twin.relu(twin.conv(x, units, kernel=1, groups=groups))
    x = twin.relu(twin.depthwise(replace(_shuffle(twin, x, groups), order=None), pads=1))
    x = twin.conv(x, twin.groups(groups, live=3, dead=2), kernel=1, groups=groups)
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))


@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle_whose_groups_keep_other_places(twin: Twin, groups: int) -> None:
    x = twin.input("N", 3, 6, 6)
    for _ in range(2):
        units = twin.groups(groups, live=3, dead=2, zero=1)
        x = _shuffle(twin, twin.relu(twin.conv(x, units, kernel=1)), groups)
        x = twin.op("HardSwish" if twin.opset > 13 else "Tanh", x)
    pair = twin.pair(twin.conv(x, twin.units(live=4), kernel=1))
    assert_recovers(pair, more=["Gather"])  # one instead of the three nodes of a shuffle whose rows differ


@pytest.mark.parametrize("constant", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["DCR", "CRD", "reshaped"])
def test_pixel_shuffle(twin: Twin, mode: str, constant: float) -> None:
    kinds = twin.units(live=4, dead=3, zero=3)
    units = np.tile(kinds, 4) if mode == "DCR" else np.repeat(kinds, 4)
    x = twin.op("Add", twin.conv(twin.input("N", 3, 5, 6), units, pads=1), twin.parameter(constant))
    if mode != "reshaped":
        y = twin.op("DepthToSpace", x, moves=True, blocksize=2, mode=mode)
    else:
        parts = twin.node("Reshape", [x, twin.integers(-1, Both(10, 4), 2, 2, 5, 6)])
        parts = twin.node("Transpose", parts, perm=[0, 1, 4, 2, 5, 3])
        name = twin.node("Reshape", [*parts, twin.integers(-1, Both(10, 4), 10, 12)])[0]
        y = Tensor(name, (1, 10, 10, 12), 1, kinds, np.where(kinds == ZERO, constant, np.nan))
    y = twin.conv(twin.relu(y), twin.units(live=3), kernel=1 if constant else 3, pads=0 if constant else 1)
    assert_recovers(twin.pair(y))


def test_pixel_unshuffle(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=4, dead=3, const=3), pads=1))
    y = twin.op("SpaceToDepth", x, moves=True, blocksize=2)
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=3), kernel=1)), extents=(8, 10))


def test_focus_stem(twin: Twin) -> None:
    """YOLO: four strided slices of the pixels, joined along the channels."""
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=4, dead=3, const=3), pads=1))
    ends, axes, steps = twin.integers(2**31, 2**31), twin.integers(2, 3), twin.integers(2, 2)
    parts = [twin.op("Slice", x, twin.integers(i, j), ends, axes, steps) for j in (0, 1) for i in (0, 1)]
    assert_recovers(twin.pair(twin.conv(concat(twin, *parts), twin.units(live=3), kernel=1)), extents=(8, 10))


@pytest.mark.parametrize("dense", [False, True], ids=["pointwise", "gemm"])
def test_squeeze_and_excitation(twin: Twin, dense: bool) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=5, dead=3, zero=3), pads=1))
    for _ in range(2):
        hidden, gate = twin.units(live=2, dead=2, const=2), np.where(x.kinds == ZERO, DEAD, x.kinds)
        s = twin.op("GlobalAveragePool", x)
        if dense:
            s = twin.relu(twin.gemm(twin.op("Flatten", s, moves=True), hidden))
            s = twin.with_axes("Unsqueeze", twin.op("Sigmoid", twin.gemm(s, gate)), [2, 3])
        else:
            s = twin.relu(twin.conv(s, hidden, kernel=1))
            s = twin.op("HardSigmoid", twin.conv(s, gate, kernel=1))
        x = twin.relu(twin.conv(twin.op("Mul", x, s), twin.units(live=5, dead=3, zero=2), pads=1))
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4), kernel=1)))
