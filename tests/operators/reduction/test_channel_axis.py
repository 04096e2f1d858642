"""Operators along an axis: over channels they keep all of them, over any other the channels pass through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.planted.checks import SINGLE, deviation, minimize, run, weights
from tests.support.planted.recurrent_networks import RecurrentNetwork

WIDTH, GONE, OUT = 8, (1, 4, 6), 3
KEPT = WIDTH - len(GONE)
Add = Callable[[RecurrentNetwork, str, int], str]


def arg(op: str, keep: int = 1) -> Add:
    """Return what adds an ArgMax or ArgMin and brings its numbers back to the data type."""

    def add(network: RecurrentNetwork, x: str, axis: int) -> str:
        places = network.node(op, x, axis=axis, keepdims=keep)
        return str(network.node("Cast", places, to=TensorProto.FLOAT))

    return add


def top(output: int) -> Add:
    """Return what adds a TopK and takes one of its outputs."""

    def add(network: RecurrentNetwork, x: str, axis: int) -> str:
        found = network.node("TopK", x, network.weight([2], np.int64), outputs=2, axis=axis)
        return str(network.node("Cast", found[output], to=TensorProto.FLOAT))

    return add


def summed(**attributes: int) -> Add:
    """Return what adds a CumSum."""
    return lambda network, x, axis: str(network.node("CumSum", x, network.weight(axis, np.int64), **attributes))


OPERATORS: dict[str, Add] = {
    "ArgMax": arg("ArgMax"),
    "ArgMin": arg("ArgMin"),
    "ArgMax without the axis": arg("ArgMax", keep=0),
    "TopK": top(0),
    "TopK places": top(1),
    "CumSum": summed(),
    "CumSum back": summed(exclusive=1, reverse=1),
}


def network_with(add: Add, axis: int, opset: int = 17) -> onnx.ModelProto:
    """Return a layer some of whose units are 0, the operator, and a layer that reads the channels, if any are left."""
    network = RecurrentNetwork(opset)
    first = network.drawn(WIDTH, 2).T
    first[:, GONE] = 0
    x = add(network, network.node("MatMul", network.input("B", "T", 2), network.weight(first)), axis)
    if axis != 2:
        x = network.node("MatMul", x, network.weight(network.drawn(OUT, WIDTH).T))
    return network.model(x, ["L", "M", "N"][: 2 if add is OPERATORS["ArgMax without the axis"] else 3])


def feeds(steps: int = 5) -> dict[str, np.ndarray]:
    return {"input_0": np.random.default_rng(0).standard_normal((2, steps, 2)).astype(np.float32)}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axis", [1, -2])
def test_channels_pass_through(operator: str, axis: int) -> None:
    """Constant channels stay constant, or dead ones dead, whatever is done with the steps."""
    network = network_with(OPERATORS[operator], axis)
    (head,) = (tensor for tensor in network.graph.initializer if tensor.dims == [WIDTH, OUT])
    matrix = onnx.numpy_helper.to_array(head).copy()
    if operator.startswith(("Arg", "TopK places")):
        matrix[list(GONE)] = 0  # the place of the largest among equal values is none that is known
    head.CopyFrom(onnx.numpy_helper.from_array(matrix, head.name))
    result = minimize(network).model
    assert deviation(run(network, feeds()), run(result, feeds())) <= SINGLE
    assert weights(result) == sorted([(2, KEPT), (KEPT, OUT)])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("opset", [11, 22])
def test_channels_stay_with_the_reason(operator: str, opset: int) -> None:
    network = network_with(OPERATORS[operator], 2 if operator != "CumSum" else -1, opset)
    result = minimize(network)
    assert weights(result.model) == weights(network)
    op = operator.split()[0]
    assert result.report.stayed[f"its reader compares, orders or adds up the channels: {op} over axis 2"] >= len(GONE)


@pytest.mark.parametrize("varies", [False, True])
def test_reversed_steps(varies: bool) -> None:
    """What is the same at every step leaves; what is another constant at each goes to other places, and stays."""
    network = RecurrentNetwork()
    first = network.drawn(WIDTH, 2).T
    first[:, GONE] = 0
    x = network.node("MatMul", network.input(2, 5, 2), network.weight(first))
    shift = np.round(network.drawn(5 if varies else 1, WIDTH) * 64) / 64  # so that sums are exact
    x = network.node("Add", x, network.weight(shift))
    lengths = network.input(2, kind=TensorProto.INT64)
    x = network.node("ReverseSequence", x, lengths, time_axis=1, batch_axis=0)
    x = network.node("Add", x, network.weight(2 - shift))
    model = network.model(network.node("MatMul", x, network.weight(network.drawn(OUT, WIDTH).T)), [2, 5, OUT])
    result = minimize(model).model
    given = feeds() | {lengths: np.array([2, 5])}
    assert deviation(run(model, given), run(result, given)) <= SINGLE
    kept = WIDTH if varies else KEPT
    assert {(2, kept), (kept, OUT)} <= set(weights(result))


def test_sums_of_a_constant_are_none() -> None:
    """They are another number at each step."""
    network = RecurrentNetwork()
    first = network.drawn(WIDTH, 2).T
    first[:, GONE] = 0
    x = network.node("MatMul", network.input("B", "T", 2), network.weight(first))
    x = network.node("Add", x, network.weight(np.linspace(0.1, 0.5, WIDTH)))
    x = network.node("CumSum", x, network.weight(1, np.int64))
    model = network.model(network.node("MatMul", x, network.weight(network.drawn(OUT, WIDTH).T)), ["B", "T", OUT])
    result = minimize(model).model
    assert deviation(run(model, feeds()), run(result, feeds())) <= SINGLE
    assert weights(result) == weights(model)


@pytest.mark.parametrize("constant", [False, True])
def test_each_channel_takes_an_element_of_its_own(constant: bool) -> None:
    """GatherElements along the steps, by numbers that are computed or stored for each channel."""
    network = RecurrentNetwork()
    first = network.drawn(WIDTH, 2).T
    first[:, GONE] = 0
    given = network.input("B" if not constant else 2, "T", 2)
    x = network.node("MatMul", given, network.weight(first))
    places = network.weight(network.random.integers(0, 5, (2, 3, WIDTH)), np.int64)
    if not constant:
        other = network.node("MatMul", given, network.weight(network.drawn(WIDTH, 2).T))
        places = network.node("ArgMin", other, axis=1)
    x = network.node("GatherElements", x, places, axis=1)
    head = network.node("MatMul", x, network.weight(network.drawn(OUT, WIDTH).T))
    model = network.model(head, [2, 3, OUT] if constant else ["B", 1, OUT])
    result = minimize(model).model
    assert deviation(run(model, feeds()), run(result, feeds())) <= SINGLE
    assert weights(result) == sorted([*[(2, KEPT)] * (1 if constant else 2), (KEPT, OUT)])


def test_numbers_that_are_read_besides_keep_their_channels() -> None:
    network = RecurrentNetwork()
    first = network.drawn(WIDTH, 2).T
    first[:, GONE] = 0
    given = network.input("B", "T", 2)
    x, other = (network.node("MatMul", given, network.weight(w)) for w in (first, network.drawn(WIDTH, 2).T))
    places = network.node("ArgMin", other, axis=1)
    taken = network.node("GatherElements", x, places, axis=1)
    heads = [taken, network.node("Cast", places, to=TensorProto.FLOAT)]
    heads = [network.node("MatMul", part, network.weight(network.drawn(OUT, WIDTH).T)) for part in heads]
    model = network.model(network.node("Add", *heads), ["B", 1, OUT])
    result = minimize(model).model
    assert deviation(run(model, feeds()), run(result, feeds())) <= SINGLE
    assert weights(result) == weights(model)


def test_places_of_what_is_not_zero() -> None:
    network = RecurrentNetwork()
    first = network.drawn(WIDTH, 2).T
    first[:, GONE] = 0
    x = network.node("NonZero", network.node("MatMul", network.input("B", 2), network.weight(first)))
    model = network.model(network.node("Cast", x, to=TensorProto.FLOAT), [2, "K"])
    result = minimize(model)
    assert weights(result.model) == weights(model)
    assert result.report.stayed["its reader compares, orders or adds up the channels: NonZero"] >= len(GONE)
