"""Units whose weights are not read as they are stored."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.model.counting import weight_elements
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.units.discovery import units_of
from tests.support.planted import checks

UNITS, FEATURES = 6, 5


def _network(nodes: list, weights: dict[str, np.ndarray], shape: list, outputs: list) -> onnx.ModelProto:
    constants = {"a": [0], "b": [UNITS], "c": [2 * UNITS], "d": [3 * UNITS], "front": [0]}
    held = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    held += [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    found = [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)]
    graph = helper.make_graph(nodes, "g", given, found, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _gates(name: str) -> list[onnx.NodeProto]:
    """Cut a weight into three gates and join them in another order, as torch's older exporter does."""
    cuts = (("b", "c"), ("a", "b"), ("c", "d"))
    parts = [f"{name}{place}" for place in range(3)]
    return [
        *(helper.make_node("Slice", [name, *cut, "front"], [part]) for part, cut in zip(parts, cuts, strict=True)),
        helper.make_node("Concat", parts, [f"{name}_joined"], axis=0),
    ]


def recurrent(random: np.random.Generator) -> onnx.ModelProto:
    """Return a GRU with weights as torch stores them, and a layer that reads it."""
    nodes = [node for name in ("w", "r", "bw", "br") for node in _gates(name)]
    nodes += [
        helper.make_node("Unsqueeze", ["w_joined", "front"], ["kernel"]),
        helper.make_node("Unsqueeze", ["r_joined", "front"], ["recurrence"]),
        helper.make_node("Concat", ["bw_joined", "br_joined"], ["both"], axis=0),
        helper.make_node("Unsqueeze", ["both", "front"], ["bias"]),
        helper.make_node(
            "GRU", ["x", "kernel", "recurrence", "bias"], ["", "h"], hidden_size=UNITS, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["h", "front"], ["s"]),
        helper.make_node("Gemm", ["s", "v", "c0"], ["y"]),
    ]
    shapes = {"w": (18, FEATURES), "r": (18, UNITS), "bw": (18,), "br": (18,), "v": (UNITS, 3), "c0": (3,)}
    weights = {name: random.normal(size=shape) for name, shape in shapes.items()}
    return _network(nodes, weights, ["time", "batch", FEATURES], ["batch", 3])


def tokens(random: np.random.Generator, repeated: bool) -> onnx.ModelProto:
    """Return patches beside a constant token, a LayerNorm over each, and a layer that reads the token."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"])]
    if repeated:
        nodes.append(helper.make_node("Expand", ["token", "shape"], ["front_token"]))
    nodes += [
        helper.make_node("Concat", ["front_token" if repeated else "token", "p"], ["t"], axis=1),
        helper.make_node("Add", ["t", "positions"], ["s"]),
        helper.make_node("MatMul", ["s", "u"], ["m"]),
        helper.make_node("Add", ["m", "s"], ["r"]),
        helper.make_node("LayerNormalization", ["r", "scale", "shift"], ["n"]),
        helper.make_node("Gather", ["n", "first"], ["f"], axis=1),
        helper.make_node("Gemm", ["f", "v", "c0"], ["y"]),
    ]
    batch = 2 if repeated else 1
    shapes = {"w": (5, 8), "token": (1, 1, 8), "positions": (1, 4, 8), "u": (8, 8), "scale": (8,), "shift": (8,)}
    shapes |= {"v": (8, 3), "c0": (3,)}
    weights = {name: random.normal(size=shape) for name, shape in shapes.items()}
    model = _network(nodes, weights, [batch, 3, 5], [batch, 3])
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "first"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([batch, 1, 1], np.int64), "shape"))
    return model


def without(source: onnx.ModelProto, removed: int, shape: tuple[int, ...]) -> tuple[Model, int, int]:
    """Return a model minimized without its first units, its elements, and those that were foretold."""
    dense = load(source)
    units = units_of(dense, columns=False)
    gone = np.arange(len(units)) < removed
    masked = onnx.ModelProto()
    masked.CopyFrom(source)
    masks = units.masks(gone)
    for tensor in masked.graph.initializer:
        if tensor.name in masks:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.where(masks[tensor.name], array, 0), tensor.name))
    result = checks.minimize(masked)
    found = result.minimized
    feeds = {"x": np.random.default_rng(5).normal(size=shape).astype(np.float32)}
    assert checks.deviation(checks.run(masked, feeds), checks.run(result.model, feeds)) < checks.SINGLE
    return found, weight_elements(found), units.left(gone, standing=False)


def test_units_of_gates_that_are_cut_and_joined() -> None:
    """Each unit is a row of every gate and a column of the recurrence, wherever they are stored."""
    source = recurrent(np.random.default_rng(0))
    assert Counter(units_of(load(source), columns=False).kinds) == {"hidden": UNITS}
    _, left, foretold = without(source, 2, (4, 2, FEATURES))
    assert left == foretold
    kept = UNITS - 2
    assert left == 3 * kept * (FEATURES + kept + 2) + 3 * kept + 3


def test_channels_beside_a_constant_token() -> None:
    """A token that is laid beside the patches has their channels, and leaves with them, also if it is repeated."""
    for repeated in (False, True):
        source = tokens(np.random.default_rng(1), repeated)
        assert Counter(units_of(load(source), columns=False).kinds) == {"stream": 8}
        found, _, _ = without(source, 3, (2 if repeated else 1, 3, 5))
        assert found.initializers["w"].shape[1] <= 6, "one channel of zeros may stay for the norm"
