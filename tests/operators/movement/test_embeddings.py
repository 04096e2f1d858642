"""Planted tables: columns that leave, whoever else reads the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxsqueeze as sq
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Graph
from onnxsqueeze.model.loading import load
from onnxsqueeze.rules.contract import Refusal
from tests.support.planted.checks import DOUBLE, SINGLE, deviation, in_double, minimize, operators, run, weights
from tests.support.planted.embedding_networks import OUT, ROWS, TOKENS, TableNetwork, feeds

HALF = 4e-3
"""Largest deviation in float16, relative to the output's scale: sums of some ten terms, each rounded to 1e-3."""


def checked(model: onnx.ModelProto, rows: int = ROWS, tolerance: float = SINGLE) -> sq.Result:
    """Minimize, and compare for two sequence lengths."""
    result = minimize(model)
    for batch, tokens in ((1, TOKENS), (3, 2)):
        given = feeds(model, rows, batch, tokens)
        for optimized in (False, True):
            assert deviation(run(model, given, optimized), run(result.model, given, optimized)) <= tolerance
    if tolerance == SINGLE:
        assert deviation(in_double(model, given), in_double(result.model, given)) <= DOUBLE
    return result


@pytest.mark.parametrize("opset", [11, 17, 22])
@pytest.mark.parametrize("constants", [0.0, 0.7, "different"])
def test_constant_columns(opset: int, constants: Any) -> None:
    """Columns that hold one number leave; what they add goes into a bias."""
    network = TableNetwork(opset=opset)
    values = network.drawn(len(network.gone)) if constants == "different" else constants
    stream = network.lookup(network.input(["N", "T"]), constants=values)
    result = checked(network.model(network.head(stream), ["N", "T", OUT]))
    assert [(ROWS, network.kept), (network.kept, OUT)] == sorted(s for s in weights(result.model) if len(s) == 2)[::-1]


def test_columns_that_nothing_reads() -> None:
    network = TableNetwork()
    stream = network.lookup(network.input(["N", "T"]), constants=network.drawn(ROWS, len(network.gone)))
    result = checked(network.model(network.head(stream, reads=False), ["N", "T", OUT]))
    assert weights(result.model) == sorted([(ROWS, network.kept), (network.kept, OUT)])


def matrices(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """Return the shapes of the stored weights that are no vectors."""
    return [shape for shape in weights(model) if size_of(shape) != max(shape, default=1)]


def size_of(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


@pytest.mark.parametrize("positions", ["constant", "range", "input"])
def test_tokens_positions_and_kinds(positions: str) -> None:
    """BERT's sum of three tables: a channel leaves if it is constant in all three of them."""
    network = TableNetwork()
    length = "T" if positions == "range" else TOKENS
    tokens, kinds = network.input(["N", length]), network.input(["N", length])
    if positions == "constant":
        places = network.weight([range(TOKENS)], np.int64)
    elif positions == "input":
        places = network.input(["N", TOKENS])
    else:
        scalars = [network.weight(number, np.int64) for number in (0, 1)]
        count = network.node("Gather", network.node("Shape", tokens), scalars[1], axis=0)
        places = network.node("Range", scalars[0], count, scalars[1])
    stream = network.node("Add", network.lookup(tokens, 6, 0.5), network.lookup(places, 6, -0.3))
    stream = network.node("Add", stream, network.lookup(kinds, 2, 0.25))
    model = network.model(network.head(stream), ["N", length, OUT])
    result = minimize(model)
    given = feeds(model, rows=2)
    assert deviation(run(model, given), run(result.model, given)) <= SINGLE
    rows = TOKENS if positions == "constant" else 6
    kept = sorted([size_of((count, network.kept)) for count in (2, 6, rows)] + [network.kept * OUT])
    assert sorted(map(size_of, matrices(result.model))) == kept


def test_column_that_only_one_table_holds_constant_stays() -> None:
    network = TableNetwork()
    tokens = network.input(["N", "T"])
    varying = network.node("Gather", network.weight(network.drawn(ROWS, network.width)), tokens)
    result = checked(network.model(network.head(network.node("Add", network.lookup(tokens), varying)), ["N", "T", OUT]))
    assert result.plan.empty


def test_scaled_embedding() -> None:
    network = TableNetwork()
    stream = network.lookup(network.input(["N", "T"]), constants=0.4)
    scaled = network.node("Mul", stream, network.weight(np.sqrt(network.width)))
    result = checked(network.model(network.head(scaled), ["N", "T", OUT]))
    assert matrices(result.model) == sorted([(ROWS, network.kept), (network.kept, OUT)])


def test_indices_of_one_row() -> None:
    """A scalar index leaves no axis behind."""
    network = TableNetwork()
    row = network.lookup(network.input([]), constants=0.4)
    row = network.node("Reshape", row, network.weight([1, -1], np.int64))
    model = network.model(network.head(row), [1, OUT])
    result = minimize(model)
    assert deviation(run(model, feeds(model)), run(result.model, feeds(model))) <= SINGLE
    assert matrices(result.model) == sorted([(ROWS, network.kept), (network.kept, OUT)])


def test_rows_along_the_last_axis() -> None:
    """A table whose columns come first, as a bias of positions for each head may be stored."""
    network = TableNetwork()
    values = network.drawn(network.width, ROWS)
    values[network.gone] = 0.6
    stream = network.node("Gather", network.weight(values), network.input(["N", "T"]), axis=1)
    stream = network.node("Transpose", stream, perm=[1, 2, 0])
    result = checked(network.model(network.head(stream), ["N", "T", OUT]))
    assert matrices(result.model) == sorted([(network.kept, ROWS), (network.kept, OUT)])


def test_half_precision() -> None:
    network = TableNetwork(dtype=np.float16)
    stream = network.lookup(network.input(["N", "T"]), constants=0.5)
    result = checked(network.model(network.head(stream), ["N", "T", OUT]), tolerance=HALF)
    assert matrices(result.model) == sorted([(ROWS, network.kept), (network.kept, OUT)])


def test_constant_positions_of_a_larger_table() -> None:
    """Only the rows that are asked for count: in those the columns are constant."""
    network = TableNetwork()
    values = network.drawn(ROWS, network.width)
    values[:TOKENS, network.gone] = 0.5
    places = network.weight([range(TOKENS)], np.int64)
    stream = network.node(
        "Add", network.lookup(network.input(["N", TOKENS])), network.node("Gather", network.weight(values), places)
    )
    model = network.model(network.head(stream), ["N", TOKENS, OUT])
    result = minimize(model)
    assert deviation(run(model, feeds(model)), run(result.model, feeds(model))) <= SINGLE
    assert matrices(result.model) == sorted([(ROWS, network.kept), (1, TOKENS, network.kept), (network.kept, OUT)])


def test_rows_that_are_asked_for_again_are_not_written_out() -> None:
    """A table of two rows stays a table although its indices are constant and many."""
    network = TableNetwork()
    kinds = network.weight([[0, 1] * 8], np.int64)
    stream = network.node("Add", network.lookup(network.input(["N", 16])), network.lookup(kinds, 2))
    model = network.model(network.head(stream), ["N", 16, OUT])
    result = minimize(model)
    given = feeds(model, tokens=16)
    assert deviation(run(model, given), run(result.model, given)) <= SINGLE
    assert matrices(result.model) == sorted([(2, network.kept), (ROWS, network.kept), (network.kept, OUT)])


def test_only_rows_that_are_asked_for_count() -> None:
    """Of a table whose rows are asked for again and again, columns are constant that are so in those rows."""
    network = TableNetwork()
    values = network.drawn(ROWS, network.width)
    values[:2, network.gone] = 0.5
    places = network.weight([[0, 1] * 8], np.int64)
    kinds = network.node("Gather", network.weight(values), places)
    model = network.model(
        network.head(network.node("Add", network.lookup(network.input(["N", 16])), kinds)), ["N", 16, OUT]
    )
    result = minimize(model)
    given = feeds(model, tokens=16)
    assert deviation(run(model, given), run(result.model, given)) <= SINGLE
    assert matrices(result.model) == sorted([*[(ROWS, network.kept)] * 2, (network.kept, OUT)])


def test_constant_branch_joins_the_table() -> None:
    """What a dead branch adds to the stream is added to every row, so that the Add falls away."""
    network = TableNetwork(gone=0)
    stream = network.lookup(network.input(["N", "T"]))
    values = network.input(["N", "T", 2], TensorProto.FLOAT)
    branch = network.node("Relu", network.node("MatMul", values, network.weight(np.zeros((2, 2)))))
    branch = network.node("MatMul", branch, network.weight(network.drawn(2, network.width)))
    branch = network.node("Add", branch, network.weight(network.drawn(network.width)))
    stream = network.node("Relu", network.node("Add", stream, branch))
    result = checked(network.model(network.head(stream), ["N", "T", OUT]))
    assert not operators(result.model)["Add"]


def test_shared_table_does_not_take_up_a_branch() -> None:
    """What one reader of a table adds is none of the other's business."""
    network = TableNetwork(gone=0)
    table = network.table(ROWS)
    stream, other = (network.node("Gather", table, network.input(["N", "T"])) for _ in range(2))
    values = network.input(["N", "T", 2], TensorProto.FLOAT)
    branch = network.node("MatMul", network.node("Tanh", values), network.weight(np.zeros((2, network.width))))
    branch = network.node("Add", branch, network.weight(network.drawn(network.width)))
    stream = network.node("Mul", network.node("Relu", network.node("Add", stream, branch)), other)
    result = checked(network.model(network.head(stream), ["N", "T", OUT]))
    assert matrices(result.model) == sorted([(ROWS, network.width), (network.width, OUT)])


def test_a_table_of_large_integers_stays_with_the_reason() -> None:
    network = TableNetwork()
    table = network.weight(np.zeros((ROWS, network.width)), np.int64)
    values = network.node("Cast", network.node("Gather", table, network.input(["N", "T"])), to=TensorProto.FLOAT)
    model = network.model(network.head(values), ["N", "T", OUT])
    result = checked(model)
    assert result.plan.empty
    refusal = Analysis(Graph(load(model))).context.refusals[0]
    assert refusal == Refusal(Reason.UNSUPPORTED_DTYPE, "Gather int64")


def test_table_with_a_nan_stays_with_the_reason() -> None:
    network = TableNetwork()
    table = np.zeros((ROWS, network.width))
    table[0, 0] = np.nan
    stream = network.node("Gather", network.weight(table), network.input(["N", "T"]))
    result = minimize(network.model(network.head(stream), ["N", "T", OUT]))
    assert result.plan.empty
    assert any("NaN" in warning for warning in result.report.warnings)


def test_report_knows_the_table() -> None:
    network = TableNetwork()
    stream = network.lookup(network.input(["N", "T"]))
    result = checked(network.model(network.head(stream), ["N", "T", OUT]))
    table, head = result.report.layers
    assert (table.shape_before, table.shape_after) == ((ROWS, network.width), (ROWS, network.kept))
    assert (table.weights_before, table.weights_after) == (ROWS * network.width, ROWS * network.kept)
    assert table.macs_before == table.macs_after == 0 < head.macs_after
