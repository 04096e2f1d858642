"""Planted tables that the head of a language model shares, in all the ways in which they are stored."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.planted.checks import SINGLE, deviation, minimize, operators, run, weights
from tests.support.planted.embedding_networks import ROWS, TableNetwork, feeds

WAYS = ["gemm", "transpose", "transposes", "twice"]


def head(network: TableNetwork, stream: str, table: str, way: str) -> str:
    """Read a stream by the table."""
    if way == "gemm":
        return network.node("Gemm", stream, table, transB=1)
    if way == "twice":
        return network.node("MatMul", stream, network.weight(network.weights[table].T))
    transposed = network.node("Transpose", table, perm=[1, 0])
    if way == "transposes":
        transposed = network.node("Transpose", network.node("Identity", network.node("Transpose", transposed)))
    return network.node("MatMul", stream, transposed)


def deferred(network: TableNetwork, stream: str, gone: np.ndarray) -> str:
    """Make a new stream of as many channels, of which ``gone`` are constant."""
    matrix = network.drawn(network.width, network.width)
    matrix[:, gone] = 0
    stream = network.node("MatMul", stream, network.weight(matrix))
    return network.node("Tanh", network.node("Add", network.weight(network.drawn(network.width)), stream))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_users_that_agree(way: str, constant: float) -> None:
    """A channel that is constant in the table leaves both users, and the table is stored as often as before."""
    network = TableNetwork()
    table = network.table(ROWS, constant)
    stream = network.node("Relu", network.node("Gather", table, network.input(["N"])))
    model = network.model(head(network, stream, table, way), ["N", ROWS])
    result = minimize(model).model
    assert deviation(run(model, feeds(model)), run(result, feeds(model))) <= SINGLE
    found = [shape for shape in weights(result) if len(shape) == 2]
    copies = [(network.kept, ROWS)] if way == "twice" else []
    assert found == sorted([(ROWS, network.kept), *copies])
    assert operators(result)["Transpose"] == (way in WAYS[1:3])


@pytest.mark.parametrize("way", WAYS[:3])
def test_users_that_disagree(way: str) -> None:
    """Only channels that neither user needs leave the table, where two copies would be larger."""
    network = TableNetwork(9, 3)
    both, other = network.gone[:1], np.setdiff1d(np.arange(9), network.gone)[:2]
    table = network.table(40, 0.5)
    stream = deferred(network, network.node("Gather", table, network.input(["N"])), np.concatenate([both, other]))
    model = network.model(head(network, stream, table, way), ["N", 40])
    result = minimize(model).model
    assert deviation(run(model, feeds(model)), run(result, feeds(model))) <= SINGLE
    found = [shape for shape in weights(result) if len(shape) == 2]
    assert found == [(8, 8), (40, 8)]


@pytest.mark.parametrize("way", WAYS[:3])
def test_copies_where_they_are_smaller(way: str) -> None:
    """Of nine channels one user needs three and the other three others."""
    network = TableNetwork(9, 6)
    needed = np.setdiff1d(np.arange(9), network.gone)
    table = network.weight(network.drawn(ROWS, 9))
    values = network.weights[table]
    values[:, network.gone] = 0.4
    stream = deferred(network, network.node("Gather", table, network.input(["N"])), np.append(needed, network.gone[:3]))
    model = network.model(head(network, stream, table, way), ["N", ROWS])
    result = minimize(model).model
    assert deviation(run(model, feeds(model)), run(result, feeds(model))) <= SINGLE
    assert sum(np.prod(shape) for shape in weights(result) if len(shape) == 2) == 2 * 3 * ROWS + 9


@pytest.mark.parametrize("way", WAYS[1:3])
def test_table_that_nothing_else_reads_is_stored_as_it_is_read(way: str) -> None:
    network = TableNetwork()
    rows = network.weight(network.drawn(ROWS, network.width))
    network.weights[rows][:, network.gone] = 0
    stream = network.lookup(network.input(["N"]))
    model = network.model(head(network, stream, rows, way), ["N", ROWS])
    result = minimize(model).model
    assert deviation(run(model, feeds(model)), run(result, feeds(model))) <= SINGLE
    assert weights(result) == sorted([(ROWS, network.kept), (network.kept, ROWS)])
    assert not operators(result)["Transpose"]


def test_contents_that_differ_leave_the_rest_to_be_minimized() -> None:
    """A user that folds a factor into the table would need a copy; the layer behind it is narrowed all the same."""
    network = TableNetwork(9, 2)
    table = network.table(ROWS)
    stream = network.node("Gather", table, network.input(["N", "T"]))
    norm = network.node(
        "LayerNormalization", stream, network.weight(network.drawn(9)), network.weight(network.drawn(9))
    )
    network.weights[table][:, network.gone] = 0.5
    logits = head(network, norm, table, "transpose")
    hidden = network.drawn(ROWS, 6)
    hidden[:, :2] = 0
    hidden = network.node("Relu", network.node("MatMul", logits, network.weight(hidden)))
    model = network.model(network.node("MatMul", hidden, network.weight(network.drawn(6, 3))), ["N", "T", 3])
    result = minimize(model).model
    assert deviation(run(model, feeds(model)), run(result, feeds(model))) <= SINGLE
    assert {(ROWS, 4), (4, 3)} <= set(weights(result))
    assert sum(shape == (ROWS, 9) for shape in weights(result)) <= 1


@pytest.mark.parametrize("way", WAYS[:3])
@pytest.mark.parametrize(("gone", "read"), [(4, 0), (8, 0), (6, 2)])
def test_norm_in_front_of_the_head(way: str, gone: int, read: int) -> None:
    """A norm folds its scale into its reader, but not into a table that others read: that is sliced as it is.

    Constant channels that the head reads stay, and one of the others stands for them, even where two smaller tables
    would be fewer weights than before.
    """
    network = TableNetwork(12, gone)
    table = network.table(40)
    network.weights[table][:, network.gone[:read]] = 0.5
    stream = network.node("Gather", table, network.input(["N"]))
    scale, bias = (network.weight(network.drawn(12)) for _ in range(2))
    norm = network.node("LayerNormalization", stream, scale, bias)
    model = network.model(head(network, norm, table, way), ["N", 40])
    result = minimize(model).model
    assert deviation(run(model, feeds(model)), run(result, feeds(model))) <= SINGLE
    assert [shape for shape in weights(result) if len(shape) == 2] == [(40, 12 - gone + read + 1)]
