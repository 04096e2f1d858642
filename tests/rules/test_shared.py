"""Planted networks in which two layers share one stored weight."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.builders import Tensor
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, size, weights
from tests.support.planted.layers import Twin

Bools = npt.NDArray[np.bool_]


@pytest.mark.parametrize("pads", [0, 1])
def test_two_convolutions_that_agree(twin: Twin, pads: int) -> None:
    """A Siamese network: what leaves one branch leaves the other too, and the weight is stored once."""
    units, more = twin.units(live=4, dead=3, **{"zero" if pads else "const": 3}), twin.units(live=4, dead=2)
    outputs: list[Tensor] = []
    tied: dict[int, Tensor] = {}
    for _ in range(2):
        x = twin.input("N", 3, "H", "W")
        for layer, chosen in enumerate((units, more)):
            y = twin.conv(x, chosen, pads=pads, tied=tied.get(layer))
            tied.setdefault(layer, y)
            x = twin.relu(y)
        outputs.append(x)
    y = twin.op("Sub", *outputs)
    assert_recovers(twin.pair(twin.conv(y, twin.units(live=3), kernel=1)))


def test_recurring_layer(twin: Twin) -> None:
    """One dense layer applied twice, whose outputs are its inputs."""
    units = twin.units(live=5, dead=4)
    x = twin.relu(twin.gemm(twin.input("N", 6), units))
    step = twin.conv(twin.with_axes("Unsqueeze", x, [2, 3]), x.kinds, kernel=1)
    y = twin.conv(twin.relu(step), x.kinds, kernel=1, tied=step)
    assert_recovers(twin.pair(twin.conv(twin.relu(y), twin.units(live=3), kernel=1)))


def branches(width: int, left: Bools, right: Bools) -> onnx.ModelProto:
    """Return two convolutions with one weight, of whose channels each branch needs those that are true."""
    random = np.random.default_rng(0)
    nodes = []
    tensors = {"weight": random.standard_normal((width, 3, 3, 3)), "bias": random.standard_normal(width)}
    for name, needed in (("left", left), ("right", right)):
        tensors[f"{name}_head"] = random.standard_normal((2, width, 1, 1)) * needed[:, None, None]
        nodes += [
            helper.make_node("Conv", [f"{name}_in", "weight", "bias"], [f"{name}_conv"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"{name}_conv"], [f"{name}_relu"]),
            helper.make_node("Conv", [f"{name}_relu", f"{name}_head"], [f"{name}_out"]),
        ]
    sides = ("left", "right")
    images = [helper.make_tensor_value_info(f"{side}_in", TensorProto.FLOAT, ["N", 3, "H", "W"]) for side in sides]
    made = [helper.make_tensor_value_info(f"{side}_out", TensorProto.FLOAT, ["N", 2, "h", "w"]) for side in sides]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "branches", images, made, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def places(width: int, *chosen: int) -> Bools:
    """Return which of ``width`` channels are chosen."""
    return np.isin(np.arange(width), chosen)


def test_users_that_disagree_keep_what_either_needs_where_copies_would_be_larger() -> None:
    """Two copies of 6 channels are more than one of 8: only the two that neither needs leave."""
    model = branches(10, places(10, *range(6)), places(10, *range(2, 8)))
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) <= 8 * (27 + 1) + 2 * (2 * 8)
    assert weights(result).count((8, 3, 3, 3)) == 1


def test_users_that_disagree_get_copies_or_what_either_needs() -> None:
    """Of 16 channels one user needs 3 and the other 3 others: 6 stay at most, in one tensor or in two."""
    model = branches(16, places(16, 1, 4, 9), places(16, 0, 5, 11))
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) <= 6 * (27 + 1) + 2 * (2 * 6)


def test_shared_weight_of_which_one_user_needs_all_stays_whole() -> None:
    """A copy of the 3 channels that the other user needs would make the model larger, its head need not stay wide."""
    model = branches(8, places(8, *range(8)), places(8, 1, 4, 6))
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) <= size(model)
    assert weights(result).count((8, 3, 3, 3)) == 1


def test_two_layers_share_one_bias(twin: Twin) -> None:
    units = twin.units(live=4, dead=4)
    x = twin.input("N", 6)
    a = twin.gemm(x, units, bias=False)
    b = twin.gemm(x, units, bias=False)
    bias = twin.vector(a, np.linspace(0.1, 0.9, 8), trailing=True)
    a, b = (twin.relu(twin.op("Add", y, bias)) for y in (a, b))
    y = twin.op("Mul", a, b)
    assert_recovers(twin.pair(twin.gemm(y, twin.units(live=3))))


def test_tied_in_and_out() -> None:
    """An autoencoder whose decoder reads the encoder's stored weight: hidden units leave at both ends."""
    random = np.random.default_rng(2)
    weight = random.standard_normal((9, 6)).astype(np.float32)
    weight[[1, 4, 7]] = 0
    bias = np.where(np.isin(np.arange(9), [1, 4, 7]), 0.5, random.standard_normal(9)).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "weight"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 6]) for name in ("x", "y")]
    stored = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    graph = helper.make_graph(nodes, "tied", infos[:1], infos[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    result = minimize(model).model
    assert_equal_outputs(model, result)
    assert size(result) == 6 * (6 + 1)
