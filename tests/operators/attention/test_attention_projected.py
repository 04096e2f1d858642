"""Planted units in and around Attention of com.microsoft, which holds the weights of its queries, keys and values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support.planted.attention_networks import PLAIN, Network, Sizes, behind_a_layer, drawn, planted, projected
from tests.support.planted.checks import SINGLE, assert_equal_outputs, deviation, minimize, run, weights


def test_layers_inside_fold_their_inputs() -> None:
    inner, outer = planted(*PLAIN, 0)
    model = behind_a_layer(projected(Network(outer), None))
    once = minimize(model).model
    assert_equal_outputs(model, once, double=False)
    assert weights(once) == sorted([(6, 4), (4,), (4, 2 * (3 + 3 + 2)), (16,), (4, 5), (5,)])


@pytest.mark.parametrize("past", [False, True])
def test_layers_inside_with_a_cache_keep_their_heads(past: bool) -> None:
    """The cache needs the fourth input of the keys too, though it meets queries of 0."""
    layers = drawn(Sizes(2, 1, 4, 4), np.random.default_rng(0))
    layers.arrays["query"][..., 1], layers.arrays["query_bias"][..., 1] = 0, 0
    for name in ("query", "key", "value"):
        layers.arrays[name][3] = 0
    layers.arrays["key"][3, ..., 1] = 1
    layers.arrays["out"][0] = 0
    layers.arrays["key"][..., 0] = 0
    layers.arrays["value"][..., 0] = 0
    net = Network(layers)
    model = behind_a_layer(projected(net, None))
    (node,) = (node for node in model.graph.node if node.op_type == "Attention")
    node.output.append("present")
    model.graph.output.append(net.info("present", 2, "N", 2, "present_length", 4))
    if past:
        node.input.extend(["", "past"])
        model.graph.input.append(net.info("past", 2, 1, 2, "past_length", 4))
    once = minimize(model, narrowing=False).model
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 8, 6)).astype(np.float32)}
    if past:
        feeds["past"] = np.random.default_rng(1).standard_normal((2, 1, 2, 5, 4)).astype(np.float32)
    assert deviation(run(model, feeds), run(once, feeds)) <= SINGLE
    assert weights(once) == sorted([(6, 4), (4,), (4, 24), (24,), (8, 5), (5,)])


def around(model: onnx.ModelProto) -> None:
    """Add another way from the input to the output, so that attention can leave."""
    model.graph.node[-1].output[0] = "z"
    skip = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
    skip[[1, 3]] = 0
    model.graph.initializer.append(numpy_helper.from_array(skip, "skip"))
    model.graph.node.append(helper.make_node("MatMul", ["x", "skip"], ["s"]))
    model.graph.node.append(helper.make_node("Add", ["z", "s"], ["y"]))


@pytest.mark.parametrize("past", [False, True])
def test_a_cache_is_written_also_where_the_result_is_constant(past: bool) -> None:
    """All values are one constant each; those of the past were others."""
    layers = drawn(Sizes(2, 1, 4, 4), np.random.default_rng(0))
    layers.arrays["value"] *= 0
    net = Network(layers)
    model = projected(net, None)
    around(model)
    (node,) = (node for node in model.graph.node if node.op_type == "Attention")
    node.output.append("present")
    model.graph.output.append(net.info("present", 2, "N", 2, "present_length", 4))
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 8, 6)).astype(np.float32)}
    if past:
        node.input.extend(["", "past"])
        model.graph.input.append(net.info("past", 2, 1, 2, "past_length", 4))
        feeds["past"] = np.random.default_rng(1).standard_normal((2, 1, 2, 5, 4)).astype(np.float32)
    once = minimize(model).model
    assert deviation(run(model, feeds), run(once, feeds)) <= SINGLE
    assert ((8, 5) in weights(once)) == past


def test_a_cache_is_written_also_where_nobody_reads_the_result() -> None:
    """The fourth input is read by the values alone."""
    layers = drawn(Sizes(2, 1, 4, 4), np.random.default_rng(0))
    layers.arrays["query"][3], layers.arrays["key"][3] = 0, 0
    layers.arrays["out"] *= 0
    net = Network(layers)
    model = projected(net, None)
    around(model)
    model = behind_a_layer(model)
    (node,) = (node for node in model.graph.node if node.op_type == "Attention")
    node.output.append("present")
    model.graph.output.append(net.info("present", 2, "N", 2, "present_length", 4))
    once = minimize(model).model
    assert_equal_outputs(model, once, double=False)
    assert {(6, 4), (4, 24)} <= set(weights(once))


def test_layers_inside_that_read_nothing_keep_one_input() -> None:
    layers = drawn(Sizes(2, 1, 4, 4), np.random.default_rng(0))
    for name in ("query", "key", "value"):
        layers.arrays[name] *= 0
    net = Network(layers)
    model = behind_a_layer(projected(net, None))
    (node,) = (node for node in model.graph.node if node.op_type == "Attention")
    node.output.append("present")
    model.graph.output.append(net.info("present", 2, "N", 2, "present_length", 4))
    once = minimize(model).model
    assert_equal_outputs(model, once, double=False)
    assert (1, 24) in weights(once)


def test_layers_inside_with_a_bias_for_each_head() -> None:
    _, outer = planted(*PLAIN, 0)
    net = Network(outer)
    model = projected(net, None)
    (node,) = (node for node in model.graph.node if node.op_type == "Attention")
    node.input.extend(["", "", "scores"])
    scores = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scores, "scores"))
    once = minimize(model).model
    assert_equal_outputs(model, once, extents=(8, 8), double=False)
    assert {(1, 2, 8, 8), (6, 2 * (3 + 3 + 2))} <= set(weights(once))


def test_layers_inside_that_two_nodes_share_are_sliced_once() -> None:
    """Nobody needs the first head. The second node could do with less, but two copies would be larger than one weight.

    The first elements of the keys read the last channel of the input alone, which is 0 there.
    """
    layers = drawn(Sizes(4, 1, 4, 4), np.random.default_rng(0))
    layers.arrays["out"][0] = 0
    layers.arrays["key"][:5, ..., 0] = 0
    model = projected(Network(layers), None)
    middle = np.random.default_rng(1).standard_normal((16, 6))
    middle[:4], middle[:, 5] = 0, 0
    model.graph.initializer.append(numpy_helper.from_array(middle.astype(np.float32), "middle"))
    first = next(node for node in model.graph.node if node.op_type == "Attention")
    second = onnx.NodeProto()
    second.CopyFrom(first)
    first.output[0], second.input[0], second.name = "b", "c", "second"
    model.graph.node.insert(1, helper.make_node("MatMul", ["b", "middle"], ["c"]))
    model.graph.node.insert(2, second)
    once = minimize(model).model
    assert_equal_outputs(model, once, double=False)
    assert weights(once) == sorted([(6, 36), (36,), (12, 6), (12, 5), (5,)])
