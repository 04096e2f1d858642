"""Tokens of several origins along one axis: some are constant and leave, and nothing else is told apart there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.planted.checks import assert_equal_outputs, minimize, operators
from tests.support.planted.norm_networks import NormNetwork

CHANNELS, TOKENS = 3, 4


def model(nodes: list[onnx.NodeProto], rank: int, weights: dict[str, Any], opset: int = 18) -> onnx.ModelProto:
    """Return a model of tokens ``x`` [N, 4, 3], in front of which constant ones are put: ``tokens`` [N, 6, 3]."""
    constants = np.array([[[0.5, -2.0, 1.5], [0.0, 0.25, 1.0]]], np.float32)
    stored = {
        "constants": constants,
        "two": np.array([2]),
        "channels": np.array([CHANNELS]),
        "axis": np.array([1]),
        **weights,
    }
    front = [
        helper.make_node("Shape", ["x"], ["batch"], name="shape", end=1),
        helper.make_node("Concat", ["batch", "two", "channels"], ["sizes"], name="sizes", axis=0),
        helper.make_node("Expand", ["constants", "sizes"], ["spread"], name="expand"),
        helper.make_node("Concat", ["spread", "x"], ["tokens"], name="tokens", axis=1),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", TOKENS, CHANNELS])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(rank)])
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph([*front, *nodes], "tokens", [given], [made], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
def test_constant_tokens_leave_a_mean_and_a_sum_with_a_value_for_each_channel(op: str, keepdims: int) -> None:
    nodes = [
        helper.make_node(op, ["tokens", "axis"], ["reduced"], name="reduced", keepdims=keepdims),
        helper.make_node("Tanh", ["reduced"], ["y"], name="tanh"),
    ]
    wide = model(nodes, 2 + keepdims, {})
    narrow = minimize(wide).model
    assert "Concat" not in operators(narrow)
    assert_equal_outputs(wide, narrow)


def test_channels_that_meet_tokens_of_several_origins_stay_with_them() -> None:
    """Behind a norm, whole tokens can leave but no channels; what broadcasts over tokens has channels."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((CHANNELS, 6)).astype(np.float32)
    weight[:, 2] = 0
    back = random.standard_normal((6, CHANNELS)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMax", ["x", "axis"], ["most"], name="most", keepdims=1),
        helper.make_node("MatMul", ["most", "weight"], ["hidden"], name="hidden"),
        helper.make_node("MatMul", ["hidden", "back"], ["gate"], name="gate"),
        helper.make_node("LayerNormalization", ["tokens", "scale"], ["normed"], name="normed"),
        helper.make_node("Mul", ["normed", "gate"], ["gated"], name="gated"),
        helper.make_node("Tanh", ["gated"], ["y"], name="tanh"),
    ]
    wide = model(nodes, 3, {"weight": weight, "back": back, "scale": np.ones(CHANNELS, np.float32)})
    result = minimize(wide)
    assert_equal_outputs(wide, result.model)
    assert result.plan.masks["hidden"].sum() == 5
    assert "gate" not in result.plan.masks


def test_new_nodes_have_names_of_their_own() -> None:
    """Many exporters name a node after what it writes; what is put behind it writes that now."""
    nodes = [
        helper.make_node("ReduceMean", ["tokens", "axis"], ["reduced"], name="reduced", keepdims=0),
        helper.make_node("Tanh", ["reduced"], ["y"], name="reduced_2"),
    ]
    wide = model(nodes, 2, {})
    narrow = minimize(wide).model
    names = [node.name for node in narrow.graph.node]
    assert len(names) > 2
    assert len(set(names)) == len(names)
    assert_equal_outputs(wide, narrow)


@pytest.mark.parametrize("copies", [1, 2])
def test_channels_gathered_from_a_norm_follow_its_constants_only_if_they_leave_both(copies: int) -> None:
    """A copy could leave alone, but then nothing would stand for it: the norm still has its channel."""
    net = NormNetwork(8, 2, "different")
    normed = net.layer_norm(net.stream())
    places = [*net.varying[:3], *[net.varying[0]] * (copies - 1), *net.gone]
    gathered = net.node("Gather", normed, net.integers(*places), axis=2)
    matrix = net.normal(len(places), 3)
    wide = net.model(net.node("MatMul", gathered, net.weight(matrix)))
    assert_equal_outputs(wide, minimize(wide).model)
