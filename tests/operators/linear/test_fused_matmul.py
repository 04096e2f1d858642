"""FusedMatMul: every way to transpose its operands, as a layer and as a product of two activations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze.operators  # noqa: F401  (registers the rules)
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.registry import rule_for
from tests.support.fused import MICROSOFT
from tests.support.planted.checks import assert_equal_outputs, minimize, weights

Array = npt.NDArray[Any]
NAMES = ("transA", "transB", "transBatchA", "transBatchB")
WAYS = [dict(zip(NAMES, way, strict=True)) for way in product((0, 1), repeat=4)]
MATRICES = [way for way in WAYS if not way["transBatchA"] and not way["transBatchB"]]  # else ranks are to be equal


def stored(array: Array, side: str, way: Mapping[str, int]) -> Array:
    """Return [..., rows, columns] as the operator is to read it."""
    if way[f"trans{side}"] and array.ndim > 1:
        array = array.swapaxes(-1, -2)
    return np.moveaxis(array, -2, 0) if way[f"transBatch{side}"] and array.ndim > 2 else array


def model(nodes: list[onnx.NodeProto], x: Array, parameters: Mapping[str, Array], rank: int) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in parameters.items()]
    kinds = [f"x{axis}" for axis in range(x.ndim - 1)]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*kinds, x.shape[-1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{axis}" for axis in range(rank)])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def fused(left: str, right: str, output: str, alpha: float = 1.0, **way: int) -> onnx.NodeProto:
    return helper.make_node("FusedMatMul", [left, right], [output], domain=MICROSOFT, alpha=alpha, **way)


def node_of(proto: onnx.ModelProto) -> Node:
    return Graph(load(proto)).nodes[-1]


SHAPES = [
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (4, 5)),
    ((2, 1, 3, 4), (6, 4, 5)),
    ((2, 3, 4), (1, 4, 5)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "".join(map(str, way.values())))
def test_value_and_shape(way: dict[str, int], shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """The rule says what onnxruntime computes, where that takes the node."""
    random = np.random.default_rng(0)
    left, right = (
        stored(random.standard_normal(shape).astype(np.float32), side, way)
        for side, shape in zip("AB", shapes, strict=True)
    )
    expected = np.asarray(0.3 * (restored(left, "A", way) @ restored(right, "B", way)))
    proto = model([fused("x", "w", "y", 0.3, **way)], left, {"w": right}, expected.ndim)
    node = node_of(proto)
    rule = rule_for(node)
    assert rule.evaluate is not None
    (found,) = rule.evaluate(node, [left, right])
    assert found.shape == expected.shape and np.allclose(found, expected, atol=1e-5)
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (run,) = session.run(None, {"x": left})
    except Exception:  # it refuses some forms
        return
    assert run.shape == expected.shape and np.allclose(run, expected, atol=1e-5)
    shape = analyse(load(proto)).context.shapes.get("y")
    assert shape is None or len(shape) == run.ndim and shape[-1] == run.shape[-1]


def restored(array: Array, side: str, way: Mapping[str, int]) -> Array:
    """Undo `stored`."""
    if way[f"transBatch{side}"] and array.ndim > 2:
        array = np.moveaxis(array, 0, -2)
    return array.swapaxes(-1, -2) if way[f"trans{side}"] and array.ndim > 1 else array


@pytest.mark.parametrize("way", MATRICES, ids=lambda way: "".join(map(str, way.values())))
@pytest.mark.parametrize("alpha", [1.0, -0.4])
def test_layer(way: dict[str, int], alpha: float) -> None:
    """Of 8 units 3 are dead; a layer behind reads the others."""
    random = np.random.default_rng(1)
    weight, last = random.standard_normal((6, 8)).astype(np.float32), random.standard_normal((8, 2)).astype(np.float32)
    weight[:, 5:] = 0
    x = stored(np.zeros((2, 3, 6), np.float32), "A", way)
    parameters = {"w": stored(weight, "B", way), "v": last}
    proto = model([fused("x", "w", "h", alpha, **way), helper.make_node("MatMul", ["h", "v"], ["y"])], x, parameters, 3)
    if way["transA"] or way["transBatchA"]:  # which axis holds the channels is to be fixed
        for axis, size in enumerate(x.shape):
            proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    result = minimize(proto)
    assert_equal_outputs(proto, result.model, double=False)
    assert sorted(weights(result.model)) == sorted([(5, 2), (5, 6) if way["transB"] else (6, 5)])


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_product_of_activations(alpha: float) -> None:
    """Two layers of 8 units meet; in the one 3 are dead, so that those of the other go too."""
    random = np.random.default_rng(2)
    parameters = {name: random.standard_normal((6, 8)).astype(np.float32) for name in ("q", "k")}
    parameters["q"][:, 5:] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["a"]),
        helper.make_node("MatMul", ["x", "k"], ["b"]),
        fused("a", "b", "y", alpha, transB=1),
    ]
    proto = model(nodes, np.zeros((2, 3, 6), np.float32), parameters, 3)
    result = minimize(proto)
    assert_equal_outputs(proto, result.model, double=False)
    assert weights(result.model) == [(6, 5), (6, 5)]


def test_product_with_nothing_is_refused() -> None:
    """With alpha 0 infinities would become NaN; no optimizer writes it."""
    proto = model([fused("x", "x", "y", 0.0, transB=1)], np.zeros((2, 3, 6), np.float32), {}, 3)
    analysis = analyse(load(proto))
    assert analysis.context.refusals[0].reason is Reason.UNKNOWN_SHAPE
