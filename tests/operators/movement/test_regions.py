"""Planted channels through RoiAlign, CenterCropPad and Compress."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from tests.support.builders import Both, Pair, Tensor
from tests.support.planted.checks import (
    SINGLE,
    assert_equal_outputs,
    assert_recovers,
    deviation,
    minimize,
    run,
    weights,
)
from tests.support.planted.layers import Twin

REGIONS = np.array([[0.3, 0.2, 5.1, 6.4], [2.0, 3.0, 9.5, 3.2], [-4.0, 1.0, 3.0, 7.0]])


def image(twin: Twin, const: int, *sizes: int | str) -> Tensor:
    units = twin.units(live=4, dead=3, zero=2, const=const)
    return twin.relu(twin.conv(twin.input(*sizes), units, kernel=1))


def read(twin: Twin, x: Tensor) -> Pair:
    return twin.pair(twin.conv(x, twin.units(live=2), kernel=1))


def read_everywhere(model: ModelProto) -> ModelProto:
    """Let the last layer read constants that have become none."""
    weight = model.graph.initializer[-2]  # a bias follows
    weight.CopyFrom(numpy_helper.from_array(np.ones(weight.dims, np.float32), weight.name))
    return model


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(mode: str) -> None:
    twin = Twin(seed=0, opset=16)
    x = image(twin, 0, 2, 3, 8, 8)
    regions, numbers = twin.parameter(REGIONS), twin.parameter([1, 0, 0], np.int64)
    x = twin.op("RoiAlign", x, regions, numbers, mode=mode, output_height=2, output_width=3, sampling_ratio=2)
    assert_recovers(read(twin, x), double=False)  # onnx's reference computes the maxima of something else


def test_a_constant_read_by_roi_align_stays() -> None:
    """Outside of the image there are zeros beside it."""
    twin = Twin(seed=0, opset=16)
    x = image(twin, 2, 2, 3, 8, 8)
    regions, numbers = twin.parameter(REGIONS), twin.parameter([1, 0, 0], np.int64)
    x = twin.op("RoiAlign", x, regions, numbers, output_height=2, output_width=3, sampling_ratio=2)
    wide = read_everywhere(read(twin, x).wide)
    result = minimize(wide).model
    assert_equal_outputs(wide, result)
    assert (9, 3, 1, 1) in weights(result)  # four live ones, the dead ones that are read now, and the constants


@pytest.mark.parametrize(("sizes", "const"), [((5, 4), 2), ((9, 4), 0)])
@pytest.mark.parametrize("all_axes", [False, True])
def test_center_crop_pad(sizes: tuple[int, int], const: int, all_axes: bool) -> None:
    """A constant that is cropped stays one; zeros beside it make it none."""
    twin = Twin(seed=1, opset=18)
    x = image(twin, const, 2, 3, 8, 8)
    shape = twin.integers(2, x.width, *sizes) if all_axes else twin.integers(*sizes)
    x = twin.op("CenterCropPad", x, shape, axes=None if all_axes else [2, -1])
    assert_recovers(read(twin, x))


def test_center_crop_pad_to_a_size_that_is_asked_for() -> None:
    """At run time, for height and width alone."""
    model = parser.parse_model("""<ir_version: 9, opset_import: ["": 18]> cropped
        (float[n,3,h,w] x, int64[2] size) => (float[n,2,p,q] y) {
        a = Conv(x, wa, b)
        c = Relu(a)
        d = CenterCropPad <axes = [2, 3]> (c, size)
        y = Conv(d, wb)
    }""")
    random = np.random.default_rng(0)
    first, bias, last = (random.normal(size=shape).astype(np.float32) for shape in ((9, 3, 3, 3), 9, (2, 9, 1, 1)))
    first[:3], bias[:3], last[:, 4:6] = 0, 0, 0
    for name, array in {"wa": first, "b": bias, "wb": last}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    result = minimize(model).model
    assert weights(result) == [(2, 4, 1, 1), (4,), (4, 3, 3, 3)]
    for size in ((3, 9), (7, 2)):
        feeds = {"x": random.normal(size=(2, 3, 8, 7)).astype(np.float32), "size": np.array(size)}
        assert deviation(run(model, feeds), run(result, feeds)) <= SINGLE


@pytest.mark.parametrize("sizes", [(2, 3, 8, 8), ("N", 3, "H", "W"), ("N", 3, 8, "W")])
def test_a_constant_that_is_padded_stays(sizes: tuple[int | str, ...]) -> None:
    """Or may be: the image may be smaller than what is asked for."""
    twin = Twin(seed=1, opset=18)
    x = image(twin, 2, *sizes)
    varying = 7 + int((x.fill > 0).sum())  # four live ones, the dead ones that are read now, and constants
    wide = read_everywhere(read(twin, twin.op("CenterCropPad", x, twin.integers(9, 4), axes=[2, 3])).wide)
    result = minimize(wide)
    assert_equal_outputs(wide, result.model)
    assert varying > 7 and (varying, 3, 1, 1) in weights(result.model)
    assert any("constant, but different at each position" in reason for reason in result.report.stayed)


def test_compress_of_channels() -> None:
    """The condition is shorter than the channels are many; those behind it are not chosen."""
    twin = Twin(seed=2, opset=17)
    x = image(twin, 2, "N", 3, "H", "W")
    condition = twin.random.random(10) < 0.7
    narrow = np.pad(condition, (0, 1))[x.kept]
    y = twin.op("Compress", x, twin.parameter(Both(condition, narrow), bool), axis=1, moves=True)
    wide = read(twin, y).wide
    result = minimize(wide).model
    assert_equal_outputs(wide, result)
    assert 0 < narrow.sum() < 4 and (int(narrow.sum()), 3, 1, 1) in weights(result)


@pytest.mark.parametrize("mask", [[1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1]])
def test_compress_of_tokens_by_a_computed_condition(mask: list[int]) -> None:
    """Where a constant tells tokens apart, it is not known which of them are chosen, so that the channels stay."""
    model = parser.parse_model("""<ir_version: 9, opset_import: ["": 17]> chosen
        (float[6,5] x, float[6] c) => (float[k,2] y) {
        m = MatMul(x, wa)
        h = Mul(m, mask)
        yes = Greater(c, zero)
        t = Compress <axis = 0> (h, yes)
        y = MatMul(t, wb)
    }""")
    random = np.random.default_rng(0)
    first, last = random.normal(size=(5, 9)).astype(np.float32), random.normal(size=(9, 2)).astype(np.float32)
    first[:, :2], last[3:6] = 0, 0
    constants = {"wa": first, "wb": last, "zero": np.zeros(1), "mask": np.array(mask)[:, None]}
    for name, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert ((4, 2) in weights(result)) is (len(mask) == 1)
