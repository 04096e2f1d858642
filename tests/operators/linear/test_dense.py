"""Planted fully-connected networks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, size
from tests.support.planted.layers import Twin


def test_dead_units(twin: Twin) -> None:
    x = twin.relu(twin.gemm(twin.input("N", 12), twin.units(live=6, dead=5)))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=4))))


def test_constant_units(twin: Twin) -> None:
    x = twin.relu(twin.gemm(twin.input("N", 12), twin.units(live=6, const=4, zero=2)))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=4))))


def test_chain_dead_three_layers_deep(twin: Twin) -> None:
    x = twin.input("N", 12)
    for live in (8, 6, 5):
        x = twin.relu(twin.gemm(x, twin.units(live=live, dead=4)))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=3))))


def test_constants_only_after_earlier_constants_fold(twin: Twin) -> None:
    x = twin.input("N", 12)
    for late in (0, 3, 3, 3):
        x = twin.relu(twin.gemm(x, twin.units(live=6, const=2, late=late)))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=3))))


def test_dead_and_constant_units_together(twin: Twin) -> None:
    x = twin.input("N", 12)
    for late in (0, 3, 2):
        x = twin.op("Tanh", twin.gemm(x, twin.units(live=7, dead=3, const=2, zero=1, late=late)))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=3))))


@pytest.mark.parametrize("positive", ["Relu", "Sigmoid", "Softplus", "Abs", "Exp"])
def test_relu_that_is_always_off(twin: Twin, positive: str) -> None:
    x = twin.op(positive, twin.gemm(twin.input("N", 12), twin.units(live=8)))
    x = twin.relu(twin.gemm(x, twin.units(live=5, off=5)))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=3))))


def test_relu_that_is_always_off_behind_dead_and_constant_units(twin: Twin) -> None:
    x = twin.relu(twin.gemm(twin.input("N", 12), twin.units(live=8, const=2, dead=2)))
    x = twin.relu(twin.gemm(x, twin.units(live=5, off=4, const=1)))
    x = twin.relu(twin.gemm(x, twin.units(live=5, late=3, off=2)))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=3))))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.5, 2.0), (-1.5, 0.25)])
def test_gemm_transposes_and_factors(flip: bool, across: bool, factors: tuple[float, float]) -> None:
    twin, (alpha, beta) = Twin(seed=5, opset=13), factors
    x = twin.input("N", 10)
    for _ in range(2):
        units = twin.units(live=6, dead=3, const=3)
        x = twin.relu(twin.gemm(x, units, flip=flip, across=across, alpha=alpha, beta=beta))
    y = twin.gemm(x, twin.units(live=4), flip=flip, across=across, alpha=alpha, beta=beta)
    assert_recovers(twin.pair(y))


def test_gemm_without_bias_gets_one_for_a_constant(twin: Twin) -> None:
    x = twin.op("Sigmoid", twin.gemm(twin.input("N", 12), twin.units(live=6, zero=3, dead=3), bias=False))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=4), bias=False)))


def test_gemm_with_scalar_bias(twin: Twin) -> None:
    x = twin.gemm(twin.input("N", 12), twin.units(live=6, dead=5), bias=False)
    for side in ("wide", "small"):
        twin.nodes[side][-1].input.append(twin.parameter(0.25))
    assert_recovers(twin.pair(twin.gemm(twin.relu(x), twin.units(live=4))))


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("dims", [("N", 12), ("N", "T", 12), (2, "T", 5, 12)])
def test_matmul(twin: Twin, add: bool, dims: tuple[int | str, ...]) -> None:
    x = twin.input(*dims, axis=len(dims) - 1)
    for late in (0, 2):
        units = twin.units(live=6, dead=3, late=late, **{"const" if add else "zero": 3})
        x = twin.op("Sigmoid", twin.matmul(x, units, add=add))
    assert_recovers(twin.pair(twin.matmul(x, twin.units(live=4), add=add)))


@pytest.mark.parametrize("add", [True, False])
def test_matmul_with_its_weight_on_the_left(twin: Twin, add: bool) -> None:
    x = twin.input("N", 12, "T")
    for late in (0, 2):
        units = twin.units(live=6, dead=3, late=late, **{"const" if add else "zero": 3})
        x = twin.op("Sigmoid", twin.matmul(x, units, left=True, add=add))
    assert_recovers(twin.pair(twin.matmul(x, twin.units(live=4), left=True, add=add)))


def test_matmul_between_transposes(twin: Twin) -> None:
    x = twin.relu(twin.conv(twin.input("N", 3, "T"), twin.units(live=5, dead=2, const=2)))
    x = twin.op("Transpose", x, channels=2, perm=[0, 2, 1])
    x = twin.op("Erf", twin.matmul(x, twin.units(live=6, dead=3, const=2, late=1)))
    x = twin.op("Transpose", x, channels=1, perm=[0, 2, 1])
    assert_recovers(twin.pair(twin.conv(x, twin.units(live=4))))


def test_batch_norm_of_a_matrix(twin: Twin) -> None:
    x = twin.input("N", 12)
    for late in (0, 2):
        x = twin.relu(twin.batch_norm(twin.gemm(x, twin.units(live=6, dead=3, const=2, late=late)), mute=late > 0))
    assert_recovers(twin.pair(twin.gemm(x, twin.units(live=4))))


def test_weights_in_constant_nodes(twin: Twin) -> None:
    x = twin.relu(twin.gemm(twin.input("N", 12), twin.units(live=6, dead=3, const=3)))
    pair = twin.pair(twin.gemm(x, twin.units(live=4)))
    _store_in_constant_nodes(pair.wide)
    assert_recovers(pair)


def _store_in_constant_nodes(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes += model.graph.node
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)


def test_weight_behind_a_transpose(twin: Twin) -> None:
    x = twin.relu(twin.matmul(twin.input("N", 12), twin.units(live=6, dead=3, const=3)))
    pair = twin.pair(twin.matmul(x, twin.units(live=4)))
    for tensor in list(pair.wide.graph.initializer):
        if len(tensor.dims) == 2:
            _store_transposed(pair.wide, tensor)
    assert_recovers(pair, more=["Transpose"])  # whether it is carried out beforehand does not change the size


def _store_transposed(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    name = tensor.name
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).T.copy(), f"{name}_stored"))
    model.graph.node.insert(0, helper.make_node("Transpose", [tensor.name], [name], perm=[1, 0]))


def test_constant_layer_beside_a_live_one_vanishes(twin: Twin) -> None:
    x = twin.input("N", 12)
    a = twin.gemm(x, twin.units(live=5))
    with twin.only("wide"):
        b = twin.relu(twin.gemm(x, twin.units(dead=4, const=2)))
        b = twin.gemm(b, twin.units(const=3, zero=2))
    y = twin.add_constant(a, b)
    assert_recovers(twin.pair(twin.gemm(y, twin.units(live=3))))


def test_whole_network_that_is_constant_keeps_its_function() -> None:
    twin = Twin(seed=3)
    x = twin.relu(twin.gemm(twin.input("N", 12), twin.units(rep=1, const=5)))
    y = twin.gemm(x, twin.units(live=3))
    assert np.isfinite(y.fill).all()
    assert_recovers(twin.pair(y), narrowing=False)


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_gemm_whose_scale_of_a_missing_bias_matters_once_it_has_one(beta: float) -> None:
    """Without C a Gemm's beta multiplies nothing; the folded constants must not be multiplied by it either."""
    random = np.random.default_rng(5)
    first = random.standard_normal((6, 4)).astype(np.float32)
    first[[1, 3]] = 0
    tensors = {"w1": first, "b1": np.full(6, 0.5, np.float32), "w2": random.standard_normal((3, 6)).astype(np.float32)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2"], ["y"], transB=1, alpha=0.5, beta=beta),
    ]
    ends = ([helper.make_tensor_value_info(name, 1, ["N", size])] for name, size in (("x", 4), ("y", 3)))
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "gemm", *ends, initializers), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    result = minimize(model).model
    assert size(result) == 4 * 4 + 4 + 3 * 4 + 3
    assert_equal_outputs(model, result)
