"""Keys and values of earlier positions that Attention reads and hands on: the caller's stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support.builders import Pair
from tests.support.planted.attention_networks import SHARED, Layers, Network, Sizes, cached, drawn, pair, planted
from tests.support.planted.checks import assert_equal_outputs, assert_recovers, minimize, weights


@pytest.mark.parametrize(("read", "shown"), [(True, True), (True, False), (False, True)])
def test_caches_of_the_caller_keep_keys_and_values(read: bool, shown: bool) -> None:
    """Heads of queries still leave where all groups lose equally many."""
    layers = drawn(Sizes(2, 3, 4, 3), np.random.default_rng(0))
    layers.arrays["out"][0, 1], layers.arrays["out"][1, 0] = 0, 0
    layers.arrays["query"][..., 0], layers.arrays["query_bias"][..., 0] = 0, 0
    model = cached(Network(layers), None, read, shown)
    result = minimize(model, narrowing=False)
    once = result.model
    assert_equal_outputs(model, once)
    assert "it shares its place with channels that are needed: Attention" in result.report.stayed
    assert weights(once) == sorted([(6, 16), (16,), (6, 8), (8,), (6, 6), (6,), (12, 5), (5,)])


def test_a_cache_that_nobody_reads_keeps_nothing() -> None:
    def unread(net: Network, scale: float | None) -> onnx.ModelProto:
        return cached(net, scale, read=False, shown=False)

    assert_recovers(pair(unread, *SHARED))


def test_a_cache_that_the_graph_computes_is_narrowed_with_keys_and_values() -> None:
    """A prefix, made by layers of its own: what is constant in it and among the keys is so by another constant."""
    inner, outer = planted(*SHARED, 0, constants=False)
    inner_prefix, outer_prefix = planted(*SHARED, 0, constants=False)
    networks = Pair(prefixed(Network(outer), None, outer_prefix), prefixed(Network(inner), 7**-0.5, inner_prefix))
    assert_recovers(networks)
    outer_prefix.arrays["key"] = np.random.default_rng(1).standard_normal(outer_prefix.arrays["key"].shape)
    model = prefixed(Network(outer), None, outer_prefix)
    once = minimize(model).model
    assert_equal_outputs(model, once)
    assert (6, 2 * 3) not in weights(once)


def prefixed(net: Network, scale: float | None, prefix: Layers) -> onnx.ModelProto:
    """Attention that reads keys and values of a prefix besides its own."""
    sizes = net.layers.sizes
    net.input("prefix", "N", "P", 6)
    caches = []
    for name, size in (("key", sizes.size), ("value", sizes.value)):
        product = net.node("MatMul", ["prefix", net.store(f"old_{name}", prefix.flat(name))], f"old_{name}_product")
        bias = net.store(f"old_{name}_bias", prefix.flat(f"{name}_bias"))
        caches.append(net.by_head(net.node("Add", [product, bias], f"old_{name}_sum"), sizes.groups, size))
    return net.model(net.node("Attention", [*net.triple(), "", *caches], "a", "k", "v", scale=scale, **net.counts))
