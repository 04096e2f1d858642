"""Constants in front of layers whose bias is stored as codes: what is added to it, and what a bias cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.operators.linear import coded
from onnxsqueeze.rules.codes import Codes
from onnxsqueeze.rules.weight_view import Linear
from tests.operators.quantization.test_traps import Net, reasons
from tests.support.quantized import shapes

Array = npt.NDArray[Any]
F = np.float32
LIVE = 6
DATA, WEIGHT = F(0.0625), F(0.0078125)  # scales, whose products are exact


@dataclass(frozen=True)
class Case:
    """A layer that reads constants, and its bias.

    Attributes:
        op: Gemm, Conv or MatMul. alpha, beta: of a Gemm. bias: its codes, None for none. several: whether outputs have
            scales of their own. steps: of the scale of the sum that the bias counts. zero: its zero point.
        codes: whether data and weights are codes too. shape: of the bias, one for each output by default.
    """

    op: str = "Gemm"
    alpha: float = 1.0
    beta: float = 1.0
    bias: Any = np.int32
    several: bool = False
    steps: float = 1.0
    zero: int | None = None
    codes: bool = True
    shape: tuple[int, ...] = (4,)


def network(net: Net, case: Case, constants: Any, small: bool = False) -> str:
    """Add two layers; ``constants`` counts the steps of data that each constant unit between them gives."""
    width, count = LIVE + len(constants), len(constants)
    places = net.random.permutation(width)[:count]
    inner, bias = net.random.standard_normal((width, 6)), net.random.uniform(0.1, 1, width)
    inner[places], bias[places] = 0, np.multiply(constants, DATA)
    kernel = (1,) if case.op == "Conv" else ()
    first = net.store(inner.reshape(width, 6, *kernel), "f"), net.store(bias, "f")
    given: dict[str, Any] = {} if case.op == "Conv" else {"transB": 1}
    hidden = net.add("Relu", net.add("Conv" if case.op == "Conv" else "Gemm", "x", *first, **given))
    if case.codes:
        hidden = net.coded(hidden, float(DATA), 0)
    scales = WEIGHT * (2.0 ** -np.arange(4) if case.several else np.ones(()))
    numbers = net.codes(4, width, *kernel)
    if small:
        numbers[:, places] = np.sign(numbers[:, places])
    if case.op == "MatMul":
        numbers, given = numbers.T, {}
    elif case.op == "Gemm":
        given = {"transB": 1, "alpha": case.alpha, "beta": case.beta}
    # Runtimes compute in integers only where a weight has a zero point.
    weight = decoded(net, numbers, np.int8, scales, int(case.op == "MatMul"), 0 if case.codes else None)
    if not case.codes:
        weight = net.store(numbers * scales.reshape((-1, 1) if case.several else ()), "f")
    operands = [hidden, weight]
    if case.bias is not None:
        step = scales * DATA * case.alpha / case.beta * case.steps if case.beta else scales
        stored = np.resize(np.arange(4) * 7, case.shape) + (case.zero or 0)
        real = net.store(stored * step, "f") if case.bias is F else ""
        operands.append(real or decoded(net, stored, case.bias, step, 0, case.zero))
    return str(net.add(case.op, *operands, **given))


def decoded(net: Net, codes: Any, dtype: Any, scales: Any, axis: int, zero: int | None = None) -> str:
    inputs = [net.store(codes, dtype), net.store(scales, "f")]
    if zero is not None:
        inputs.append(net.store(np.full(np.shape(scales), zero), dtype))
    along = {"axis": axis} if np.ndim(scales) else {}
    return str(net.add("DequantizeLinear", *inputs, **along))


def width(result: sq.Result, op: str) -> int:
    """Return the number of units that the second layer reads."""
    arrays = {tensor.name: tensor.dims for tensor in result.model.graph.initializer}
    makers = {node.output[0]: node for node in result.model.graph.node}
    weight = [node for node in result.model.graph.node if node.op_type == op][-1].input[1]
    return prod(arrays[weight if weight in arrays else makers[weight].input[0]]) // 4


def net_for(case: Case) -> Net:
    return Net("N", 6, 1) if case.op == "Conv" else Net()


def minimized(case: Case, constants: Any, ending: str = "", small: bool = False) -> sq.Result:
    """Minimize a network whose output is encoded, if that is the ``ending``; the outputs must be equal."""
    net = net_for(case)
    y = network(net, case, constants, small)
    if ending:
        y = net.coded(y, 0.25)
    if case.op == "Conv":
        y = net.add("Flatten", y)
    return net.minimized(y, exact=bool(ending))


HOLDING = [
    Case(),
    Case(several=True),
    Case(alpha=0.5),
    Case(alpha=-2.0, several=True),
    Case(beta=0.5),
    Case(beta=0.5, steps=0.5),
    Case(beta=-2.0, several=True),
    Case(bias=None),
    Case(bias=None, several=True),
    Case(bias=None, beta=0.5),
    Case(bias=None, beta=0.0),
    Case(op="Conv", several=True),
    Case(op="Conv", bias=None),
    Case(shape=(1,)),
    Case(shape=()),
    Case(codes=False),
    Case(codes=False, several=True),
    Case(codes=False, zero=-3, bias=np.int16),
    Case(codes=False, zero=5, bias=np.int16, steps=8.0, several=True),
]


@pytest.mark.parametrize("case", HOLDING, ids=str)
def test_a_bias_of_codes_takes_up_constants(case: Case) -> None:
    """It stays one of codes, decoded as before; 8 steps of data are a whole number of steps of all these biases."""
    result = minimized(case, [8, 16, 24])
    assert width(result, case.op) == LIVE
    makers = {node.output[0]: node for node in result.model.graph.node}
    layer = [node for node in result.model.graph.node if node.op_type == case.op][-1]
    decoder = makers[layer.input[2]]
    assert decoder.op_type == "DequantizeLinear" and len(decoder.input) == 2 + (case.zero is not None)
    types = {tensor.name: tensor.data_type for tensor in result.model.graph.initializer}
    assert types[decoder.input[0]] == helper.np_dtype_to_tensor_dtype(np.dtype(case.bias or np.int32))


def test_whole_numbers_add_up_however_large_they_are() -> None:
    """255 steps each of 60 constants by weights up to 90: too much for the rounding of real numbers to be sure."""
    assert width(minimized(Case(alpha=0.5), [255] * 60), "Gemm") == LIVE


@pytest.mark.parametrize("case", [Case(codes=False, bias=None), Case(bias=np.float32)], ids=str)
def test_biases_of_real_numbers_stay_such(case: Case) -> None:
    result = minimized(case, [8, 16, 24])
    types = {tensor.name: tensor.data_type for tensor in result.model.graph.initializer}
    layer = [node for node in result.model.graph.node if node.op_type == case.op][-1]
    assert width(result, case.op) == LIVE and types[layer.input[2]] == TensorProto.FLOAT


@pytest.mark.parametrize(
    ("case", "constants", "left"),
    [
        (Case(shape=(1, 4)), [8, 16, 24], 3),
        (Case(beta=0.0), [8, 16, 24], 3),
        (Case(steps=0.5), [8, 16, 24], 3),
        (Case(steps=2.0, several=True), [8, 16, 24], 3),
        (Case(op="Conv", steps=0.5), [8, 16, 24], 3),
        (Case(codes=False, steps=32.0), [32, 8, 64], 1),
        (Case(codes=False, steps=32.0, several=True), [32, 8, 64], 1),
        (Case(codes=False, steps=32.0, beta=0.5), [32, 8, 64], 1),
        (Case(codes=False, steps=8.0, bias=np.int8), [8, 8, 8], 3),
    ],
    ids=str,
)
def test_what_a_bias_cannot_hold_stays(case: Case, constants: list[int], left: int) -> None:
    """Of the constants those that add no whole number of steps; all, if only their sum is too much."""
    result = minimized(case, constants)
    assert Reason.NOT_A_CODE in reasons(result)
    assert width(result, case.op) == LIVE + left


def test_scales_of_blocks_of_a_bias() -> None:
    """They are no scales of outputs: the constants stay, though they add whole numbers of steps."""
    net = Net()
    hidden = net.add("Relu", net.add("Gemm", "x", *constant_inner(net)))
    blocks = {"axis": 0, "block_size": 2}
    bias = net.add("DequantizeLinear", net.store([9, 8, 7, 6], np.int32), net.store([0.25, 0.5], "f"), **blocks)
    result = net.minimized(net.add("Gemm", hidden, net.store(net.codes(8, 4), "f"), bias), exact=False)
    assert sorted(shapes(result.model)) == [(6, 8), (8, 4)]


def constant_inner(net: Net, value: float = 1.0) -> tuple[str, str]:
    """Return weights and biases of eight units of which two are a constant."""
    weight, bias = net.random.standard_normal((6, 8)), net.random.uniform(0.1, 1, 8)
    weight[:, [2, 5]], bias[[2, 5]] = 0, value
    return net.store(weight, "f"), net.store(bias, "f")


@pytest.mark.parametrize(("constant", "fits"), [(1.0, True), (0.3, False)])
def test_a_constant_summand_in_front(constant: float, fits: bool) -> None:
    """A branch that is one constant is folded, or added where it is: no channel that could stay for it is removed."""
    net = Net()
    hidden = net.add("Relu", net.add("Gemm", "x", *constant_inner(net)))
    branch = net.add("Relu", net.add("Gemm", "x", net.store(np.zeros((6, 8)), "f"), net.store([constant] * 8, "f")))
    bias = net.add("DequantizeLinear", net.store([9, -9, 12, 1], np.int32), net.store(0.25, np.float32))
    weight = net.store(net.codes(8, 4) / 4, "f")
    result = net.minimized(net.add("Gemm", net.add("Add", hidden, branch), weight, bias), exact=False)
    kinds = [node.op_type for node in result.model.graph.node]
    assert kinds.count("Gemm") == 2 and ("Add" in kinds) != fits
    assert sorted(shapes(result.model))[-1] == ((6, 6) if fits else (8, 4))


@pytest.mark.parametrize("encoded", [False, True])
def test_a_sum_that_something_encodes_as_it_is(encoded: bool) -> None:
    """A product has no place for a bias: nothing may come between it and what encodes it, whatever reads it beside."""
    net = Net()
    y = network(net, Case(op="MatMul", bias=None), [8, 16, 24, 32], small=True)
    read = net.coded(y, 0.25) if encoded else net.add("Sigmoid", y)
    result = net.minimized(net.add("Add", read, net.add("Tanh", y)), exact=False)
    makers = {node.output[0]: node for node in result.model.graph.node}
    (tanh,) = [node for node in result.model.graph.node if node.op_type == "Tanh"]
    assert makers[tanh.input[0]].op_type == ("MatMul" if encoded else "Add")
    assert (width(result, "MatMul") > LIVE) == encoded


def test_a_sum_that_is_encoded_beside_other_readers() -> None:
    """No constants stand in for others, as the codes of the weight are decoded twice: all of them stay."""
    net = Net()
    y = network(net, Case(op="MatMul", bias=None), [8, 16, 24, 32], small=True)
    hidden, codes = net.nodes[-1].input[0], net.nodes[-2].input[0]
    again = net.add("MatMul", hidden, net.add("DequantizeLinear", codes, net.store(0.5, "f")))
    result = net.minimized(net.add("Add", net.coded(y, 0.25), net.add("Add", y, again)), exact=False)
    makers = {node.output[0]: node for node in result.model.graph.node}
    encoder = [node for node in result.model.graph.node if node.op_type == "QuantizeLinear"][-1]
    assert makers[encoder.input[0]].op_type == "MatMul" and width(result, "MatMul") == LIVE + 4


def test_channels_of_groups() -> None:
    """The second group has a constant that is no whole number of steps: it stays, and one of the other group for it."""
    net = Net("N", 6, 1)
    inner, bias = net.random.standard_normal((10, 6, 1)), net.random.uniform(0.1, 1, 10)
    constants = {1: 32, 3: 64, 6: 64, 9: 8}
    for place, steps in constants.items():
        inner[place], bias[place] = 0, steps * DATA
    hidden = net.add("Relu", net.add("Conv", "x", net.store(inner, "f"), net.store(bias, "f")))
    step = WEIGHT * DATA * 32 * 2.0 ** -np.arange(4)
    scales = WEIGHT * (2.0 ** -np.arange(4)).reshape(-1, 1, 1)
    added = decoded(net, [5, 6, 7, 8], np.int32, step, 0)
    y = net.add("Conv", hidden, net.store(net.codes(4, 5, 1) * scales, "f"), added, group=2)
    result = net.minimized(net.add("Flatten", y), exact=False)
    assert width(result, "Conv") == 8 // 2
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}
    biases = found[result.model.graph.node[0].input[2]]
    assert F(8 * DATA) in biases[4:] and F(64 * DATA) not in biases[4:]


# -- the parts by themselves ------------------------------------------------------------------------------------------


def linear(matrix: Array, order: tuple[int, ...] = (0, 1, 2), scale: float = 1.0) -> Linear:
    """Return a layer whose weight is stored as [groups x out, in, taps], its axes in another order then."""
    return Linear(
        data="x",
        weight="w",
        bias="",
        position=1,
        data_axis=1,
        output_axis=1,
        matrix=matrix,
        zero_padded=False,
        restore=lambda array: array.reshape(-1, *array.shape[2:]).transpose(order),
        scale=scale,
    )


def known(monkeypatch: pytest.MonkeyPatch, **codes: Codes) -> Any:
    """Return a context in which tensors are codes."""
    monkeypatch.setattr(coded, "codes_of", lambda context, name: codes.get(name))
    return SimpleNamespace()


def stored(dtype: Any, scale: Any, axis: int = 0, block: int = 0) -> Codes:
    return Codes("c", np.dtype(dtype), np.asarray(scale, F), axis=axis, block=block)


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_what_constants_add(groups: int, taps: int) -> None:
    random = np.random.default_rng(taps)
    matrix = random.integers(-9, 9, (groups, 4, 5, taps)).astype(F)
    values = random.integers(1, 9, (groups, 5)) * np.array([1.0, 0, 1, 0, 1])
    found = coded.shifted(linear(matrix, scale=0.5), values)
    assert found.shape == (groups, 4)
    np.testing.assert_array_equal(found, 0.5 * np.einsum("goit,gi->go", matrix, values))


SEVERAL = [0.5, 0.25]
IN_ROWS, IN_COLUMNS = (0, 1, 2), (1, 0, 2)


@pytest.mark.parametrize(
    ("data", "weight", "groups", "order", "found"),
    [
        (stored(np.uint8, 2), stored(np.int8, 0.25), 1, IN_ROWS, 1.5),
        (stored(np.uint8, 2), stored(np.int8, 0.25, axis=1), 1, IN_ROWS, 1.5),
        (stored(np.uint8, [2]), stored(np.int8, [0.25]), 1, IN_ROWS, 1.5),
        (stored(np.uint8, 2), stored(np.int8, SEVERAL), 1, IN_ROWS, [3, 1.5]),
        (stored(np.uint8, 2), stored(np.int8, SEVERAL, axis=1), 1, IN_COLUMNS, [3, 1.5]),
        (stored(np.uint8, 2), stored(np.int8, [0.5, 0.25, 1, 2]), 2, IN_ROWS, [3, 1.5, 6, 12]),
        (stored(np.uint8, 2), stored(np.int8, [0.5] * 6), 2, IN_COLUMNS, None),
        (stored(np.uint8, 2), stored(np.int8, [0.5] * 3, axis=1), 1, IN_ROWS, None),
        (stored(np.uint8, 2), stored(np.int8, SEVERAL, block=1), 1, IN_ROWS, None),
        (stored(np.uint8, [2, 1, 2]), stored(np.int8, 0.25), 1, IN_ROWS, None),
        (stored(ml_dtypes.float8_e4m3fn, 2), stored(np.int8, 0.25), 1, IN_ROWS, None),
        (stored(np.uint8, 2), stored(ml_dtypes.float8_e4m3fn, 0.25), 1, IN_ROWS, None),
        (None, stored(np.int8, 0.25), 1, IN_ROWS, None),
        (stored(np.uint8, 2), None, 1, IN_ROWS, None),
    ],
)
def test_the_scale_of_a_sum(
    monkeypatch: pytest.MonkeyPatch, data: Any, weight: Any, groups: int, order: Any, found: Any
) -> None:
    """Whole numbers are added up where all of an output have one scale, along its axis if there are several."""
    layer = linear(np.ones((groups, 2, 3, 1), F), order, scale=3.0)
    scale = coded.integer_scale(known(monkeypatch, x=data, w=weight), layer)
    if found is None:
        assert scale is None
    else:
        assert scale is not None and scale.dtype == F and scale.tolist() == found


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("several", [False, True])
def test_weights_as_whole_numbers(monkeypatch: pytest.MonkeyPatch, groups: int, several: bool) -> None:
    """A scale of 0 makes zeros."""
    numbers = np.random.default_rng(3).integers(-9, 9, (groups, 4, 3, 2))
    scales = np.resize([0.5, 0.0, 1.0, 0.25], groups * 4) if several else np.array([0.5])
    spread = scales.reshape(groups, 4, 1, 1) if several else scales[0]
    found, factor = coded.whole_weights(
        known(monkeypatch, w=stored(np.int8, scales)), linear((numbers * spread).astype(F))
    )
    np.testing.assert_array_equal(found, np.where(spread == 0, 0, numbers))
    np.testing.assert_array_equal(found * factor, numbers * spread)
