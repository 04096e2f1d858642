"""Planted pairs of elements that RotaryEmbedding turns together."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.builders import Pair
from tests.support.planted.attention_networks import MICROSOFT, Network, Sizes, drawn, planted
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, weights


def rotary(net: Network, scale: float | None, domain: str, heads: bool, interleaved: int) -> onnx.ModelProto:
    """Attention of rotated queries and keys, [N, heads, T, size] or [N, T, channels]."""
    sizes, places = net.layers.sizes, net.node("Shape", ["x"], "sizes", start=1, end=2)
    ends = [net.store("zero", 0, np.int64), net.node("Squeeze", [places], "end"), net.store("step", 1, np.int64)]
    row = net.node("Unsqueeze", [net.node("Range", ends, "row"), net.store("axis", [0], np.int64)], "rows")
    batch = net.node("Shape", ["x"], "batch", start=0, end=1)
    target = net.node("Concat", [batch, places], "target", axis=0)
    positions = net.node("Expand", [row, target], "positions")
    angles = net.layers.arrays.get("angles", np.zeros((16, sizes.size // 2)))
    tables = [net.store("cos", np.cos(angles)), net.store("sin", np.sin(angles))]
    operands = net.triple()
    counts = {} if heads else net.counts
    if heads:
        shapes_of = zip(
            operands, (sizes.heads, sizes.groups, sizes.groups), (sizes.size, sizes.size, sizes.value), strict=True
        )
        operands = [net.by_head(name, count, size) for name, count, size in shapes_of]
    for place, count in ((0, sizes.heads), (1, sizes.groups)):
        number = None if heads or domain else count
        inputs = [operands[place], positions, *tables] if domain else [operands[place], *tables, positions]
        operands[place] = net.node(
            "RotaryEmbedding", inputs, f"rotated_{place}", domain=domain, interleaved=interleaved, num_heads=number
        )
    y = net.node("Attention", operands, "a", scale=scale, **counts)
    return net.model(net.joined(y) if heads else y)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("domain", ["", MICROSOFT])
def test_pairs_that_one_table_turns_leave_all_heads_together(domain: str, heads: bool) -> None:
    def form(net: Network, scale: float | None) -> onnx.ModelProto:
        return rotary(net, scale, domain, heads, 0)

    inner, outer = planted(Sizes(2, 2, 4, 2), Sizes(3, 3, 10, 5), 3, same=True)
    outer.arrays["angles"] = np.random.default_rng(0).uniform(0, 6, (16, 5))
    stayed = np.flatnonzero(np.any(outer.arrays["key"], axis=(0, 1)))[:2]
    inner.arrays["angles"] = outer.arrays["angles"][:, stayed]
    assert_recovers(Pair(form(Network(outer), None), form(Network(inner), float(1 / np.sqrt(10)))), double=not domain)


def partly(model: onnx.ModelProto, width: int) -> onnx.ModelProto:
    """Let only the first elements of each head be turned."""
    for node in model.graph.node:
        if node.op_type == "RotaryEmbedding":
            node.attribute.append(helper.make_attribute("rotary_embedding_dim", width))
            if node.domain:  # wants the count of heads with it
                node.attribute.append(helper.make_attribute("num_heads", 4 if "0" in node.output[0] else 2))
    return model


def test_interleaved_pairs() -> None:
    layers = drawn(Sizes(2, 2, 6, 3), np.random.default_rng(0))
    layers.arrays["angles"] = np.random.default_rng(0).uniform(0, 6, (16, 3))
    for name in ("key", "key_bias"):
        layers.arrays[name][..., 2:4] = 0
        layers.arrays[name][..., 5] = 0  # the other of its pair is not 0
    model = rotary(Network(layers), None, "", False, 1)
    once = minimize(model).model
    assert_equal_outputs(model, once)
    assert {(6, 16), (6, 8), (16, 2)} <= set(weights(once))


def test_what_is_not_turned_leaves_by_itself() -> None:
    """Rotation of the first 4 of 7 elements, of keys that are constant in some others."""
    layers = drawn(Sizes(2, 2, 7, 3), np.random.default_rng(0))
    layers.arrays["angles"] = np.random.default_rng(0).uniform(0, 6, (16, 2))
    layers.arrays["key"][..., [1, 3, 5]] = 0  # a pair, and one that is not turned
    model = rotary(Network(layers), None, "", False, 0)
    model = partly(model, 4)
    once = minimize(model, narrowing=False)
    assert_equal_outputs(model, once.model)
    assert {(6, 24), (6, 12), (16, 2)} <= set(weights(once.model))
    assert any("cannot absorb a constant: RotaryEmbedding" in reason for reason in once.report.stayed)


def test_heads_that_could_lose_different_pairs_lose_none() -> None:
    layers = drawn(Sizes(2, 1, 6, 3), np.random.default_rng(0))
    layers.arrays["angles"] = np.random.default_rng(0).uniform(0, 6, (16, 3))
    for head in range(2):
        for name in ("key", "key_bias"):
            layers.arrays[name][..., head, [head, head + 3]] = 0
    for heads in (False, True):
        model = rotary(Network(layers), None, "", heads, 0)
        result = minimize(model, narrowing=False)
        assert_equal_outputs(model, result.model)
        assert weights(result.model) == weights(model)
        assert "kept so that groups stay equal: RotaryEmbedding" in result.report.stayed


def test_one_pair_stays_beside_what_is_not_turned() -> None:
    layers = drawn(Sizes(2, 2, 7, 3), np.random.default_rng(0))
    layers.arrays["angles"] = np.random.default_rng(0).uniform(0, 6, (16, 2))
    for name in ("key", "key_bias"):
        layers.arrays[name][..., :4] = 0
    for domain in ("", MICROSOFT):
        model = partly(rotary(Network(layers), None, domain, domain != "", 0), 4)
        once = minimize(model, narrowing=False).model
        assert_equal_outputs(model, once, double=not domain)
        assert {(6, 4 * 5), (6, 2 * 5), (16, 1)} <= set(weights(once))


def test_computed_tables_lose_the_columns_of_pairs() -> None:
    """Angles of a continuous position, which a layer makes."""

    def form(layers: Any, scale: float | None) -> onnx.ModelProto:
        net = Network(layers)
        angles = net.node(
            "MatMul", [net.input("place", "N", "T", 2), net.store("waves", layers.arrays["waves"])], "angles"
        )
        tables = [net.node(op, [angles], op) for op in ("Cos", "Sin")]
        operands, sizes = net.triple(), layers.sizes
        for place, count in ((0, sizes.heads), (1, sizes.groups)):
            inputs = [operands[place], *tables]
            operands[place] = net.node("RotaryEmbedding", inputs, f"turned_{place}", num_heads=count)
        return net.model(net.node("Attention", operands, "a", scale=scale, **net.counts))

    inner, outer = planted(Sizes(2, 2, 4, 2), Sizes(3, 3, 10, 5), 3, same=True)
    outer.arrays["waves"] = np.random.default_rng(0).uniform(0, 6, (2, 5))
    stayed = np.flatnonzero(np.any(outer.arrays["key"], axis=(0, 1)))[:2]
    inner.arrays["waves"] = outer.arrays["waves"][:, stayed]
    assert_recovers(Pair(form(outer, None), form(inner, 10**-0.5)))


@pytest.mark.parametrize("shared", [False, True])
def test_tables_that_are_given_keep_all_pairs(shared: bool) -> None:
    layers = drawn(Sizes(2, 1, 6, 3), np.random.default_rng(0))
    for name in ("key", "key_bias"):
        layers.arrays[name][..., [1, 4]] = 0
    net = Network(layers)
    tables = [net.input(name, "N", "T", 3) for name in ("cos", "sin")]
    if shared:
        mix = net.store("mix", np.eye(3) + 1)
        tables = [net.node("MatMul", [name, mix], f"{name}_reconstructing") for name in tables]
        net.outputs = [net.info(name, "N", "T", 3) for name in tables]
    operands = net.triple()
    for place in (0, 1):
        operands[place] = net.node("RotaryEmbedding", [operands[place], *tables], f"turned_{place}", num_heads=2)
    model = net.model(net.node("Attention", operands, "a", **net.counts))
    once = minimize(model, narrowing=False).model
    assert_equal_outputs(model, once)
    assert weights(once) == weights(model)


def test_ragged_batches_stay() -> None:
    layers = drawn(Sizes(2, 2, 6, 3), np.random.default_rng(0))
    layers.arrays["key"][..., :] = 0
    layers.arrays["key_bias"][..., :] = 0
    model = rotary(Network(layers), None, MICROSOFT, False, 0)
    for node in model.graph.node:
        if node.op_type == "RotaryEmbedding":
            node.attribute.append(helper.make_attribute("is_packed_batching", 1))
    result = minimize(model, narrowing=False)
    assert weights(result.model) == weights(model)
    assert "the shape is not known well enough: com.microsoft.RotaryEmbedding" in result.report.stayed
