"""What onnxruntime's optimizers fused loses its channels as before, and stays fused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.builders import Pair, Tensor
from tests.support.fused import MICROSOFT, fused_pair
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, operators, weights
from tests.support.planted.layers import Twin

ACTIVATIONS: dict[str, dict[str, Any]] = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "LeakyRelu": {"alpha": 0.3},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
}
OF_GEMM = {
    **ACTIVATIONS,
    "Elu": {"alpha": 0.7},
    "Selu": {"alpha": 1.2, "gamma": 0.9},
    "Softplus": {},
    "Softsign": {},
    "ThresholdedRelu": {"alpha": 0.2},
}


def stays_fused(pair: Pair, *expected: str, **options: Any) -> None:
    """Assert that the wide network comes back as the small one is fused."""
    both = fused_pair(pair, *expected)
    model = assert_recovers(both, double=False, **options)
    assert operators(model) == operators(both.small)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "Clip"])
def test_convolution(activation: str) -> None:
    twin = Twin(seed=1, opset=17)
    settings = ACTIVATIONS.get(activation, {})
    bounds = [twin.parameter(np.float32(value)) for value in (-0.2, 0.3)] if activation == "Clip" else []
    x = twin.input("N", 3, "H", "W")
    for count in (6, 5):
        x = twin.conv(x, twin.units(live=count, const=3, zero=2))
        x = twin.op(activation, x, *bounds, **settings)
    stays_fused(twin.pair(twin.conv(x, twin.units(live=2))), "FusedConv")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", OF_GEMM)
def test_gemm(activation: str, bias: bool) -> None:
    twin = Twin(seed=2, opset=17)
    x = twin.input("N", 12)
    for count in (6, 5):
        x = twin.op(activation, twin.gemm(x, twin.units(live=count, const=3, dead=2), bias=bias), **OF_GEMM[activation])
    stays_fused(twin.pair(twin.gemm(x, twin.units(live=3))), "FusedGemm")


def gelu(twin: Twin, x: Tensor) -> Tensor:
    """By the error function, as torch's older exporters write it."""
    root, one, half = (twin.parameter(np.float32(value)) for value in (np.sqrt(2), 1, 0.5))
    grown = twin.op("Add", twin.op("Erf", twin.op("Div", x, root)), one)
    return twin.op("Mul", twin.op("Mul", x, grown), half)


def fast_gelu(twin: Twin, x: Tensor) -> Tensor:
    """By the hyperbolic tangent, as GPT-2 writes it."""
    three, cubic, slope, one, half = (
        twin.parameter(np.float32(value)) for value in (3, 0.044715, np.sqrt(2 / np.pi), 1, 0.5)
    )
    cube = twin.op("Mul", twin.op("Pow", x, three), cubic)
    inside = twin.op("Mul", twin.op("Add", x, cube), slope)
    return twin.op("Mul", twin.op("Mul", x, half), twin.op("Add", twin.op("Tanh", inside), one))


def quick_gelu(twin: Twin, x: Tensor) -> Tensor:
    """By the logistic function, as CLIP writes it."""
    return twin.op("Mul", x, twin.op("Sigmoid", twin.op("Mul", x, twin.parameter(np.float32(1.702)))))


FORMS = {
    "BiasGelu": (gelu, True),
    "Gelu": (gelu, False),
    "FastGelu": (fast_gelu, True),
    "QuickGelu": (quick_gelu, True),
}


@pytest.mark.parametrize("op", FORMS)
def test_gelu(op: str) -> None:
    form, bias = FORMS[op]
    twin = Twin(seed=3, opset=17)
    x = twin.input("N", "T", 12, axis=2)
    for count in (6, 5):
        x = form(twin, twin.matmul(x, twin.units(live=count, const=3 * bias, dead=2, zero=2), add=bias))
    stays_fused(twin.pair(twin.matmul(x, twin.units(live=3))), op)


def one_layer(nodes: list[onnx.NodeProto], stored: dict[str, Any], x: list[Any], y: list[Any]) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in stored.items()]
    declared = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(
        helper.make_graph(nodes, "one", declared, made, tensors), opset_imports=opsets, ir_version=8
    )


def residual(activation: str, bias: bool) -> onnx.ModelProto:
    """Two convolutions that are added inside of the second, of 8 channels, of which 3 are constant; a third reads."""
    random = np.random.default_rng(4)
    first, second = random.standard_normal((2, 8, 3, 3, 3))
    first[5:], second[5:] = 0, 0
    stored = {"w1": first, "w2": second, "w3": random.standard_normal((2, 8, 1, 1)) / 3}
    stored["b1"] = random.standard_normal(8)
    if bias:
        stored["b2"] = random.standard_normal(8)
    settings = {"activation": activation} if activation else {}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], **pads),
        helper.make_node(
            "FusedConv", ["x", "w2", "b2" if bias else "", "a"], ["s"], "second", domain=MICROSOFT, **pads, **settings
        ),
        helper.make_node("Conv", ["s", "w3"], ["y"]),
    ]
    return one_layer(nodes, stored, ["N", 3, "H", "W"], ["N", 2, "A", "B"])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["", "Relu", "Tanh"])
def test_convolution_with_a_sum(activation: str, bias: bool) -> None:
    model = residual(activation, bias)
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False)
    kernels = [shape for shape in weights(result.model) if len(shape) == 4]
    assert sorted(kernels) == [(2, 5, 1, 1), (5, 3, 3, 3), (5, 3, 3, 3)]
    assert operators(result.model) == operators(model)
    layer = next(layer for layer in result.report.layers if layer.name == "second")
    assert layer.shape_before == (8, 3, 3, 3)
    assert (result.report.nodes_before, result.report.nodes_after) == (3, 3)


def test_unknown_activation_stays() -> None:
    model = residual("Relu", bias=True)
    next(entry for entry in model.graph.node[1].attribute if entry.name == "activation").s = b"Mystery"
    stayed = minimize(model, narrowing=False).report.stayed
    assert f"{Reason.UNKNOWN_OPERATOR.value}: com.microsoft.FusedConv" in stayed, stayed


def test_bias_that_something_else_reads() -> None:
    """It goes on to exist beside the narrower one."""
    random = np.random.default_rng(5)
    weight, bias = random.standard_normal((6, 8)), random.standard_normal(8)
    weight[:, 5:], bias[5:] = 0, 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("BiasGelu", ["h", "b"], ["g"], domain=MICROSOFT),
        helper.make_node("MatMul", ["g", "v"], ["z"]),
        helper.make_node("Add", ["z", "b"], ["y"]),
    ]
    model = one_layer(nodes, {"w": weight, "b": bias, "v": random.standard_normal((8, 8))}, ["N", 6], ["N", 8])
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False)
    assert (6, 5) in weights(result.model) and (5, 8) in weights(result.model)
    assert operators(result.model) == operators(model)


def skip_norm(*outputs: str, opset: int, gone: int = 0) -> onnx.ModelProto:
    """A SkipLayerNormalization that writes ``outputs``; a layer reads the first, and a sum adds up all others."""
    random = np.random.default_rng(6)
    weight = random.standard_normal((12, 64))
    weight[:, 64 - gone :] = 0
    stored = {"w": weight, "scale": random.standard_normal(64), "shift": random.standard_normal(64)}
    stored["v"] = random.standard_normal((64, 3))
    stored["u"] = random.standard_normal((64, 64))
    stored["u"][:, 64 - gone :] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "u"], ["i"]),
        helper.make_node(
            "SkipLayerNormalization", ["h", "i", "scale", "shift"], list(outputs), domain=MICROSOFT, epsilon=1e-3
        ),
        helper.make_node("MatMul", ["normed", "v"], ["z"]),
    ]
    others = [name for name in outputs[1:] if name and not name.startswith("unread")]
    if "sum" in others:
        nodes.append(helper.make_node("ReduceMean", ["sum"], ["sum_mean"], axes=[-1], keepdims=1))
    names = [name if name != "sum" else "sum_mean" for name in others]
    nodes.append(helper.make_node("Sum", ["z", *names], ["y"]))
    model = one_layer(nodes, stored, ["N", "T", 12], ["N", "T", 3])
    model.opset_import[0].version = opset
    return model


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize(
    "outputs",
    [
        ("normed", "mean", "deviation", "sum"),
        ("normed", "mean"),
        ("normed", "", "deviation"),
        ("normed", "unread_mean", "unread_deviation", "sum"),
    ],
    ids=lambda names: "-".join(names),
)
@pytest.mark.parametrize("gone", [0, 40])
def test_all_outputs_of_a_skip_norm(outputs: tuple[str, ...], opset: int, gone: int) -> None:
    model = skip_norm(*outputs, opset=opset, gone=gone)
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model, double=False, tolerance=1e-4)
    if not gone:
        assert result.model.graph.node == model.graph.node


@pytest.mark.parametrize("opset", [13, 17])
def test_unread_outputs_of_a_skip_norm_tie_nothing(opset: int) -> None:
    model = skip_norm("normed", "unread_mean", "unread_deviation", "unread_sum", opset=opset, gone=40)
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False, tolerance=1e-4)
    assert (12, 25) in weights(result.model), weights(result.model)


def test_name_that_the_parts_would_have() -> None:
    """New names give way to those of the model."""
    model = residual("Relu", bias=True)
    model.graph.node[0].output[0] = model.graph.node[1].input[3] = "s.Conv_0"
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=False)
    assert operators(result.model) == operators(model)
