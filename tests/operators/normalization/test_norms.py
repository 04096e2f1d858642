"""Normed streams lose their constant channels, but for the few that stand for them, whatever reads the norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.extent import part
from tests.support.planted.checks import (
    assert_equal_outputs,
    deviation,
    draw,
    in_double,
    minimize,
    operators,
    run,
    weights,
)
from tests.support.planted.norm_networks import FEATURES, TOKENS, NormNetwork

pytestmark = pytest.mark.usefixtures("any_length")

UNITS = 3  # of a reader
EXACT = 1e-9
"""Largest deviation between two models in float64, relative to the output's scale; only epsilons are float32 there."""
HALF = 5e-3
"""The same in float16: five roundings of 5e-4 each, between sums that onnxruntime makes in float32."""
NOISE = 4
"""How many times the original's own rounding that of the minimized may be: both are noise of one size."""

NORMS = {
    "layer_norm": (NormNetwork.layer_norm, {"zero": 1, "equal": 1, "different": 2}),
    "rms_norm": (NormNetwork.rms_norm, {"zero": 0, "equal": 1, "different": 1}),
}
"""How the norm is added, and how many constants of a kind stand for all the others where readers read them."""

Norm = tuple[Callable[..., str], dict[str, int]]


@pytest.fixture(params=NORMS)
def norm(request: pytest.FixtureRequest) -> Norm:
    """Return one of the two norms."""
    return NORMS[request.param]


def matrices(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """Return the shapes of stored weights with more than one axis longer than the two representatives."""
    return [shape for shape in weights(model) if sum(size > 2 for size in shape) > 1]


def assert_narrowed(model: onnx.ModelProto, *expected: tuple[int, ...], **options: Any) -> onnx.ModelProto:
    """Assert that just these matrices are left, and that the function is the same; return the smaller model."""
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model, **options)
    assert matrices(result.model) == sorted(expected), dict(result.report.stayed)
    return result.model


# -- sizes, constants, data types --------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [False, True], ids=["unread", "read"])
@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize(("width", "gone"), [(8, 3), (64, 50), (300, 50)])
@pytest.mark.parametrize("opset", [11, 17, 23])
def test_constants_leave(opset: int, width: int, gone: int, constants: str, columns: bool, norm: Norm) -> None:
    add, standing = norm
    net = NormNetwork(width, gone, constants, opset=opset)
    model = net.model(net.linear(add(net, net.stream()), UNITS, columns=columns))
    needed = standing[constants] if columns or add is NormNetwork.layer_norm else 0
    left = width - gone + needed
    assert_narrowed(model, (FEATURES, left), (left, UNITS))


@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize("opset", [13, 18, 21])
def test_same_in_double(opset: int, constants: str, norm: Norm) -> None:
    net = NormNetwork(24, 9, constants, opset=opset, dtype=np.float64)
    model = net.model(net.linear(norm[0](net, net.stream()), UNITS))
    result, feeds = minimize(model), draw(model, 2, 5)
    left = 24 - 9 + norm[1][constants]
    assert matrices(result.model) == sorted([(FEATURES, left), (left, UNITS)])
    assert deviation(in_double(model, feeds), in_double(result.model, feeds)) <= EXACT


@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize("opset", [13, 17, 23])
def test_half_precision(opset: int, constants: str, norm: Norm) -> None:
    net = NormNetwork(64, 20, constants, opset=opset, dtype=np.float16)
    model = net.model(net.linear(norm[0](net, net.stream()), UNITS))
    left = 64 - 20 + norm[1][constants]
    assert_narrowed(model, (FEATURES, left), (left, UNITS), tolerance=HALF, double=False)


@pytest.mark.parametrize("gone", [2, 50, 3000])
def test_wide_stream(gone: int, norm: Norm) -> None:
    net = NormNetwork(4096, gone, "different", opset=23)
    model = net.model(net.linear(norm[0](net, net.stream()), UNITS))
    left = 4096 - gone + min(gone, norm[1]["different"])
    assert_narrowed(model, (FEATURES, left), (left, UNITS))


@pytest.mark.parametrize("epsilon", [1e-12, 1e-3, 10.0])
def test_epsilon(epsilon: float, norm: Norm) -> None:
    net = NormNetwork(24, 9, "different", opset=23)
    model = net.model(net.linear(norm[0](net, net.stream(), epsilon=epsilon), UNITS))
    left = 24 - 9 + norm[1]["different"]
    assert_narrowed(model, (FEATURES, left), (left, UNITS))


@pytest.mark.parametrize("layernorm", ["stock", "function", "primitives"])
@pytest.mark.parametrize(
    "constants",
    [0.0, 100.0, 101.0, 100 + np.linspace(-1, 1, 30), 100 + np.linspace(-1e-3, 1e-3, 30)],
    ids=["zero", "inside", "above", "spread", "close"],
)
def test_rounding_is_no_larger_than_it_was(constants: Any, layernorm: str) -> None:
    """Channels lie far from 0, close to each other; the constants among them, or at 0."""
    net = NormNetwork(64, 30, constants)
    model = net.model(net.linear(net.layer_norm(net.stream(mean=100.0)), UNITS))
    result, feeds = sq.minimize(model, round_to=1, verify=False, layernorm=layernorm), draw(model, 3, 50)
    exact = in_double(model, feeds)
    exact32 = [array.astype(np.float32) for array in exact]
    before, after = (deviation(exact32, run(one, feeds)) for one in (model, result.model))
    assert len(matrices(result.model)) == 2 and min(matrices(result.model))[0] < 64
    assert after <= NOISE * before, (before, after)


def test_all_channels_constant(norm: Norm) -> None:
    """Then the norm is a constant, and so is what reads it."""
    net = NormNetwork(12, 12, "different", opset=23)
    model = net.model(net.linear(norm[0](net, net.stream()), UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model)


# -- readers -----------------------------------------------------------------------------------------------------------


def behind_transpose(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read [T, N, C]."""
    return net.linear(net.node("Transpose", y, perm=[1, 0, 2]), UNITS), 3


def behind_windows(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read [N * 2, T / 2, C]."""
    return net.linear(net.node("Reshape", y, net.integers(-1, TOKENS // 2, net.width)), UNITS), 3


def token_by_slice(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read the first token of each sample, its axis kept."""
    bounds = [net.integers(number) for number in (0, 1, 1)]
    return net.linear(net.node("Slice", y, *bounds), UNITS), 3


def token_by_gather(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read the first token of each sample."""
    return net.linear(net.node("Gather", y, net.weight(0, np.int64), axis=1), UNITS), 2


def mean_over_tokens(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read the mean of all tokens."""
    return net.linear(net.mean(y, 1, keepdims=0), UNITS), 2


def mean_kept_as_a_token(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read the mean of all tokens, their axis kept."""
    return net.linear(net.mean(y, 1), UNITS), 3


def flat_token(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read one token through Flatten and Gemm."""
    bounds = [net.integers(number) for number in (0, 1, 1)]
    flat = net.node("Flatten", net.node("Slice", y, *bounds), axis=1)
    matrix = net.weight(net.normal(UNITS, net.width))
    return net.node("Gemm", flat, matrix, net.weight(net.normal(UNITS)), transB=1), 2


def convolution(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read two neighbours at a time, channels first."""
    first = net.node("Transpose", y, perm=[0, 2, 1])
    return net.node("Conv", first, net.weight(net.normal(UNITS, net.width, 2)), kernel_shape=[2]), 3


def expanded(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read through an Unsqueeze, a Tile and a Squeeze."""
    more = net.reduce("Unsqueeze", y, 1, since=13)
    tiled = net.node("Tile", more, net.integers(1, 1, 2, 1))
    return net.linear(net.reduce("Squeeze", tiled, 1, since=13), UNITS), 3


def repeated(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read through an Expand and a Pad by nothing."""
    more = net.node("Expand", y, net.integers(2, 1, 1, 1))
    return net.linear(net.node("Pad", more, net.integers(*[0] * 8)), UNITS), 4


def pooled(net: NormNetwork, y: str) -> tuple[str, int]:
    """Read the mean that GlobalAveragePool takes, channels first."""
    first = net.node("Transpose", y, perm=[0, 2, 1])
    flat = net.node("Flatten", net.node("GlobalAveragePool", first), axis=1)
    return net.linear(flat, UNITS), 2


READERS = (
    behind_transpose,
    behind_windows,
    token_by_slice,
    token_by_gather,
    mean_over_tokens,
    mean_kept_as_a_token,
    flat_token,
    convolution,
    expanded,
    repeated,
    pooled,
)


@pytest.mark.parametrize("constants", ["equal", "different"])
@pytest.mark.parametrize("opset", [11, 18, 23])
@pytest.mark.parametrize("reader", READERS)
def test_reader_that_folds(
    reader: Callable[[NormNetwork, str], tuple[str, int]], opset: int, constants: str, norm: Norm
) -> None:
    net = NormNetwork(16, 6, constants, opset=opset)
    output, rank = reader(net, norm[0](net, net.stream()))
    model = net.model(output, ranks=[rank], dims=("N", TOKENS, FEATURES))
    left = 16 - 6 + norm[1][constants]
    kernel = (UNITS, left, 2) if reader is convolution else (UNITS, left) if reader is flat_token else (left, UNITS)
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    found = [shape for shape in weights(result.model) if left in shape and len(shape) > 1 and max(shape) > 2]
    assert sorted(found) == sorted([(FEATURES, left), kernel]), dict(result.report.stayed)


@pytest.mark.parametrize("constants", ["zero", "different"])
@pytest.mark.parametrize("opset", [13, 23])
def test_several_readers(opset: int, constants: str, norm: Norm) -> None:
    net = NormNetwork(16, 6, constants, opset=opset)
    y = norm[0](net, net.stream())
    model = net.model(net.linear(y, 4), net.linear(y, 5))
    left = 16 - 6 + norm[1][constants]
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert sorted(matrices(result.model)) == sorted([(FEATURES, left), (left, 4), (left, 5)])


@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
def test_readers_that_share_a_weight(constants: str, norm: Norm) -> None:
    """The weight is stored once, since both norms have the same representatives of the same values."""
    net = NormNetwork(16, 6, constants, opset=23)
    x, scale = net.stream(), net.normal(16)
    matrix = net.weight(net.normal(16, UNITS))
    outputs = [net.node("MatMul", norm[0](net, source, scale=scale), matrix) for source in (x, net.stream("input"))]
    model = net.model(*outputs)
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    assert max(max(shape) for shape in matrices(result.model)) < 16


# -- outputs that are wanted whole, and readers that do not fold -------------------------------------------------------


@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize("opset", [13, 23])
def test_norm_that_is_a_graph_output(opset: int, constants: str, norm: Norm) -> None:
    """What left comes back in front of the norm: one constant is enough to make all of them."""
    net = NormNetwork(16, 6, constants, opset=opset)
    model = net.model(norm[0](net, net.stream()))
    assert_narrowed(model, (FEATURES, 11))


@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize("opset", [13, 23])
def test_output_and_reader(opset: int, constants: str, norm: Norm) -> None:
    net = NormNetwork(16, 6, constants, opset=opset)
    y = norm[0](net, net.stream())
    model = net.model(y, net.linear(y, UNITS))
    assert_narrowed(model, (FEATURES, 11), (16, UNITS))


@pytest.mark.parametrize("constants", ["equal", "different"])
@pytest.mark.parametrize("op", ["Relu", "Softmax", "Sigmoid"])
def test_channels_stay_before_what_is_not_linear(op: str, constants: str, norm: Norm) -> None:
    net = NormNetwork(16, 6, constants, opset=23)
    model = net.model(net.linear(net.node(op, norm[0](net, net.stream())), UNITS))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert matrices(result.model) == sorted([(FEATURES, 16), (16, UNITS)])
    reason = f"{Reason.NORMALISED.value}: Softmax over axis 2" if op == "Softmax" else Reason.NEEDED.value
    assert set(result.report.stayed) == {reason}


def test_a_fold_of_one_reader_does_not_serve_another(norm: Norm) -> None:
    net = NormNetwork(16, 6, "equal", opset=23)
    y = norm[0](net, net.stream())
    model = net.model(net.linear(y, UNITS), net.linear(net.node("Relu", y), UNITS))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert matrices(result.model) == sorted([(FEATURES, 16), (16, UNITS), (16, UNITS)])
    assert set(result.report.stayed) == {Reason.NEEDED.value}


def halves(net: NormNetwork, y: str) -> tuple[str, tuple[int, int]]:
    """Read the first half of the channels."""
    first = net.node("Slice", y, *(net.integers(number) for number in (0, 8, 2)))
    return net.node("MatMul", first, net.weight(net.normal(8, UNITS))), (8, UNITS)


def heads(net: NormNetwork, y: str) -> tuple[str, tuple[int, int]]:
    """Read channels in groups, through one weight."""
    split = net.node("Reshape", y, net.integers(0, 0, 2, 8))
    summed = net.reduce("ReduceSum", split, 2, since=13, keepdims=0)
    return net.node("MatMul", summed, net.weight(net.normal(8, UNITS))), (8, UNITS)


def all_tokens(net: NormNetwork, y: str) -> tuple[str, tuple[int, int]]:
    """Read all tokens of a sample at once."""
    flat = net.node("Reshape", y, net.integers(0, 1, TOKENS * 16))
    return net.node("MatMul", flat, net.weight(net.normal(TOKENS * 16, UNITS))), (TOKENS * 16, UNITS)


@pytest.mark.parametrize("reader", [halves, heads, all_tokens])
@pytest.mark.parametrize("constants", ["equal", "different"])
def test_readers_that_do_not_see_channels_as_one_axis(
    constants: str, reader: Callable[[NormNetwork, str], tuple[str, tuple[int, int]]], norm: Norm
) -> None:
    """They cannot compute with the channels that stand for others: either those come back in front, or all stay."""
    net = NormNetwork(16, 6, constants, opset=23)
    output, weight = reader(net, norm[0](net, net.stream()))
    model = net.model(output, dims=("N", TOKENS, FEATURES))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert matrices(result.model) == sorted([(FEATURES, 16 if reader is heads else 11), weight])


def test_zero_leaves_an_rms_norm_whatever_reads_it() -> None:
    net = NormNetwork(16, 6, opset=23)
    model = net.model(net.linear(net.node("Relu", net.rms_norm(net.stream())), UNITS))
    assert_narrowed(model, (FEATURES, 10), (10, UNITS))


@pytest.mark.parametrize("op", ["Relu", "Sigmoid"])
@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize("opset", [13, 17])
def test_channels_without_scale_leave(opset: int, constants: str, op: str) -> None:
    """A channel whose scale is 0 is its bias, so that nothing has to follow from representatives."""
    net = NormNetwork(16, 6, constants, opset=opset)
    scale, bias = net.normal(16), net.normal(16)
    scale[net.gone] = 0
    model = net.model(net.linear(net.node(op, net.layer_norm(net.stream(), scale=scale, bias=bias)), UNITS))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    left = 10 + NORMS["layer_norm"][1][constants]
    assert matrices(result.model) == sorted([(FEATURES, left), (left, UNITS)]), dict(result.report.stayed)


@pytest.mark.parametrize("opset", [13, 17])
def test_post_norm_stream(opset: int) -> None:
    """Two blocks, each normed behind its sum: what is zero in front is zero behind where scale and bias are."""
    net = NormNetwork(16, 6, opset=opset)
    y = net.stream()
    for _ in range(2):
        scale, bias = net.normal(16), net.normal(16)
        scale[net.gone] = bias[net.gone] = 0
        y = net.layer_norm(net.node("Add", y, net.branch(y)), scale=scale, bias=bias)
    model = net.model(net.linear(y, UNITS))
    assert_narrowed(model, (FEATURES, 11), *[(11, 6), (6, 11)] * 2, (11, UNITS))


@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize("opset", [13, 17, 23])
def test_pre_norm_stream(opset: int, constants: str, norm: Norm) -> None:
    """All norms of a stream share its representatives."""
    net = NormNetwork(16, 6, constants, opset=opset)
    x = net.stream()
    for _ in range(2):
        x = net.node("Add", x, net.branch(norm[0](net, x)))
    model = net.model(net.linear(norm[0](net, x), UNITS))
    left = 10 + norm[1][constants]
    assert_narrowed(model, (FEATURES, left), *[(left, 6), (6, left)] * 2, (left, UNITS))


def test_constants_that_differ_from_token_to_token_stay(norm: Norm) -> None:
    net = NormNetwork(16, 6, "zero", opset=23)
    places = net.normal(TOKENS, 16)
    y = norm[0](net, net.node("Add", net.stream(), net.weight(places)))
    model = net.model(net.linear(y, UNITS), dims=("N", TOKENS, FEATURES))
    result = minimize(model)
    assert_equal_outputs(model, result.model)
    (reason,) = result.report.stayed
    assert reason.startswith(Reason.CONSTANT_VARIES.value)


def test_layer_norm_over_two_axes_stays() -> None:
    net = NormNetwork(16, 6)
    shape = (TOKENS, 16)
    inputs = [net.stream(), net.weight(net.normal(*shape)), net.weight(net.normal(*shape))]
    model = net.model(net.linear(net.node("LayerNormalization", *inputs, axis=-2), UNITS), dims=("N", TOKENS, FEATURES))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model)
    assert matrices(result.model) == sorted([(FEATURES, 16), (16, UNITS), shape, shape])
    (reason,) = result.report.stayed  # features that lie in one place of a token with others cannot leave by themselves
    assert reason.startswith(Reason.NEEDED.value)


# -- how it is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize("layernorm", ["stock", "function", "primitives"])
@pytest.mark.parametrize("opset", [13, 17, 23])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_forms(dtype: Any, opset: int, layernorm: str, constants: str) -> None:
    net = NormNetwork(24, 9, constants, opset=opset, dtype=dtype)
    model = net.model(net.linear(net.layer_norm(net.stream()), UNITS))
    result = sq.minimize(model, round_to=1, verify=False, layernorm=layernorm)
    onnx.checker.check_model(result.model, full_check=True)
    left = 15 + NORMS["layer_norm"][1][constants]
    assert matrices(result.model) == sorted([(FEATURES, left), (left, UNITS)])
    tolerance = HALF if dtype == np.float16 else 2e-5
    assert_equal_outputs(model, result.model, tolerance=tolerance, double=False)
    found = operators(result.model)
    form = "stock" if layernorm == "function" and opset < 15 else layernorm  # there is no CastLike
    assert found["CompensatedLayerNorm"] == (form == "function")
    assert found["LayerNormalization"] == (form == "stock" and opset >= 17)


def removed_again(model: onnx.ModelProto, net: NormNetwork, channels: int, value: float) -> onnx.ModelProto:
    """Make the first few channels constant that vary in the stream of a minimized model."""
    masked = onnx.ModelProto.FromString(model.SerializeToString())
    stored = {tensor.name: tensor for tensor in masked.graph.initializer}
    matrix, bias = (numpy_helper.to_array(stored[name]).copy() for name in net.stream_weights)
    chosen = np.flatnonzero(matrix.any(axis=0))[:channels]
    matrix[:, chosen], bias[chosen] = 0, value
    for name, array in zip(net.stream_weights, (matrix, bias), strict=True):
        stored[name].CopyFrom(numpy_helper.from_array(array, name))
    return masked


@pytest.mark.parametrize("again", [0.0, 0.7, -2.0], ids=["zero", "same", "other"])
@pytest.mark.parametrize("constants", ["zero", "equal", "different"])
@pytest.mark.parametrize("layernorm", ["stock", "function", "primitives"])
def test_function_is_narrowed_once_more(layernorm: str, constants: str, again: float) -> None:
    """After a second mask; what left adds up."""
    net = NormNetwork(40, 12, constants)
    model = net.model(net.linear(net.layer_norm(net.stream()), UNITS))
    first = sq.minimize(model, round_to=1, verify=False, layernorm="function").model
    masked = removed_again(first, net, 9, again)
    result = sq.minimize(masked, round_to=1, verify=False, layernorm=layernorm)
    onnx.checker.check_model(result.model, full_check=True)
    assert_equal_outputs(masked, result.model, double=False)
    before, after = (max(matrices(one)[0]) for one in (first, result.model))
    assert before - 9 <= after <= before - 9 + 2
    if layernorm == "function":
        (node,) = (node for node in result.model.graph.node if node.op_type == "CompensatedLayerNorm")
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        assert attributes["width"] == 40
    else:
        assert not result.model.functions


@pytest.mark.parametrize("layernorm", ["stock", "function", "primitives"])
def test_function_that_nothing_leaves(layernorm: str) -> None:
    """It is taken apart unless functions are wanted."""
    net = NormNetwork(40, 12, "different")
    model = net.model(net.linear(net.layer_norm(net.stream()), UNITS))
    first = sq.minimize(model, round_to=1, verify=False, layernorm="function").model
    second = sq.minimize(first, round_to=1, verify=False, layernorm=layernorm).model
    assert_equal_outputs(model, second, double=False)
    assert matrices(second) == matrices(first)
    assert operators(second)["CompensatedLayerNorm"] == (layernorm == "function")


def test_function_with_a_reader_that_is_not_linear() -> None:
    """The channels stay, and the norm counts those that left before."""
    net = NormNetwork(24, 0)
    width, total, deviations = 40, 3.0, 7.5
    parameters = [net.weight(net.normal(24)) for _ in range(2)]
    attributes = {"width": width, "epsilon": 1e-5, "sum": total, "squared_deviations": deviations}
    y = net.node("CompensatedLayerNorm", net.stream(), *parameters, domain="onnxsqueeze", **attributes)
    model = net.model(net.node("Tanh", y))
    model.ir_version = 10
    removed = total / 16 + np.sqrt(deviations / 16) * np.tile([-1, 1], 8)  # any constants of that sum and deviation
    result = sq.minimize(model, round_to=1, verify=False)
    feeds = draw(result.model, 2, 5)
    x = feeds["input"] @ net.weights[net.stream_weights[0]] + net.weights[net.stream_weights[1]]
    whole = np.concatenate([x, np.broadcast_to(removed, (*x.shape[:2], 16))], axis=2).astype(np.float64)
    unit = (x - whole.mean(2, keepdims=True)) / np.sqrt(whole.var(2, keepdims=True) + 1e-5)
    scale, bias = (net.weights[name] for name in parameters)
    expected = np.tanh(unit * scale + bias).astype(np.float32)
    assert deviation([expected], run(result.model, feeds)) <= 2e-5


# -- random masks ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([13, 17, 23]), st.sampled_from(list(NORMS)))
@settings(deadline=None, derandomize=True, max_examples=part(60))
def test_random_masks_of_two_blocks(seed: int, share: float, opset: int, name: str) -> None:
    """Rows, columns, scales and biases are zero at random; the function stays, and what stays has its reason."""
    net = NormNetwork(12, 3, "different", opset=opset, seed=seed)
    add, random = NORMS[name][0], np.random.default_rng(seed)
    x = net.stream()
    for _ in range(2):
        x = net.node("Add", x, net.branch(add(net, x)))
    model = net.model(net.linear(add(net, x), UNITS))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if array.size <= 1:
            continue
        for axis in range(array.ndim):
            rows = random.random(array.shape[axis]) < share * random.random()
            np.moveaxis(array, axis, 0)[rows] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    result = minimize(model, narrowing=False)
    assert_equal_outputs(model, result.model, extents=(5, 6))
    for tensor, mask in result.plan.masks.items():
        assert all(result.plan.reasons[tensor][mask]), tensor
