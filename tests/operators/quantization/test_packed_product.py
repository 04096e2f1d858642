"""MatMulNBits: rows and whole blocks leave, whatever the codes and zero points are packed in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.registry import rule_for
from tests.operators.quantization.test_traps import reasons
from tests.support.planted.checks import files_of_any_length
from tests.support.quantized import MICROSOFT, outputs

Array = npt.NDArray[Any]
BLOCK = 16


def pack(codes: Array, bits: int) -> Array:
    """Return codes [.., n] as bytes, the first one in the lowest bits."""
    each = 8 // bits
    padded = np.zeros((*codes.shape[:-1], -(-codes.shape[-1] // each) * each), np.int64)
    padded[..., : codes.shape[-1]] = codes
    grouped = padded.reshape(*codes.shape[:-1], -1, each)
    return (grouped * (1 << np.arange(0, 8, bits))).sum(-1).astype(np.uint8)


class Packed:
    """Two such layers with an activation between them."""

    def __init__(self, bits: int, zeros: str, flat: bool) -> None:
        self.bits, self.zeros, self.flat = bits, zeros, flat
        self.random = np.random.default_rng(bits)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, Array] = {}

    def store(self, array: Array) -> str:
        name = f"c{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def layer(
        self,
        x: str,
        rows: int,
        columns: int,
        zero_rows: Any = (),
        zero_columns: Any = (),
        bias: Any = None,
        order: Any = None,
    ) -> str:
        count = -(-columns // BLOCK)
        middle, top = 1 << (self.bits - 1), 1 << self.bits
        zeros = self.random.integers(0, top, (rows, count)) if self.zeros else np.full((rows, count), middle)
        codes = self.random.integers(0, top, (rows, count, BLOCK))
        at = codes.reshape(rows, -1)
        groups = np.resize(np.arange(count * BLOCK) // BLOCK if order is None else order, count * BLOCK) % count
        full = zeros[:, groups]
        at[at == full] ^= 1
        at[list(zero_rows)] = full[list(zero_rows)]
        at[:, list(zero_columns)] = full[:, list(zero_columns)]
        scales = self.random.uniform(0.01, 0.02, (rows, count)).astype("f")
        inputs = [x, self.store(pack(codes, self.bits)), self.store(scales.reshape(-1) if self.flat else scales)]
        if self.zeros == "codes":
            packed = pack(zeros, self.bits)
            inputs.append(self.store(packed.reshape(-1) if self.flat else packed))
        elif self.zeros:
            inputs.append(self.store(zeros.astype("f")))
        if order is not None:
            inputs += [""] * (4 - len(inputs)) + [self.store(np.asarray(order, np.int32))]
        if bias is not None:
            inputs += [""] * (5 - len(inputs)) + [self.store(np.asarray(bias, "f"))]
        name = f"y{len(self.nodes)}"
        given = {"K": columns, "N": rows, "bits": self.bits, "block_size": BLOCK}
        self.nodes.append(helper.make_node("MatMulNBits", inputs, [name], name=name, domain=MICROSOFT, **given))
        return name

    def model(self, y: str, columns: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "packed",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, columns])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 3, None])],
            [numpy_helper.from_array(array, name) for name, array in self.arrays.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


CASES = [(4, "", True), (4, "", False), (4, "codes", True), (4, "codes", False), (8, "", False), (4, "numbers", False)]


@pytest.mark.parametrize(("bits", "zeros", "flat"), CASES)
@pytest.mark.parametrize("columns", [48, 40])
def test_rows_and_blocks(bits: int, zeros: str, flat: bool, columns: int) -> None:
    """Of 70 units 20 are zero or constant; a block of 16 and two more are not read: the two stay."""
    net = Packed(bits, zeros, flat)
    bias = np.zeros(70)
    bias[60:] = 0.7
    hidden = net.layer("x", 70, columns, range(48, 70), bias=bias)
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    y = net.layer("h", 24, 70, zero_columns=[*range(16, 32), 33, 34])
    model = net.model(y, columns)
    with files_of_any_length():
        result = sq.minimize(model, round_to=1)
    given = [
        tuple(helper.get_attribute_value(a) for a in node.attribute if a.name in ("K", "N"))
        for node in result.model.graph.node
        if node.op_type == "MatMulNBits"
    ]
    assert sorted(map(sorted, given)) == sorted(map(sorted, [(columns, 32), (32, 24)]))
    x = np.random.default_rng(5).standard_normal((2, 3, columns)).astype("f")
    before, after = (outputs(each, {"x": x})[0] for each in (model, result.model))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    (first, _) = result.report.layers
    assert first.macs_before == 3 * 70 * 48  # a block that is not full is multiplied whole
    assert first.sparsity == pytest.approx(22 / 70)


def orders(columns: int) -> dict[str, Array]:
    """Return whose scale each column has: mixed up over all of the row, and so that groups are no blocks' size."""
    random = np.random.default_rng(columns)
    in_order = np.arange(columns) // BLOCK
    return {"mixed": random.permutation(in_order), "uneven": np.where(in_order == 1, 0, in_order)}


def squeezed(net: Packed, y: str, columns: int, round_to: int = 1) -> tuple[sq.Result, list[onnx.NodeProto]]:
    """Minimize a network, compare what it computes, and return its products."""
    model = net.model(y, columns)
    with files_of_any_length():
        result = sq.minimize(model, round_to=round_to)
    x = np.random.default_rng(5).standard_normal((2, 3, columns)).astype("f")
    before, after = (outputs(each, {"x": x})[0] for each in (model, result.model))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    return result, products(result.model)


def products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "MatMulNBits"]


def sizes(node: onnx.NodeProto) -> tuple[int, int]:
    given = {attribute.name: attribute.i for attribute in node.attribute}
    return given["N"], given["K"]


@pytest.mark.parametrize(("zeros", "flat", "padded"), [("", True, False), ("numbers", False, True)])
def test_columns_in_an_order_of_their_own(zeros: str, flat: bool, padded: bool) -> None:
    """Act-order: of 72 units 16 that share a scale are not read, and two of another group: the two stay."""
    net = Packed(4, zeros, flat)
    bias = np.zeros(72)
    bias[60:] = 0.7
    order = orders(72)["mixed"]
    hidden = net.layer("x", 72, 40, [7, *range(60, 72)], bias=bias, order=orders(40)["mixed"])
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    unread = [*np.flatnonzero(order == 2), *np.flatnonzero(order == 0)[:2]]
    stored = np.concatenate([order, np.zeros(8, int)]) if padded else order
    result, (first, second) = squeezed(net, net.layer("h", 24, 72, zero_columns=unread, order=stored), 40)
    assert sizes(first) == (48, 40) and sizes(second) == (24, 56)  # rows of zeros share one
    arrays = {each.name: numpy_helper.to_array(each) for each in result.model.graph.initializer}
    left = order[order != 2]
    np.testing.assert_array_equal(arrays[second.input[4]], np.where(left > 2, left - 1, left))
    assert arrays[second.input[1]].shape == (24, 4, BLOCK // 2) and arrays[second.input[2]].size == 24 * 4


def test_scales_that_no_column_has_fill_up() -> None:
    """A group of 32 columns and two of 16: one of 16 leaves, three blocks and as many scales are stored for two."""
    net = Packed(4, "", False)
    hidden = net.layer("x", 64, 40)
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    order = orders(64)["uneven"]
    y = net.layer("h", 24, 64, zero_columns=np.flatnonzero(order == 2), order=order)
    result, (first, second) = squeezed(net, y, 40)
    assert sizes(first) == (48, 40) and sizes(second) == (24, 48)
    arrays = {each.name: numpy_helper.to_array(each) for each in result.model.graph.initializer}
    assert arrays[second.input[2]].shape == (24, 3)
    np.testing.assert_array_equal(arrays[second.input[4]], np.repeat([0, 0, 1], BLOCK))


@pytest.mark.parametrize("lengths", [(40, 8, 8, 8), (48, 8, 8)])
def test_groups_smaller_than_blocks_stay(lengths: tuple[int, ...]) -> None:
    """As many scales are stored as columns fill blocks: too few for the small groups, if the large one left."""
    net = Packed(4, "", False)
    hidden = net.layer("x", 64, 40)
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    order = np.repeat(np.arange(len(lengths)), lengths)
    y = net.layer("h", 24, 64, zero_columns=range(lengths[0]), order=order)
    _, (first, second) = squeezed(net, y, 40)
    assert sizes(first) == (64, 40) and sizes(second) == (24, 64)


REFUSED = {
    "packed zero points": Reason.UNSUPPORTED_DTYPE,  # onnxruntime takes them for 8 where there is an order
    "bits": Reason.UNSUPPORTED_DTYPE,  # it reads codes of 4 bits alone there
    "prepacked": Reason.UNSUPPORTED_DTYPE,
    "range": Reason.UNKNOWN_SHAPE,
    "short": Reason.UNKNOWN_SHAPE,
    "computed": Reason.COMPUTED_WEIGHT,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_told_stays(what: str) -> None:
    net = Packed(8 if what == "bits" else 4, "codes" if what == "packed zero points" else "", True)
    order = orders(64)["mixed"]
    order = order + 1 if what == "range" else order[:-1] if what == "short" else order
    hidden = net.layer("x", 64, 40, zero_rows=range(8))
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    y = net.layer("h", 24, 64, zero_rows=range(8), order=None if what == "prepacked" else order)
    read = net.nodes[-1]
    if what == "prepacked":
        read.attribute.append(helper.make_attribute("weight_prepacked", 1))
    model = net.model(y, 40)
    if what == "computed":
        (given,) = (each for each in model.graph.initializer if each.name == read.input[4])
        model.graph.initializer.remove(given)
        model.graph.input.append(helper.make_tensor_value_info(read.input[4], TensorProto.INT32, [64]))
    result = sq.minimize(model, round_to=1, verify=False)
    assert [sizes(each) for each in products(result.model)] == [(64, 40), (24, 64)]
    assert REFUSED[what] in reasons(result)


def test_packed_zero_points_in_the_middle_are_read_alike() -> None:
    net = Packed(4, "", True)
    hidden = net.layer("x", 24, 64, zero_rows=range(8, 24), order=orders(64)["mixed"])
    net.nodes[-1].input[3] = net.store(np.full(24 * 2, 0x88, np.uint8))
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    result, (first, second) = squeezed(net, net.layer("h", 8, 24), 64)
    assert sizes(first) == (9, 64) and sizes(second) == (8, 16)  # rows of zeros share one
    arrays = {each.name: numpy_helper.to_array(each) for each in result.model.graph.initializer}
    np.testing.assert_array_equal(arrays[first.input[3]], np.full(9 * 2, 0x88))


BETWEEN = [("codes", False, True, 1), ("", True, False, 1), ("", True, True, 1), ("", True, False, 20)]


@pytest.mark.parametrize(("zeros", "ordered", "biased", "round_to"), BETWEEN)
def test_rows_and_columns_of_zeros_between_tensors_that_stay(
    zeros: str, ordered: bool, biased: bool, round_to: int
) -> None:
    """Of 48 rows 20 are no zeros, of 64 columns those of two blocks are read, and one of a third.

    Where 60 columns are to stay, all that share a scale with one of them do.
    """
    net = Packed(4, zeros, True)
    order = orders(64)["mixed"] if ordered else np.arange(64) // BLOCK
    empty = np.isin(order, (1, 2))
    empty[np.flatnonzero(order == 2)[3]] = False
    bias = np.where(np.arange(48) % 3, 0, 0.5) if biased else None
    y = net.layer("x", 48, 64, range(20, 48), np.flatnonzero(empty), bias, order if ordered else None)
    result, (product,) = squeezed(net, y, 64, round_to)
    assert sizes(product) == ((21, 48) if round_to == 1 else (40, 64))
    assert [node.op_type for node in result.model.graph.node] == [
        *(["Gather"] if round_to == 1 else []),
        *("MatMulNBits", "Gather", *["Add"] * biased),
    ]
    (layer,) = result.report.layers
    assert layer.macs_after == 3 * sizes(product)[0] * sizes(product)[1]


def test_scales_that_no_column_has_keep_their_numbers() -> None:
    """Rows leave, and no column: the scales are numbered anew, and so is what says whose each column has."""
    net = Packed(4, "numbers", False)
    order = orders(64)["uneven"]
    hidden = net.layer("x", 40, 64, zero_rows=range(16, 40), order=order)
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    _, (first, _) = squeezed(net, net.layer("h", 24, 40, zero_columns=range(16, 40)), 64)
    assert sizes(first) == (16, 64)


@pytest.mark.parametrize("biased", [False, True])
def test_constants_of_some_rows_fold(biased: bool) -> None:
    """Of the second layer one row reads none of the constants, and all rows stay."""
    net = Packed(4, "", True)
    bias = np.zeros(32)
    bias[16:] = 0.7
    hidden = net.layer("x", 32, 16, range(16, 32), bias=bias)
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    y = net.layer("h", 24, 32, zero_rows=[5], bias=np.arange(24) if biased else None)
    _, (first, second) = squeezed(net, y, 16)
    assert sizes(first) == (16, 16) and sizes(second) == (24, 16)


def test_constants_that_no_bias_can_hold_stay() -> None:
    net = Packed(4, "", True)
    bias = np.zeros(32)
    bias[16:] = 3e38
    hidden = net.layer("x", 32, 16, range(16, 32), bias=bias)
    net.nodes.append(helper.make_node("Relu", [hidden], ["h"]))
    y = net.layer("h", 24, 32, bias=np.ones(24))
    net.arrays[net.nodes[-1].input[2]] *= 100
    model = net.model(y, 16)
    small = sq.minimize(model, round_to=1, verify=False).model
    assert all(np.isfinite(numpy_helper.to_array(each)).all() for each in small.graph.initializer)
    assert sizes(products(small)[1]) == (24, 32)


def lone(net: Packed, y: str, columns: int, **attributes: int) -> tuple[Node, Context]:
    """Analyse a network of one product, whose attributes may be others."""
    for attribute in net.nodes[-1].attribute:
        attribute.i = attributes.get(attribute.name, attribute.i)
    analysis = analyse(load(net.model(y, columns)))
    return analysis.graph.nodes[-1], analysis.context


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"bits": 3}, Reason.UNSUPPORTED_DTYPE),
        ({"N": 23}, Reason.UNKNOWN_SHAPE),
        ({"K": 63}, Reason.UNKNOWN_SHAPE),
        ({"block_size": 32}, Reason.UNKNOWN_SHAPE),
        ({1: np.zeros((24, 4, 8), np.int8)}, Reason.UNSUPPORTED_DTYPE),
        ({1: np.zeros((24, 4, 9), np.uint8)}, Reason.UNKNOWN_SHAPE),
        ({2: np.ones(24 * 3, "f")}, Reason.UNKNOWN_SHAPE),
        ({3: np.ones(24 * 3, "f")}, Reason.UNKNOWN_SHAPE),
        ({1: None}, Reason.COMPUTED_WEIGHT),
        ({2: None}, Reason.COMPUTED_WEIGHT),
        ({3: None}, Reason.COMPUTED_WEIGHT),
        ({}, None),
    ],
)
def test_constants_that_do_not_fit_are_refused(wrong: dict[Any, Any], reason: Reason | None) -> None:
    net = Packed(4, "numbers", True)
    y = net.layer("x", 24, 64)
    for position, array in wrong.items():
        if isinstance(position, int):
            name = net.nodes[-1].input[position]
            if array is None:  # made of what only a run knows
                net.nodes.insert(0, helper.make_node("Identity", ["x"], [f"{name}_made"]))
                net.nodes[-1].input[position] = f"{name}_made"
            else:
                net.arrays[name] = array
    node, context = lone(net, y, 64, **{name: value for name, value in wrong.items() if isinstance(name, str)})
    applies = rule_for(node).applies
    refusal = applies(node, context) if applies is not None else None
    assert (refusal and refusal.reason) == reason


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("bits", "zeros", "ordered"), [(4, "codes", False), (8, "codes", False), (4, "numbers", True)])
def test_what_its_constants_belong_to(bits: int, zeros: str, ordered: bool, flat: bool) -> None:
    """Of 24 rows 10 stay, and of four blocks one."""
    net = Packed(bits, zeros, flat)
    order = orders(64)["mixed"] if ordered else None
    node, context = lone(net, net.layer("x", 24, 64, bias=np.ones(24), order=order), 64)
    parameters = rule_for(node).parameters
    assert parameters is not None
    rows, columns = (context.ids(name).ravel() for name in (node.outputs[0], node.inputs[0]))
    columns = np.arange(64) + rows.max() + 1 if columns.size == 1 else columns
    context.elements.ids[node.inputs[0]] = columns.reshape(1, 1, -1)
    stays = np.full(max(rows.max(), columns.max()) + 1, True)
    stays[rows[10:]] = False
    stays[columns[(np.arange(64) // BLOCK if order is None else order) > 0]] = False
    found = {each.position: each for each in parameters(node, context)}
    left = {place: each.shape_left(stays, context.shape(each.name)) for place, each in found.items()}
    shapes = [context.shape(node.inputs[place]) for place in (2, 3)]
    of_zeros = (10, 2) if shapes[1] == (24, 2) else (10, 1)  # two share a byte
    assert (len(shapes[0]) == 1) == flat
    whole = {place: shape for place, shape in zip((2, 3), shapes, strict=True) if len(shape) == 1}
    several = {2: (10, 1), 3: of_zeros} | whole
    assert left == {1: (10, 1, BLOCK * bits // 8), **several, 5: (10,), **({4: (16,)} if ordered else {})}
    assert found[1].packed == 8 // bits and found[1].data == (node.outputs[0], (0, 1))
    roles = {1: Role.WEIGHT, 2: Role.OPERAND, 3: Role.OPERAND, 4: Role.OPERAND, 5: Role.SUMMAND}
    assert all(each.role is roles[place] and each.name == node.inputs[place] for place, each in found.items())


def test_data_of_two_axes() -> None:
    net = Packed(4, "", True)
    hidden = net.layer("x", 40, 64, zero_rows=range(16, 40))
    model = net.model(net.layer(hidden, 24, 40), 64)
    for value in (*model.graph.input, *model.graph.output):
        del value.type.tensor_type.shape.dim[1]
    with files_of_any_length():
        result = sq.minimize(model, round_to=1)
    assert [sizes(each) for each in products(result.model)] == [(16, 64), (24, 16)]
