"""What a layer is said to multiply by, times its weights, is what it gives."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze
from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.squeezing.readers import readers_of, with_biases
from onnxsqueeze.units.discovery import units_of
from tests.squeezing.networks import dependent, model


def given(proto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


CONVS = [
    {},
    {"pads": [1, 2, 0, 1]},
    {"strides": [2, 1], "dilations": [1, 2]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [3, 1]},
    {"auto_pad": "VALID"},
    {"group": 2, "pads": [1, 1, 1, 1]},
]


def check_patches(op: str, weight: np.ndarray, attributes: dict) -> None:
    """What a layer's reader says that it multiplies by, times its weights, is what onnxruntime computes."""
    random = np.random.default_rng(0)
    weights = {"k0": random.normal(size=(4, 3, 1, 1)), "k": weight}
    nodes = [
        helper.make_node("Conv", ["x", "k0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node(op, ["r", "k"], ["y"], **attributes),
    ]
    x = random.normal(size=(2, 3, 9, 8)).astype(np.float32)
    plain = model(nodes, weights, ["n", 3, 9, 8], ["n", 6, "h", "w"])
    found = with_biases(load(plain))
    np.testing.assert_array_equal(given(to_proto(found), x), given(plain, x))
    (reader,) = [each for each in readers_of(found, units_of(found)) if each.name == "y"]
    r = np.maximum(0, np.einsum("oi,nihw->nohw", weights["k0"][:, :, 0, 0], x)).astype(np.float32)
    rows = reader.rows({reader.tensors[0]: r}, 10**9, random)
    arrays = {name: value.array for name, value in found.initializers.items()}
    y = given(plain, x)
    products = np.einsum("gmn,gon->mgo", rows, reader.weight(arrays)).reshape(y.shape[0], *y.shape[2:], 6)
    np.testing.assert_allclose(np.moveaxis(products, -1, 1), y, atol=1e-4)


@pytest.mark.parametrize("attributes", CONVS)
def test_patches_of_a_convolution(attributes: dict) -> None:
    weight = np.random.default_rng(1).normal(size=(6, 4 // attributes.get("group", 1), 3, 2))
    check_patches("Conv", weight, attributes)


TRANSPOSED = [
    {},
    {"strides": [2, 2], "pads": [1, 0, 1, 0]},
    {"strides": [2, 3], "output_padding": [1, 2], "dilations": [2, 1]},
    {"strides": [2, 2], "output_shape": [19, 17]},
    {"strides": [2, 2], "output_shape": [18, 17], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 1], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"pads": [2, 1, 2, 1]},
    {"group": 2, "strides": [2, 2], "pads": [0, 1, 1, 0], "output_padding": [1, 0]},
]


@pytest.mark.parametrize("attributes", TRANSPOSED)
def test_patches_of_a_transposed_convolution(attributes: dict) -> None:
    weight = np.random.default_rng(1).normal(size=(4, 6 // attributes.get("group", 1), 3, 2))
    check_patches("ConvTranspose", weight, attributes)


def gemms() -> list[tuple]:
    random = np.random.default_rng(1)
    w, t, b = random.normal(size=(4, 5)), random.normal(size=(5, 4)), random.normal(size=5)
    add = helper.make_node("Add", ["p", "b"], ["y"])
    return [
        ([helper.make_node("Gemm", ["r", "w", "b"], ["y"], alpha=0.5, beta=2.0)], {"w": w, "b": b}, "y"),
        ([helper.make_node("Gemm", ["r", "w", "b"], ["y"], transB=1)], {"w": t, "b": b}, "y"),
        ([helper.make_node("MatMul", ["r", "w"], ["p"]), add], {"w": w, "b": b}, "p"),
        (
            [
                helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
                helper.make_node("MatMul", ["r", "wt"], ["p"]),
                add,
            ],
            {"w": t, "b": b},
            "p",
        ),
    ]


@pytest.mark.parametrize("case", range(4))
def test_weights_and_biases_of_products_can_be_replaced(case: int) -> None:
    """What is written for a reader is what it then multiplies by, whatever stands between."""
    nodes, weights, name = gemms()[case]
    first = [helper.make_node("Gemm", ["x", "w0"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    random = np.random.default_rng(2)
    proto = model([*first, *nodes], {"w0": random.normal(size=(3, 4)), **weights}, ["n", 3], ["n", 5])
    found = load(proto)
    (reader,) = [each for each in readers_of(found, units_of(found)) if each.name == name]
    arrays = {key: value.array for key, value in found.initializers.items()}
    weight, bias = random.normal(size=(1, 5, 4)), random.normal(size=(1, 5))
    arrays.update(reader.written(arrays, weight, bias))
    for tensor in proto.graph.initializer:
        tensor.raw_data = arrays[tensor.name].tobytes()
    x = random.normal(size=(6, 3)).astype(np.float32)
    r = np.maximum(0, x @ arrays["w0"])
    np.testing.assert_allclose(given(proto, x), r @ weight[0].T + bias[0], atol=1e-5)


def test_layers_in_a_branch_that_alone_survives_are_repaired() -> None:
    """What such a layer reads is a tensor of the branch, which no run of the original file gives."""
    source = dependent(np.random.default_rng(0))
    inner = source.graph
    y, z, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 5]) for name in ("y", "z", "out"))
    then = helper.make_graph(inner.node, "then", [], [y])
    nodes = [helper.make_node("Gemm", ["x", "w", "b2"], ["z"])]
    other = helper.make_graph(nodes, "else", [], [z], [numpy_helper.from_array(np.ones((8, 5), np.float32), "w")])
    branch = helper.make_node("If", ["yes"], ["out"], then_branch=then, else_branch=other)
    yes = numpy_helper.from_array(np.array(True), "yes")
    graph = helper.make_graph([branch], "g", inner.input, [out], [*inner.initializer, yes])
    found = helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
    x = np.random.default_rng(2).uniform(-1, 1, size=(300, 8)).astype(np.float32)
    small = onnxsqueeze.squeeze(found, {"x": x}, ratio=2, metric="deviation")
    assert small.report.reached and small.report.chosen.deviation < 1e-3
    assert all(taken.after < taken.before for taken in small.report.chosen.taken if taken.kind == "hidden")
