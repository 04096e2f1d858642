"""What GridSample keeps: constants that become none, and the grid; and its modes under their older names."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from tests.operators.movement.test_grid_sample import sampled
from tests.support.builders import Pair
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, run, weights
from tests.support.planted.layers import Twin

OLDER = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}
"""The modes before opset 20."""


def older(model: ModelProto) -> ModelProto:
    model.opset_import[0].version = 16
    for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
        if attribute.name == "mode":
            attribute.s = OLDER[attribute.s.decode()].encode()
    return model


def read_everywhere(model: ModelProto) -> ModelProto:
    weight = model.graph.initializer[-2]  # of the last layer, which a bias follows
    weight.CopyFrom(numpy_helper.from_array(np.ones(weight.dims, np.float32), weight.name))
    return model


@pytest.mark.parametrize("mode", OLDER)
def test_the_modes_before_opset_20(mode: str) -> None:
    pair = sampled(mode, "reflection", const=0 if mode == "cubic" else 2)
    # onnx's reference knows the new names alone
    assert_recovers(Pair(older(pair.wide), older(pair.small)), double=False)
    wide = older(read_everywhere(sampled(mode, "reflection", const=2).wide))
    result = minimize(wide).model
    assert_equal_outputs(wide, result, double=False)
    assert (9 if mode == "cubic" else 7, 3, 1, 1) in weights(result)  # none of the dead ones is dead any more


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", OLDER)
def test_a_constant_that_becomes_none_stays(mode: str, padding: str) -> None:
    wide = read_everywhere(sampled(mode, padding, const=2).wide)
    result = minimize(wide).model
    assert_equal_outputs(wide, result)
    varies = padding == "zeros" or mode == "cubic"
    assert (9 if varies else 7, 3, 1, 1) in weights(result)


def test_cubic_interpolation_overshoots() -> None:
    """What comes of numbers that are never positive may be positive."""
    twin = Twin(seed=0, opset=20)
    x = twin.op("Neg", twin.relu(twin.conv(twin.input(1, 3, "H", "W"), twin.units(live=4), kernel=1)))
    x = twin.op("GridSample", x, twin.parameter(twin.random.uniform(-1, 1, (1, 6, 7, 2))), mode="cubic")
    x = twin.relu(twin.op("Sub", x, twin.parameter(np.float32(0.01))))
    wide = read_everywhere(twin.pair(twin.conv(x, twin.units(live=2), kernel=1)).wide)
    assert_equal_outputs(wide, minimize(wide).model)


COMPUTED = """<ir_version: 9, opset_import: ["": 20]> sampled (float[n,3,6,7] x) => (float[n,2,6,7] y) {
    places = Conv(x, w_grid)
    grid = Transpose <perm = [0, 2, 3, 1]> (places)
    image = Conv(x, w_image)
    sampled = GridSample(image, grid)
    y = Conv(sampled, w)
}"""


def test_a_computed_grid_stays_whole() -> None:
    """A constant coordinate cannot go, and nothing can take it up."""
    model, random = parser.parse_model(COMPUTED), np.random.default_rng(0)
    arrays = {"w_grid": random.normal(size=(2, 3)), "w_image": random.normal(size=(7, 3)), "w": np.ones((2, 7))}
    arrays["w_grid"][0] = 0
    arrays["w"][:, :3] = 0
    for name, array in arrays.items():
        kernel = array[:, :, None, None].astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(kernel, name))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert weights(result.model) == [(2, 3, 1, 1), (2, 4, 1, 1), (4, 3, 1, 1)]
    assert "constant, but its reader cannot absorb a constant: the grid of GridSample" in result.report.stayed


MASKED = """masked = Mul(x, mask)
    image = Add(masked, fill)"""
JOINED = """first = Conv(x, w_first)
    last = Conv(x, w_last)
    image = Concat <axis = 2> (first, last)"""
UPSIDE_DOWN = """<ir_version: 9, opset_import: ["": 20]> upside_down (float[n,3,2,5] x) => (float[n,2,k,5] y) {
    %s
    sampled = GridSample <mode = "nearest", padding_mode = "border", align_corners = 1> (image, grid)
    row = Slice (sampled, starts, ends, axes)
    made = Conv (row, w)
    other = Slice (x, starts, ends, axes)
    both = Concat <axis = 1> (made, other)
    y = Conv (both, v)
}"""


@pytest.mark.parametrize("fill", [0.0, 4.0])
@pytest.mark.parametrize("image", [MASKED, JOINED], ids=["a constant row", "two tensors"])
def test_rows_of_an_image_differ(image: str, fill: float) -> None:
    """The first row of what is sampled is the last one of the image, which is another tensor, or none of constants."""
    model, random = parser.parse_model(UPSIDE_DOWN % image), np.random.default_rng(1)
    height = 4 if image == JOINED else 2
    across, down = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(1, -1, height))
    arrays = {
        "mask": np.array([0, 1], np.float32).reshape(1, 1, 2, 1),
        "fill": np.array([fill, 0], np.float32).reshape(1, 1, 2, 1),
        "grid": np.repeat(np.stack([across, down], -1)[None], 2, 0).astype(np.float32),
        **{name: np.array([value]) for name, value in {"starts": 0, "ends": 1, "axes": 2}.items()},
    }
    for name, shape in {"w_first": (3, 3), "w_last": (3, 3), "w": (2, 3), "v": (2, 5)}.items():
        arrays[name] = random.standard_normal((*shape, 1, 1)).astype(np.float32)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in sorted(used & set(arrays)))
    result = minimize(model).model
    feeds = {"x": random.standard_normal((2, 3, 2, 5)).astype(np.float32)}  # for as many images as the grid
    np.testing.assert_allclose(run(result, feeds)[0], run(model, feeds)[0], rtol=1e-5, atol=1e-5)
