"""Forms of layers and elementwise operators against onnxruntime, with gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from onnxsqueeze.training.module import from_onnx
from tests.training.lowerings.checking import Array, Case, as_model, assert_same_outputs, check, run

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def apart(*shape: int) -> Array:
    """Values none of which is near another or near a whole number: no kink or tie lies between differences."""
    count = int(np.prod(shape))
    values = (RANDOM.permutation(count) - count // 2 + 0.26) * 0.11
    return values.astype(np.float32).reshape(shape)


def positive(*shape: int) -> Array:
    return (0.5 + RANDOM.random(shape)).astype(np.float32)


def conv(x: Array, weight: Array, bias: bool = False, op: str = "Conv", label: str = "", **attributes: Any) -> Case:
    channels = weight.shape[0] if op == "Conv" else weight.shape[1] * attributes.get("group", 1)
    operands = [x, weight, normal(channels)] if bias else [x, weight]
    return Case(op, operands, tuple(range(1, len(operands))), attributes=attributes, label=label)


CONVOLUTIONS = [
    conv(normal(2, 3, 9), normal(4, 3, 3), True, label="1d", pads=[2, 1]),
    conv(normal(2, 4, 9, 8), normal(6, 2, 3, 3), True, label="grouped", group=2, pads=[1, 1, 1, 1], strides=[2, 1]),
    conv(normal(2, 4, 9, 8), normal(6, 4, 3, 2), label="uneven", pads=[0, 1, 2, 0], dilations=[2, 1]),
    conv(normal(2, 3, 9, 8), normal(4, 3, 3, 4), True, label="same-upper", auto_pad="SAME_UPPER", strides=[2, 3]),
    conv(normal(2, 3, 9, 8), normal(4, 3, 4, 4), True, label="same-lower", auto_pad="SAME_LOWER"),
    conv(normal(2, 3, 9, 8), normal(4, 3, 3, 3), label="valid", auto_pad="VALID"),
    conv(normal(2, 3, 5, 6, 4), normal(4, 3, 3, 2, 2), True, label="3d", pads=[1, 0, 0, 1, 0, 0]),
    conv(normal(2, 4, 6), normal(4, 3, 4), True, "ConvTranspose", "1d", strides=[2], pads=[1, 1]),
    conv(
        normal(2, 4, 6, 5),
        normal(4, 3, 3, 3),
        True,
        "ConvTranspose",
        "grouped",
        group=2,
        strides=[2, 2],
        output_padding=[1, 0],
        pads=[1, 1, 1, 1],
    ),
    conv(normal(2, 4, 6, 5), normal(4, 3, 4, 3), True, "ConvTranspose", "uneven", strides=[2, 2], pads=[1, 0, 0, 1]),
    conv(normal(2, 4, 6, 5), normal(4, 3, 4, 3), True, "ConvTranspose", "asked", strides=[2, 2], output_shape=[11, 10]),
    conv(normal(2, 4, 6, 5), normal(4, 3, 4, 3), False, "ConvTranspose", "wide", strides=[2, 2], output_shape=[15, 12]),
    conv(normal(2, 4, 6, 5), normal(4, 3, 4, 3), True, "ConvTranspose", "upper", strides=[2, 3], auto_pad="SAME_UPPER"),
    conv(normal(2, 4, 6, 5), normal(4, 3, 4, 3), True, "ConvTranspose", "lower", strides=[3, 2], auto_pad="SAME_LOWER"),
]


def gemm(*operands: Array, stored: tuple[int, ...], label: str, **attributes: Any) -> Case:
    return Case("Gemm", list(operands), stored, attributes=attributes, label=label)


PRODUCTS = [
    gemm(normal(3, 5), normal(4, 5), normal(4), stored=(1, 2), label="linear", transB=1),
    gemm(normal(3, 5), normal(5, 4), normal(4), stored=(1, 2), label="scaled", alpha=0.7, beta=1.3),
    gemm(normal(5, 3), normal(5, 4), normal(3, 1), stored=(1, 2), label="column", transA=1),
    gemm(normal(3, 5), normal(4, 5), stored=(1,), label="plain", transB=1, alpha=0.5),
    gemm(normal(3, 5), normal(5, 3), normal(3), stored=(0, 2), label="left", alpha=2.0),
    Case("MatMul", [normal(3, 5), normal(5, 4)], (1,), label="matrix"),
    Case("MatMul", [normal(2, 3, 5), normal(5, 4)], (1,), label="rows"),
    Case("MatMul", [normal(5), normal(5, 4)], (1,), label="vector"),
    Case("MatMul", [normal(3, 5), normal(2, 5, 4)], (0,), label="left"),
    Case("MatMul", [normal(2, 1, 3, 5), normal(4, 5, 2)], label="batched"),
    Case("Einsum", [normal(2, 3, 5), normal(5, 4)], (1,), attributes={"equation": "bik, kj -> bij"}),
    Case("Einsum", [normal(2, 3, 5), normal(4, 5)], (1,), attributes={"equation": "...k,jk->...j"}, label="dots"),
    Case("Einsum", [normal(2, 3, 5)], attributes={"equation": "bij->bji"}, label="one"),
]

POOLS = [
    Case(op, [apart(2, 3, 9, 8)], attributes=attributes, label=label)
    for op, label, attributes in (
        ("MaxPool", "plain", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", "uneven", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 2, 0], "dilations": [1, 2]}),
        ("MaxPool", "ceil", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", "same", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ("AveragePool", "plain", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("AveragePool", "counted", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("AveragePool", "uneven", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 2, 0]}),
        ("AveragePool", "uneven-counted", {"kernel_shape": [3, 2], "pads": [0, 1, 2, 0], "count_include_pad": 1}),
        ("AveragePool", "dilated", {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 0, 1, 0]}),
        ("AveragePool", "same", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", "ceil", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("LpPool", "p2", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
        ("LpPool", "p3", {"kernel_shape": [3, 2], "p": 3}),
        ("GlobalAveragePool", "", {}),
        ("GlobalMaxPool", "", {}),
        ("GlobalLpPool", "", {"p": 3}),
    )
] + [
    Case("MaxPool", [apart(2, 3, 9)], attributes={"kernel_shape": [3], "strides": [2]}, label="1d"),
    Case("AveragePool", [normal(2, 3, 5, 6, 4)], attributes={"kernel_shape": [2, 3, 2]}, label="3d"),
]

CURVES = [
    *(Case(op, [apart(3, 7)]) for op in ("Relu", "Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Mish", "Abs")),
    *(Case(op, [apart(3, 7)]) for op in ("Neg", "Exp", "Sin", "Cos", "Atan", "Sinh", "Cosh", "Asinh", "HardSwish")),
    *(Case(op, [positive(3, 7)]) for op in ("Log", "Sqrt", "Reciprocal", "Tan")),
    *(Case(op, [positive(3, 7) - 1]) for op in ("Asin", "Acos", "Atanh")),
    Case("Acosh", [positive(3, 7) + 1]),
    *(Case(op, [apart(3, 7) * 1.7], differentiable=False) for op in ("Ceil", "Floor", "Round", "Sign")),
    Case("Round", [np.float32([0.5, 1.5, 2.5, -0.5, -1.5])], differentiable=False, label="halves"),
    Case("LeakyRelu", [apart(3, 7)], attributes={"alpha": 0.2}),
    Case("ThresholdedRelu", [apart(3, 7)], attributes={"alpha": 0.4}),
    Case("HardSigmoid", [apart(3, 40)], attributes={"alpha": 0.3, "beta": 0.4}),
    Case("Elu", [apart(3, 7)], attributes={"alpha": 0.7}),
    Case("Celu", [apart(3, 7)], attributes={"alpha": 0.7}),
    Case("Selu", [apart(3, 7)]),
    Case("Selu", [apart(3, 7)], attributes={"alpha": 1.2, "gamma": 0.9}, label="own"),
    Case("Gelu", [apart(3, 7)]),
    Case("Gelu", [apart(3, 7)], attributes={"approximate": "tanh"}, label="tanh"),
    Case("Shrink", [apart(3, 7)], attributes={"bias": 0.2, "lambd": 0.4}),
    Case("Identity", [normal(3, 7)]),
    Case("Cast", [apart(3, 7)], attributes={"to": TensorProto.INT64}, differentiable=False),
    Case("Cast", [normal(3, 7)], attributes={"to": TensorProto.DOUBLE}, label="double"),
    Case("Cast", [np.arange(5)], attributes={"to": TensorProto.FLOAT}, differentiable=False, label="float"),
    Case("Dropout", [normal(3, 7), np.float32(0.3)], (1,)),
    Case("Dropout", [normal(3, 7)], opset=10, attributes={"ratio": 0.3}, label="attribute"),
    Case("Softmax", [normal(2, 3, 4)], attributes={"axis": 1}),
    Case("Softmax", [normal(2, 3, 4)], opset=11, attributes={"axis": 1}, label="flattened"),
    Case("LogSoftmax", [normal(2, 3, 4)]),
    Case("LogSoftmax", [normal(2, 3, 4)], opset=11, label="flattened"),
    Case("Hardmax", [apart(2, 3, 4)], attributes={"axis": 1}, differentiable=False),
]

ARITHMETIC = [
    *(Case(op, [normal(2, 3, 4), normal(3, 1)], (1,)) for op in ("Add", "Sub", "Mul")),
    *(Case(op, [np.float32(1.7), normal(3, 4)], (0,), label="number") for op in ("Add", "Sub", "Mul", "Div")),
    *(Case(op, [normal(3, 4), np.float32([1.7])], (1,), label="one") for op in ("Add", "Sub", "Mul", "Div")),
    Case("Mul", [normal(4), np.full((1, 1, 1), 1.7, np.float32)], (1,), label="rank"),
    Case("Div", [normal(2, 3, 4), positive(3, 1)], (1,)),
    Case("Div", [np.array([-7, 7, 5]), np.array([2, -2, 3])], differentiable=False, label="integers"),
    Case("Pow", [positive(3, 4), np.float32(2.0)], (1,), label="square"),
    Case("Pow", [positive(3, 4), np.float32(0.5)], (1,), label="root"),
    Case("Pow", [positive(3, 4), normal(4)], (1,)),
    Case("Pow", [np.float32(1.3), normal(3, 4)], (0,), label="exponential"),
    Case("Mod", [np.array([-7, 7, 5]), np.array([3, -3, 2])], differentiable=False),
    Case("Mod", [normal(3, 4), positive(3, 4)], attributes={"fmod": 1}, label="fmod", differentiable=False),
    Case("PRelu", [apart(2, 3, 4), positive(3, 1)], (1,)),
    *(Case(op, [apart(3, 4), apart(3, 4)[::-1].copy() + 0.05, normal(4)]) for op in ("Sum", "Min", "Max", "Mean")),
]

LAYOUT = [
    Case("Transpose", [normal(2, 3, 4)], attributes={"perm": [2, 0, 1]}),
    Case("Transpose", [normal(2, 3, 4)], label="reversed"),
    Case("Reshape", [normal(2, 3, 4), np.array([0, -1])], (1,)),
    Case("Reshape", [normal(2, 3, 4), np.array([3, -1, 2])], (1,), label="mixed"),
    Case("Flatten", [normal(2, 3, 4)]),
    Case("Flatten", [normal(2, 3, 4)], attributes={"axis": -1}, label="last"),
    Case("Flatten", [normal(2, 3, 4)], attributes={"axis": 0}, label="first"),
    Case("Squeeze", [normal(2, 1, 4, 1), np.array([1, -1])], (1,)),
    Case("Squeeze", [normal(2, 1, 4, 1)], opset=11, attributes={"axes": [3]}, label="attribute"),
    Case("Squeeze", [normal(2, 1, 4, 1)], label="all", fixed=True),
    Case("Unsqueeze", [normal(2, 4), np.array([0, -1])], (1,)),
    Case("Unsqueeze", [normal(2, 4)], opset=11, attributes={"axes": [1, 3]}, label="attribute"),
]

CASES = [*CONVOLUTIONS, *PRODUCTS, *POOLS, *CURVES, *ARITHMETIC, *LAYOUT]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_form_agrees_with_onnxruntime(case: Case) -> None:
    check(case)


SIZED = [
    case
    for case in (*CONVOLUTIONS, *POOLS, *LAYOUT, *PRODUCTS)
    if case.label in ("same-upper", "same", "upper", "uneven", "mixed", "last", "first", "flattened", "rows", "")
]


@pytest.mark.parametrize("case", SIZED, ids=str)
def test_form_with_dynamic_sizes(case: Case) -> None:
    check(case, "all")


def batch_norm(momentum: float = 0.9) -> Case:
    operands = [normal(4, 3, 5), positive(3), normal(3), normal(3), positive(3)]
    return Case("BatchNormalization", operands, (1, 2, 3, 4), attributes={"momentum": momentum, "epsilon": 1e-3})


def test_batch_norm_at_inference() -> None:
    module = check(batch_norm())
    assert set(module.initializers) == {"x1", "x2"} and set(module.statistics) == {"x3", "x4"}


def test_batch_norm_in_training() -> None:
    case = batch_norm(0.75)
    module = from_onnx(case.model()).train()
    x, scale, bias, mean, variance = (torch.from_numpy(np.array(array)) for array in case.operands)
    twin = torch.nn.BatchNorm1d(3, 1e-3, 0.25).train()
    twin.load_state_dict({"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}, strict=False)
    torch.testing.assert_close(module(x), twin(x))
    torch.testing.assert_close(module.statistics["x3"], twin.running_mean)
    torch.testing.assert_close(module.statistics["x4"], twin.running_var)
    written = module.write_back().initializers
    np.testing.assert_array_equal(written["x4"].array, module.statistics["x4"].numpy())


def test_dropout_follows_the_mode() -> None:
    case = Case("Dropout", [np.ones((100, 100), np.float32), np.float32(0.3)], (1,))
    module = from_onnx(case.model())
    x = torch.ones(100, 100)
    dropped = module.train()(x)
    assert 0.28 < (dropped == 0).float().mean() < 0.32
    assert torch.equal(module.eval()(x), x)


def test_shapes_computed_at_run_time() -> None:
    """A Reshape to a tensor that is an input, and shapes read behind it."""
    nodes = [
        helper.make_node("Reshape", ["x", "target"], ["a"]),
        helper.make_node("Shape", ["a"], ["b"]),
        helper.make_node("Mul", ["a", "a"], ["c"]),
        helper.make_node("Reshape", ["c", "b"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("target", TensorProto.INT64, [3]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info("y")])
    model = as_model(graph, 21)
    feeds = {"x": normal(6, 4), "target": np.array([2, -1, 3])}
    assert_same_outputs(from_onnx(model), model, feeds)
    assert run(model, feeds)[0].shape == (2, 4, 3)
