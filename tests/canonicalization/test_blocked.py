"""Networks whose channels lie in blocks, as onnxruntime saves them at its highest level, lose channels like others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.canonicalization import blocked
from tests.support.builders import Pair, Tensor
from tests.support.fused import fused
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, deviation, minimize, run, weights
from tests.support.planted.layers import Twin

BLOCK = blocked._block_size()
pytestmark = pytest.mark.skipif(BLOCK is None, reason="onnxruntime has no blocks on this machine")
WRITTEN = ("Identity", "Slice", "Pad", "FusedConv", "Add")


def recovers(twin: Twin, y: Tensor, *expected: str, **options: Any) -> onnx.ModelProto:
    """Assert that the wide network in blocks comes back at the size of the small one without."""
    pair = twin.pair(y)
    wide = fused(pair.wide, "Conv", *expected, highest=True)
    assert any(node.domain == blocked.DOMAIN for node in wide.graph.node)
    model = assert_recovers(Pair(wide, pair.small), more=WRITTEN, double=False, **options)
    assert not any(node.domain == blocked.DOMAIN for node in model.graph.node)
    return model


def units(twin: Twin, live: int = 18, width: int = 28) -> Any:
    """Return units, which fill no whole number of blocks unless told otherwise, among them some that can go."""
    return twin.units(live=live, dead=width - live - 2, const=2)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "HardSigmoid", "Tanh", "Sigmoid"])
def test_convolutions(activation: str) -> None:
    twin = Twin(seed=1, opset=17)
    x = twin.op(activation, twin.conv(twin.input("N", 3, "H", "W"), units(twin)))
    x = twin.op(activation, twin.conv(x, units(twin, 20), kernel=1))
    recovers(twin, twin.conv(x, twin.units(live=5)), "ReorderOutput")


def test_clipped() -> None:
    twin = Twin(seed=2, opset=17)
    x = twin.conv(twin.input("N", 3, "H", "W"), units(twin))
    x = twin.op("Clip", x, *(twin.parameter(np.float32(bound)) for bound in (-0.3, 0.4)))
    recovers(twin, twin.conv(x, twin.units(live=5)))


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_pools(opset: int) -> None:
    twin = Twin(seed=3, opset=opset)
    x = twin.relu(twin.conv(twin.input("N", 3, 18, 18), units(twin, width=32)))
    x = twin.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = twin.relu(twin.conv(x, units(twin, width=32)))
    x = twin.op("AveragePool", x, kernel_shape=[2, 2])
    x = twin.relu(twin.conv(x, units(twin, 25, 32)))
    x = twin.op("GlobalAveragePool" if opset < 18 else "GlobalMaxPool", x)
    recovers(twin, twin.conv(x, twin.units(live=5), kernel=1), "MaxPool", "AveragePool")


def test_residual_and_depthwise() -> None:
    twin = Twin(seed=4, opset=17)
    kinds = units(twin)
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), kinds))
    y = twin.relu(twin.depthwise(x, pads=1))
    y = twin.conv(y, kinds, kernel=1)
    x = twin.relu(twin.op("Add", x, y))
    recovers(twin, twin.conv(x, twin.units(live=5)))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resized_and_joined(mode: str) -> None:
    twin = Twin(seed=5, opset=17)
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), units(twin)))
    how = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        how["nearest_mode"] = "floor"
    y = twin.op("Resize", x, twin.parameter([]), twin.parameter([1, 1, 2, 2]), **how)
    z = twin.relu(twin.conv(y, units(twin), kernel=1))
    recovers(twin, twin.conv(twin.op("Concat", y, z, moves=True, axis=1), twin.units(live=5)))


def test_channels_that_fill_no_block_enter() -> None:
    twin = Twin(seed=6, opset=17)
    x = twin.relu(twin.conv(twin.input("N", 20, "H", "W"), units(twin)))
    recovers(twin, twin.conv(x, twin.units(live=5)), "ReorderInput")


def test_what_enters_is_filled_up() -> None:
    """With zeros, for a convolution of each channel by itself."""
    twin = Twin(seed=6, opset=17)
    x = twin.conv(twin.input("N", 3, "H", "W"), units(twin))
    x = twin.op("Erf", x)  # which onnxruntime computes outside of the blocks
    x = twin.op("Erf", twin.depthwise(x))
    recovers(twin, twin.conv(x, twin.units(live=5), kernel=1), "ReorderInput")


def test_channels_last() -> None:
    """What comes out of the blocks is turned at once."""
    twin = Twin(seed=7, opset=17)
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), units(twin)))
    x = twin.op("Transpose", x, channels=3, perm=[0, 2, 3, 1])
    recovers(twin, twin.matmul(x, twin.units(live=4)))


def grouped(gone: int) -> onnx.ModelProto:
    """Return a convolution in two groups of 32, of which ``gone`` outputs of each are dead, between two others."""
    random = np.random.default_rng(gone)
    dead = np.concatenate([random.permutation(32)[:gone], 32 + random.permutation(32)[:gone]])
    stored = {"a": (64, 3, 3, 3), "b": (64, 32, 3, 3), "c": (4, 64, 1, 1)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) / 9 for name, shape in stored.items()}
    arrays["c"][:, dead] = 0
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("Conv", ["h", "b"], ["i"], group=2),
        helper.make_node("Conv", ["i", "c"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c, "H", "W"]) for n, c in (("x", 3), ("y", 4))]
    infos[1].type.tensor_type.shape.dim[2].dim_param, infos[1].type.tensor_type.shape.dim[3].dim_param = "h", "w"
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_groups() -> None:
    model = fused(grouped(10), highest=True)
    result = minimize(model)
    assert [shape for shape in weights(result.model) if len(shape) > 1] == [
        (4, 44, 1, 1),
        (44, 32, 3, 3),
        (64, 3, 3, 3),
    ]
    assert_equal_outputs(model, result.model, double=False)


def test_nothing_leaves() -> None:
    """The model is as it was."""
    twin = Twin(seed=8, opset=17)
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), twin.units(live=2 * (BLOCK or 1))))
    model = fused(twin.pair(twin.conv(x, twin.units(live=BLOCK or 1))).wide, highest=True)
    assert any(node.domain == blocked.DOMAIN for node in model.graph.node)
    assert minimize(model).model.graph.node == model.graph.node


def test_blocks_that_another_node_reads_stay() -> None:
    """Nothing is said of what an operator does that sees the layout itself."""
    twin = Twin(seed=9, opset=17)
    x = twin.relu(twin.conv(twin.input("N", 3, "H", "W"), units(twin)))
    model = fused(twin.pair(twin.conv(x, twin.units(live=5))).wide, highest=True)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    model.graph.node.append(helper.make_node("Transpose", [first.output[0]], ["seen"], perm=[0, 2, 3, 1]))
    model.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["N", "h", "w", "c"]))
    result = minimize(model)
    assert result.model.graph.node == model.graph.node
    feeds = {"x": np.ones((1, 3, 6, 6), np.float32)}
    name = model.graph.input[0].name
    assert deviation(run(model, {name: feeds["x"]}), run(result.model, {name: feeds["x"]})) == 0
