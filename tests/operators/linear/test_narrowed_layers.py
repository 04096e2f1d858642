"""Layers with rows or columns of zeros between tensors that stay whole compute with the rest of their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.planted.checks import SINGLE, assert_equal_outputs, deviation, minimize, operators, run, weights
from tests.support.planted.narrowed_networks import Array, Network

Layer = Callable[[Network, str, Array, Array], str]
IN, OUT = 12, 10


def gemm(net: Network, x: str, weight: Array, bias: Array) -> str:
    return net.add("Gemm", x, net.store(weight), net.store(bias), transB=1)


def scaled_gemm(net: Network, x: str, weight: Array, bias: Array) -> str:
    matrix = net.store(weight.T / 0.5)
    return net.add("Gemm", x, matrix, net.store(bias[None] / 2.0), alpha=0.5, beta=2.0)


def gemm_without_bias(net: Network, x: str, weight: Array, bias: Array) -> str:
    return net.add("Gemm", x, net.store(weight), transB=1)


def gemm_of_weight(net: Network, x: str, weight: Array, bias: Array) -> str:
    return net.add("Transpose", net.add("Gemm", net.store(weight), x, transB=1))


def matmul(net: Network, x: str, weight: Array, bias: Array) -> str:
    return net.add("Add", net.store(bias), net.add("MatMul", x, net.store(weight.T)))


def matmul_of_weight(net: Network, x: str, weight: Array, bias: Array) -> str:
    turned = net.add("Transpose", x)
    return net.add("Transpose", net.add("MatMul", net.store(weight), turned))


def conv(net: Network, x: str, weight: Array, bias: Array) -> str:
    kernel = np.stack([weight, -weight / 3, weight / 2], axis=-1)
    image = net.add("Unsqueeze", x, net.store([2], np.int64))
    y = net.add("Conv", image, net.store(kernel), net.store(bias), pads=[1, 1])
    return net.add("Squeeze", y, net.store([2], np.int64))


def transposed_conv(net: Network, x: str, weight: Array, bias: Array) -> str:
    image = net.add("Unsqueeze", x, net.store([2], np.int64))
    y = net.add("ConvTranspose", image, net.store(weight.T[..., None]), net.store(bias))
    return net.add("Squeeze", y, net.store([2], np.int64))


LAYERS = (
    gemm,
    scaled_gemm,
    gemm_without_bias,
    gemm_of_weight,
    matmul,
    matmul_of_weight,
    conv,
    transposed_conv,
)
WITHOUT_BIAS = (gemm_without_bias, gemm_of_weight, matmul_of_weight)


def beside_stream(net: Network, layer: Layer, weight: Array, bias: Array) -> onnx.ModelProto:
    """Return a layer whose input is a graph input, and whose output joins another."""
    x, stream = net.input("x", "N", weight.shape[1]), net.input("stream", "N", weight.shape[0])
    y = net.add("Add", layer(net, x, weight, bias), stream)
    return net.model(net.add("Relu", y))


def matrix(model: onnx.ModelProto) -> tuple[int, int]:
    """Return the numbers of rows and columns, in any order, of the only weight that is no vector."""
    (shape,) = (shape for shape in weights(model) if sum(length > 1 for length in shape) > 1)
    first, second = shape[:2]
    return min(first, second), max(first, second)


def narrowed(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Minimize, compare the outputs, and assert that nothing is left to be done by a second run."""
    once = minimize(model).model
    assert_equal_outputs(model, once, **options)
    assert weights(minimize(once).model) == weights(once)
    return once


# -- what goes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layer", LAYERS)
def test_columns_that_are_not_read(layer: Layer, seed: int) -> None:
    net = Network(seed)
    weight, bias = net.weight(OUT, IN, columns=7), net.normal(OUT)
    once = narrowed(beside_stream(net, layer, weight, bias))
    assert matrix(once) == (5, OUT)
    assert operators(once)["Gather"] == 1


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layer", LAYERS)
def test_rows_of_zeros_with_biases_that_differ(layer: Layer, seed: int) -> None:
    net = Network(seed)
    weight, bias = net.weight(OUT, IN, rows=6), net.normal(OUT)
    model = beside_stream(net, layer, weight, bias)
    once = narrowed(model)
    assert matrix(once) == (5, IN)  # one row of zeros stands for all six
    added = operators(once)["Add"] - operators(model)["Add"]
    assert added == (layer not in (*WITHOUT_BIAS, matmul))


@pytest.mark.parametrize("layer", [gemm, scaled_gemm, conv, transposed_conv])
def test_rows_of_zeros_with_one_bias_need_no_sum(layer: Layer) -> None:
    net = Network(1)
    weight, bias = net.weight(OUT, IN, rows=6), net.normal(OUT)
    bias[~weight.any(axis=1)] = 0.7
    model = beside_stream(net, layer, weight, bias)
    assert operators(narrowed(model)) == operators(model) + Counter(Gather=1)


@pytest.mark.parametrize("layer", LAYERS)
def test_rows_and_columns_of_one_layer(layer: Layer) -> None:
    net = Network(2)
    weight, bias = net.weight(OUT, IN, rows=5, columns=4), net.normal(OUT)
    once = narrowed(beside_stream(net, layer, weight, bias))
    assert matrix(once) == (6, 8)
    assert operators(once)["Gather"] == 2


@pytest.mark.parametrize("opset", [11, 13, 21])
def test_half_precision_and_older_operators(opset: int) -> None:
    net = Network(3, opset, np.float16)
    weight, bias = net.weight(OUT, IN, rows=5, columns=4), net.normal(OUT)
    once = narrowed(beside_stream(net, gemm, weight, bias), tolerance=5e-3, double=False)
    assert matrix(once) == (6, 8)


def test_image_layers_with_strides_and_borders() -> None:
    net = Network(5)
    x, stream = net.input("x", "N", IN, 9, 9), net.input("stream", "N", OUT, 5, 5)
    weight = net.weight(OUT, IN, 3, 3, rows=5, columns=6)
    y = net.add("Conv", x, net.store(weight), net.store(net.normal(OUT)), pads=[1] * 4, strides=[2, 2])
    once = narrowed(net.model(net.add("Relu", net.add("Add", y, stream)), rank=4))
    assert (6, 6, 3, 3) in weights(once)


def test_readers_of_the_same_columns_share_one_gather() -> None:
    net = Network(6)
    x, stream = net.input("x", "N", "T", IN), net.input("stream", "N", "T", OUT)
    away = net.places(5, IN)
    readers = []
    for _ in range(3):
        weight = net.weight(OUT, IN)
        weight[:, away] = 0
        readers.append(matmul(net, x, weight, net.normal(OUT)))
    other = net.weight(OUT, IN, columns=6)
    y = net.add("Add", net.add("Mul", net.add("Sigmoid", readers[0]), readers[1]), readers[2])
    y = net.add("Add", net.add("Add", y, stream), matmul(net, x, other, net.normal(OUT)))
    once = narrowed(net.model(net.add("Softmax", y, axis=2), rank=3))
    assert operators(once)["Gather"] == 2
    assert sum(shape == (7, OUT) for shape in weights(once)) == 3


def test_removed_channels_and_rows_of_zeros_of_one_layer() -> None:
    """The hidden layer loses units; what they were folds into biases that are added behind the Gather."""
    net = Network(7)
    x, width, hidden = net.input("x", "N", 8), 8, 14
    for _ in range(2):
        first, second = net.weight(hidden, width, rows=5, columns=3), net.weight(width, hidden, rows=4, columns=2)
        y = net.add("Relu", gemm(net, x, first, net.normal(hidden)))
        x = net.add("Softmax", net.add("Add", x, gemm(net, y, second, net.normal(width))))
    once = narrowed(net.model(x))
    found = sorted(shape for shape in weights(once) if len(shape) == 2)
    assert all(rows == 5 or columns == 5 for rows, columns in found)
    assert all(max(shape) < hidden - 4 for shape in found)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_transformer_block_on_a_stream_that_stays(order: str) -> None:
    """Rows of zeros at other places in each layer, with biases: the stream stays, its writers do not."""
    net, width, hidden, tokens = Network(8, 17), 12, 20, "T"
    x = net.input("x", "N", tokens, width)

    def norm(x: str) -> str:
        return net.add("LayerNormalization", x, net.store(net.normal(width)), net.store(net.normal(width)), axis=-1)

    def dense(x: str, out: int, inner: int, rows: int, columns: int = 0) -> str:
        return matmul(net, x, net.weight(out, inner, rows=rows, columns=columns), net.normal(out))

    y = norm(x) if order == "pre" else x
    q, k, v = (dense(y, width, width, 0, columns=4) for _ in range(3))
    p = net.add("Softmax", net.add("MatMul", q, net.add("Transpose", k, perm=[0, 2, 1])), axis=-1)
    x = net.add("Add", x, dense(net.add("MatMul", p, v), width, width, rows=6))
    y = norm(x)
    x = net.add("Add", x if order == "pre" else y, dense(net.add("Relu", dense(y, hidden, width, 9)), width, hidden, 6))
    model = net.model(x, rank=3)
    once = narrowed(model)
    assert weights(once).count((8, width)) == 3
    assert (width, 7) in weights(once) and (11, 7) in weights(once)


# -- what stands for removed channels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("constants", ["equal", "different"])
@pytest.mark.parametrize("rows", [0, 4])
def test_channel_that_a_norm_leaves_for_removed_ones_is_read(constants: str, rows: int) -> None:
    """A norm that lost channels subtracts another mean: the layer behind it reads what stands for them, by a column
    that was zero in the file.
    """
    net, width, gone = Network(16), 12, 4
    x = net.input("x", "N", IN)
    bias = net.normal(width) if constants == "different" else np.full(width, 0.7)
    weight = net.normal(width, IN)
    weight[:gone] = 0
    stream = gemm(net, x, weight, bias)
    y = net.add(
        "LayerNormalization", stream, net.store(1 + net.normal(width) / 4), net.store(net.normal(width)), axis=-1
    )
    reader = net.weight(OUT, width, rows=rows)
    reader[:, [*range(gone), 5, 8, 9]] = 0
    other = net.input("other", "N", OUT)
    once = narrowed(net.model(net.add("Softmax", net.add("Add", gemm(net, y, reader, net.normal(OUT)), other))))
    standing = 1 if constants == "equal" else 2
    assert (OUT - rows + (rows > 0), width - gone - 3 + standing) in weights(once)


def test_constant_that_a_narrowed_padded_convolution_keeps_for_others_is_one_that_it_reads() -> None:
    """At the border a constant channel is no bias: one stands for the others, and never one whose column is zero."""
    net = Network(17)
    x = net.input("x", "N", 4, 9)
    weight = net.normal(12, 4, 1)
    weight[:5] = 0
    y = net.add("Conv", x, net.store(weight), net.store(np.linspace(0.5, 1.5, 12)))
    kernel = net.normal(OUT, 12, 3)
    kernel[:, [0, 1, 6, 7, 8, 9]] = 0
    z = net.add("Conv", y, net.store(kernel), net.store(net.normal(OUT)), pads=[1, 1])
    seen = net.add("Conv", y, net.store(net.normal(3, 12, 1)))
    model = net.model(net.add("Softmax", z, axis=1), net.add("Softmax", seen, axis=1), rank=3)
    once = narrowed(model)
    assert any(shape[0] == OUT and shape[1] < 7 for shape in weights(once) if len(shape) == 3)


# -- whole again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_is_whole_again_for_the_next_run(layer: Layer) -> None:
    """More rows and columns have become zero since: the Gathers are as few as if it had been narrowed at once."""
    net, inner, out = Network(18), IN - 4, OUT - 4 + 1
    weight, bias = net.weight(OUT, IN, rows=4, columns=4), net.normal(OUT)
    once = narrowed(beside_stream(net, layer, weight, bias))
    again = onnx.ModelProto()
    again.CopyFrom(once)
    for tensor in again.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if {inner, out} <= set(array.shape):
            for length in (inner, out):
                axis = array.shape.index(length)
                places = np.moveaxis(array, axis, 0)
                places[np.flatnonzero(places.reshape(length, -1).any(axis=1))[:2]] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    twice = narrowed(again)
    assert operators(twice) == operators(once)
    assert matrix(twice) == (out - 2, inner - 2)


def test_norm_behind_a_gather_loses_channels_in_a_later_run() -> None:
    """The Gather hid the norm from the layer that has to read what stands for the removed channels."""
    net, width = Network(19), 12
    x = net.input("x", "N", IN)
    first = net.store(net.normal(width, IN))
    y = net.add("Gemm", x, first, net.store(net.normal(width)), transB=1)
    y = net.add("LayerNormalization", y, net.store(net.normal(width)), net.store(net.normal(width)), axis=-1)
    stream = net.input("stream", "N", OUT)
    y = gemm(net, y, net.weight(OUT, width, columns=4), net.normal(OUT))
    model = net.model(net.add("Softmax", net.add("Add", y, stream)))
    once = narrowed(model)
    for tensor in once.graph.initializer:
        if tuple(tensor.dims) == (width, IN):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[[1, 2, 5, 7, 8]] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    assert (width,) in weights(once)
    assert (width,) not in weights(narrowed(once))


def test_gathers_of_a_model_that_gains_nothing_stay() -> None:
    """A choice of channels that the user wrote is not traded for columns of zeros, nor a shuffle for other weights."""
    net = Network(20)
    x = net.input("x", "N", IN)
    y = net.add("Gather", x, net.store([7, 3, 1, 8], np.int64), axis=1)
    y = gemm(net, y, net.normal(OUT, 4), net.normal(OUT))
    y = net.add("Gather", y, net.store(net.places(OUT, OUT), np.int64), axis=1)
    model = net.model(net.add("Softmax", y))
    for round_to in (1, "auto"):
        result = sq.minimize(model, round_to=round_to, verify=False)
        assert result.model.graph == model.graph
        assert result.plan.empty


def test_tensors_that_are_to_be_kept_stay_beside_whole_layers() -> None:
    net = Network(21)
    once = narrowed(beside_stream(net, gemm, net.weight(OUT, IN, rows=3, columns=4), net.normal(OUT)))
    gathers = [node.output[0] for node in once.graph.node if node.op_type == "Gather"]
    for tensor in once.graph.initializer:
        if tensor.dims == [OUT - 2, IN - 4]:
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[:, :3] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    kept = sq.minimize(once, round_to=1, keep=gathers, verify=False).model
    names = {name for node in kept.graph.node for name in node.output}
    assert set(gathers) <= names
    assert_equal_outputs(once, kept)


# -- what stays, and why -----------------------------------------------------------------------------------------------


def assert_whole(model: onnx.ModelProto, round_to: Any = 1) -> sq.Result:
    """Assert that a model is a faithful copy."""
    result = sq.minimize(model, round_to=round_to, verify=False)
    assert result.plan.empty
    assert weights(result.model) == weights(model)
    return result


@pytest.mark.parametrize("sides", [{"rows": 1}, {"rows": 1, "columns": 1}, {}])
def test_what_saves_less_than_the_new_indices_stays(sides: dict[str, int]) -> None:
    """A single row of zeros would stand for itself; a column of 10 would cost 11 indices."""
    net = Network(9)
    model = beside_stream(net, gemm, net.weight(OUT, IN, **sides), net.normal(OUT))
    (layer,) = assert_whole(model).report.layers
    stayed = {f"{Reason.SLOWER.value}: columns of zeros": 1} if "columns" in sides else {}
    assert {key: count for key, count in layer.stayed.items() if Reason.SLOWER.value in key} == stayed


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_of_lines_and_volumes_are_narrowed_for_less_than_those_of_images(rank: int) -> None:
    """By default a layer is narrowed where it gets faster; an image loses blocks of channels by it, and is rounded."""
    net, width, zeros = Network(27), 64, 33
    shape, axes = ["N", width, *range(7, 7 + rank)], np.arange(2, 1 + rank)
    x, stream = net.input("x", *shape), net.input("stream", *shape)
    weight = np.stack([net.weight(width, width, rows=zeros)] * 3, axis=-1)  # 1.5 * 64 products for each channel made
    weight = np.expand_dims(weight, tuple(axes)) if rank > 1 else weight
    pads = ([0] * (rank - 1) + [1]) * 2
    y = net.add("Conv", x, net.store(weight), net.store(net.normal(width)), pads=pads)
    model = net.model(net.add("Relu", net.add("Add", y, stream)))
    result = sq.minimize(model, verify=False)
    assert_equal_outputs(model, result.model)
    rows = [shape[0] for shape in weights(result.model) if len(shape) == rank + 2 and shape[-1] > 1]
    assert rows == [width if rank == 2 else width - zeros + 1]


def test_grouped_convolutions_stay() -> None:
    net = Network(10)
    x, stream = net.input("x", "N", 8, "H", "W"), net.input("stream", "N", 8, "H", "W")
    for groups in (2, 8):
        weight = net.weight(8, 8 // groups, 3, 3, rows=4)
        stream = net.add("Add", stream, net.add("Conv", x, net.store(weight), group=groups, pads=[1] * 4))
    assert_whole(net.model(net.add("Softmax", stream, axis=1), rank=4))


def test_rows_stay_under_a_bias_for_each_place() -> None:
    """It would have to be stored twice."""
    net = Network(4)
    x, stream = net.input("x", 3, IN), net.input("stream", 3, OUT)
    weight = net.store(net.weight(OUT, IN, rows=6))
    y = net.add("Gemm", x, weight, net.store(net.normal(3, OUT)), transB=1)
    assert_whole(net.model(net.add("Add", y, stream)))


def test_muted_bias_stays() -> None:
    """A beta of 0 would have to change with the bias."""
    net = Network(11)
    x, stream = net.input("x", "N", IN), net.input("stream", "N", OUT)
    y = net.add("Gemm", x, net.store(net.weight(OUT, IN, rows=6)), net.store(net.normal(OUT)), transB=1, beta=0.0)
    assert_whole(net.model(net.add("Add", y, stream)))


@pytest.mark.parametrize("behind", [False, True])
def test_shared_weight_is_narrowed_where_all_users_want_it(behind: bool) -> None:
    """Exporters write an Identity for each further name of a weight that several layers share."""
    net = Network(12)
    x, y = net.input("x", "N", IN), net.input("y", "N", IN)
    weight = net.store(net.weight(IN, IN, rows=5, columns=4))
    names = (weight, net.add("Identity", weight) if behind else weight)
    made = [net.add("MatMul", each, name) for each, name in zip((x, y), names, strict=True)]
    once = narrowed(net.model(*(net.add("Softmax", each) for each in made)))
    assert [shape for shape in weights(once) if len(shape) == 2] == [(7, 9)]  # a row of zeros stands for four


def test_shared_weight_stays_where_one_user_needs_all_of_it() -> None:
    net = Network(13)
    x = net.input("x", "N", IN)
    table = net.store(net.weight(IN, IN, rows=5, columns=4))
    row = net.add("ReduceSum", net.add("Sub", net.add("Unsqueeze", x, net.store([1], np.int64)), table), keepdims=0)
    model = net.model(net.add("Softmax", net.add("Add", net.add("MatMul", x, table), row)))
    result = minimize(model)
    assert (IN, IN) in weights(result.model)
    assert not result.plan.narrowings


def test_policy_narrows_only_what_gets_faster() -> None:
    """A few products do not pay for moving an element; many do."""
    small = Network(14)
    model = beside_stream(small, gemm, small.weight(OUT, IN, rows=6, columns=6), small.normal(OUT))
    (layer,) = assert_whole(model, "auto").report.layers
    stands = (
        f"{Reason.GRAPH_INPUT.value}: stream"  # a row of zeros makes a constant, which is not counted a second time
    )
    assert layer.stayed == {f"{Reason.SLOWER.value}: columns of zeros": 6, stands: 6}
    large = Network(14)
    model = beside_stream(large, gemm, large.weight(64, 1200, rows=32), large.normal(64))
    result = sq.minimize(model, verify=False)
    assert matrix(result.model) == (33, 1200)
    assert_equal_outputs(model, result.model)


def test_counts_are_rounded_up_on_request() -> None:
    net = Network(15)
    model = beside_stream(net, gemm, net.weight(32, 32, rows=20, columns=19), net.normal(32))
    result = sq.minimize(model, round_to=8, verify=False)
    assert matrix(result.model) == (16, 16)
    assert_equal_outputs(model, result.model)


# -- any mask ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_rows_and_columns(data: st.DataObject) -> None:
    net = Network(data.draw(st.integers(0, 99)), data.draw(st.sampled_from([11, 13, 18])))
    layer = data.draw(st.sampled_from(LAYERS if net.opset >= 13 else LAYERS[:-2]))
    masks = st.tuples(*[st.booleans()] * 8), st.tuples(*[st.booleans()] * 9)
    rows, columns = (np.array(data.draw(mask)) for mask in masks)
    weight = np.where(rows[:, None] & columns, net.normal(8, 9), 0)
    bias = np.where(data.draw(masks[0]), net.normal(8), data.draw(st.sampled_from([0.0, 0.5])))
    model = beside_stream(net, layer, weight, bias)
    once = minimize(model).model
    feeds = {name: net.normal(3, size).astype(np.float32) for name, size in (("x", 9), ("stream", 8))}
    for optimized in (True, False):
        assert deviation(run(model, feeds, optimized), run(once, feeds, optimized)) <= SINGLE
    assert sum(map(np.prod, weights(once))) <= sum(map(np.prod, weights(model)))
