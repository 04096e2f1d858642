"""Layers of several groups do without whole ones between streams: they gather what the others read, and put it back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxsqueeze as sq
from tests.support.planted.checks import assert_equal_outputs, minimize, operators, weights
from tests.support.planted.narrowed_networks import Array, Network

GROUPS, EACH, TAPS = 4, 12, 3
WIDTH = GROUPS * EACH


def grouped(net: Network, x: str, weight: Array, bias: Array, pads: int, op: str = "Conv", groups: int = GROUPS) -> str:
    if op == "ConvTranspose":
        weight = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    return net.add(op, x, net.store(weight), net.store(bias), group=groups, pads=[pads] * 2)


def network(
    idle: Sequence[int],
    *,
    level: float = 0.0,
    zeros: bool = True,
    pads: int = 1,
    op: str = "Conv",
    seed: int = 0,
    each: int = EACH,
    opset: int = 17,
    vector: bool = False,
) -> onnx.ModelProto:
    """Return two layers in groups between tensors that stay; of the first some groups have no weights.

    Args:
        idle: these groups. level: their biases. zeros: whether those of the second have no weights either.
        pads, op, each, opset: of the layers, of which each group is square. seed: of all else.
        vector: whether a layer without weights is added to the second one.
    """
    net, width = Network(seed, opset), GROUPS * each
    x, stream = net.input("x", "N", width, 20), net.input("stream", "N", width, 20)
    first, second = (net.weight(width, each, TAPS) for _ in range(2))
    bias, other = net.normal(width), net.normal(width)
    for group in idle:
        rows = slice(group * each, (group + 1) * each)
        first[rows], bias[rows] = 0, level
        if zeros:
            second[rows] = 0
    hidden = net.add("Relu", grouped(net, x, first, bias, 1, op))
    made = grouped(net, hidden, second, other, pads, op)
    if pads == 0 and op == "Conv":
        made = net.add("Pad", made, net.store([0, 0, 1, 0, 0, 1], np.int64))
    if vector:
        beside = net.add("Conv", x, net.store(np.zeros((width, width, 1))), net.store(net.normal(width)))
        made = net.add("Add", made, beside)
    return net.model(net.add("Softmax", net.add("Add", made, stream), axis=1), rank=3)


def left(model: onnx.ModelProto) -> list[int]:
    """Return how many groups each layer has."""
    return [shape[0] // EACH for shape in weights(model) if shape[1:] == (EACH, TAPS)]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("idle", [(2, 3), (1,), (0, 2)], ids=str)
def test_groups_without_weights_go(idle: tuple[int, ...], op: str) -> None:
    """Where they lie at an end, a Pad alone brings their biases back, else a Gather behind it does."""
    model = network(idle, op=op)
    once = minimize(model).model
    assert_equal_outputs(model, once, double=op == "Conv")  # onnx.reference has no groups in ConvTranspose
    assert left(once) == [GROUPS - len(idle)] * 2
    assert operators(once)["Pad"] == 1 and operators(once)["Gather"] == 1 + (idle != (2, 3))
    assert left(minimize(once).model) == left(once)


@pytest.mark.parametrize(("pads", "goes"), [(0, 2), (1, 1)])
def test_constants_that_are_read_are_folded(pads: int, goes: int) -> None:
    """A border sees fewer of them: one stays in each group then."""
    model = network((1, 3), level=0.7, zeros=False, pads=pads)
    once = minimize(model, narrowing=False).model
    assert_equal_outputs(model, once)
    assert left(once).count(GROUPS - 2) == (2 if goes == 2 else 0)


def test_a_vector_beside_is_added_to_all_channels() -> None:
    """The bias of the layer, which would take it up, is of fewer channels."""
    model = network((1, 2), vector=True)
    once = minimize(model).model
    assert_equal_outputs(model, once)
    assert left(once) == [GROUPS - 2] * 2


def test_automatic_weighs_products_against_moves() -> None:
    """Of a narrow layer moving the channels would take longer; nothing goes of models that cannot pad."""
    narrow, wide, old = network((2, 3)), network((2, 3), each=48), network((2, 3), opset=10)
    results = [sq.minimize(model, round_to=how).model for model, how in ((narrow, "auto"), (wide, "auto"), (old, 1))]
    assert [operators(result)["Pad"] for result in results] == [0, 1, 0]
    assert_equal_outputs(wide, results[1])


@settings(max_examples=12, deadline=None)
@given(
    idle=st.sets(st.integers(0, GROUPS - 1)),
    level=st.sampled_from([0.0, 0.5, -1.0]),
    zeros=st.booleans(),
    pads=st.integers(0, 1),
    vector=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_same_function(idle: set[int], level: float, zeros: bool, pads: int, vector: bool, seed: int) -> None:
    model = network(sorted(idle), level=level, zeros=zeros, pads=pads, vector=vector, seed=seed)
    assert_equal_outputs(model, minimize(model).model)
