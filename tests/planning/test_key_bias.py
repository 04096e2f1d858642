"""What is added to all keys alike cancels in the softmax: the bias of a layer that makes live keys goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.planted.checks import SINGLE, deviation, minimize, operators, run, weights
from tests.support.planted.narrowed_networks import Network

HEADS, SIZE, WIDTH, TOKENS = 2, 4, 8, 5
SCALE = SIZE**-0.5

Change = Callable[[Network, str], str]


def unchanged(net: Network, name: str) -> str:
    return name


def gemm(net: Network, x: str, weight: str, bias: str) -> str:
    flat = net.add("Reshape", x, net.store([-1, WIDTH], np.int64))
    return net.add("Reshape", net.add("Gemm", flat, weight, bias), net.store([-1, TOKENS, WIDTH], np.int64))


def matmul(net: Network, x: str, weight: str, bias: str) -> str:
    return net.add("Add", bias, net.add("MatMul", x, weight))


def without_bias(net: Network, x: str, weight: str, bias: str) -> str:
    return net.add("MatMul", x, weight)


def conv(net: Network, x: str, weight: str, bias: str) -> str:
    """A convolution over the tokens, of one tap."""
    kernel = net.store(net.normal(WIDTH, WIDTH, 1) / 3)
    y = net.add("Conv", net.add("Transpose", x, perm=[0, 2, 1]), kernel, bias)
    return net.add("Transpose", y, perm=[0, 2, 1])


def split(net: Network, x: str, perm: tuple[int, ...]) -> str:
    y = net.add("Reshape", x, net.store([0, 0, HEADS, SIZE], np.int64))
    return net.add("Transpose", y, perm=perm)


def attention(
    net: Network,
    layer: Callable[[Network, str, str, str], str] = matmul,
    bias: Any = None,
    keys: Change = unchanged,
    scores: Change = unchanged,
    source: Change = unchanged,
) -> tuple[str, str]:
    """Add attention with heads, scaled before the product as after it; return its output and the name of the keys."""
    x = source(net, net.input("x", "N", TOKENS, WIDTH))
    made = []
    for name in ("q", "k", "v"):
        given = bias if name == "k" and bias is not None else net.normal(WIDTH)
        weight = net.store(net.normal(WIDTH, WIDTH) / 3)
        made.append((layer if name == "k" else matmul)(net, x, weight, net.store(given)))
    seen = keys(net, made[1])
    k = net.add("Mul", net.store(SCALE), split(net, seen, (0, 2, 3, 1)))
    s = net.add("Div", net.add("MatMul", split(net, made[0], (0, 2, 1, 3)), k), net.store([1.5]))
    p = net.add("Softmax", scores(net, s), axis=-1)
    y = net.add("MatMul", p, split(net, made[2], (0, 2, 1, 3)))
    return net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.store([0, 0, WIDTH], np.int64)), seen


def vectors(model: onnx.ModelProto) -> int:
    """Count the biases as wide as the layers."""
    return sum(shape == (WIDTH,) for shape in weights(model))


def minimized(net: Network, *outputs: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return the model and the minimized one, which compute the same."""
    model = net.model(*outputs, rank=3)
    once = minimize(model).model
    feeds = {value.name: net.normal(2, TOKENS, WIDTH).astype(np.float32) for value in model.graph.input}
    for optimized in (True, False):
        assert deviation(run(model, feeds, optimized), run(once, feeds, optimized)) <= SINGLE
    return model, once


def causal(net: Network, scores: str) -> str:
    return net.add("Add", scores, net.store(np.triu(np.full((TOKENS, TOKENS), -np.inf), 1)))


def hidden(net: Network, scores: str) -> str:
    """Hide all keys but one from some queries."""
    keep = net.store(np.arange(TOKENS) <= np.arange(TOKENS)[:, None] // 2, np.bool_)
    return net.add("Where", keep, scores, net.store(-np.inf))


@pytest.mark.parametrize("scores", [unchanged, causal, hidden])
@pytest.mark.parametrize("layer", [gemm, matmul, conv])
def test_bias_of_keys_goes(layer: Any, scores: Change) -> None:
    net = Network(1)
    model, once = minimized(net, attention(net, layer, scores=scores)[0])
    assert vectors(once) == vectors(model) - 1
    if layer is matmul:
        assert operators(once)["Add"] == operators(model)["Add"] - 1
    assert minimize(once).plan.empty


@pytest.mark.parametrize("layer", [gemm, matmul, conv])
def test_a_bias_that_hides_by_rounding_what_scores_differ_by_stays(layer: Any) -> None:
    """In float32 all scores of a query are the same number then, and its probabilities as well."""
    net = Network(1)
    model, once = minimized(net, attention(net, layer, np.where(np.arange(WIDTH) == 2, 1e30, 0.5))[0])
    assert vectors(once) == vectors(model)


def test_two_biases_of_keys_go() -> None:
    net = Network(2)
    model, once = minimized(
        net, attention(net, gemm, keys=lambda net, k: net.add("Add", k, net.store(net.normal(WIDTH))))[0]
    )
    assert vectors(once) == vectors(model) - 2


def test_bias_goes_with_rows_of_zeros() -> None:
    """What a layer loses and what it adds to all keys do not get into each other's way."""
    net = Network(3)
    y, _ = attention(net, gemm)
    for tensor in net.constants[2:3]:
        weight = onnx.numpy_helper.to_array(tensor).copy()
        weight[:, [1, 4, 6]] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    model, once = minimized(net, y)
    assert vectors(once) < vectors(model)


def half_constant(net: Network, x: str) -> str:
    weight = net.normal(WIDTH, WIDTH)
    weight[:, [0, 3, 5, 6]] = 0
    return matmul(net, x, net.store(weight), net.store(net.normal(WIDTH)))


def test_constants_that_keys_read_are_folded_into_no_bias() -> None:
    """The layer that makes keys has none, and gets none for what would cancel."""
    net = Network(8)
    model, once = minimized(net, attention(net, without_bias, source=half_constant)[0])
    assert operators(once)["Add"] == operators(model)["Add"]
    assert weights(once).count((WIDTH // 2, WIDTH)) == 3


@pytest.mark.parametrize("op", ["Attention", "MultiHeadAttention"])
def test_bias_of_keys_in_front_of_one_operator_goes(op: str) -> None:
    net = Network(4, 23)
    x = net.input("x", "N", TOKENS, WIDTH)
    q, k, v = (matmul(net, x, net.store(net.normal(WIDTH, WIDTH) / 3), net.store(net.normal(WIDTH))) for _ in range(3))
    if op == "Attention":
        y = net.add("Attention", q, k, v, q_num_heads=HEADS, kv_num_heads=HEADS)
    else:
        y = net.add("MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=HEADS)
    model, once = minimized(net, y)
    assert vectors(once) == vectors(model) - 1


def turned(net: Network, k: str) -> str:
    """A rotation by the position: what was added to all keys is not the same any more."""
    table = net.store(np.cos(np.arange(TOKENS))[:, None])
    return net.add("Mul", k, table)


def inverted(net: Network, k: str) -> str:
    return net.add("Div", net.store(3.0), k)


def normalised(net: Network, k: str) -> str:
    return net.add("LayerNormalization", k, net.store(net.normal(WIDTH)), axis=-1)


def by_token(net: Network, k: str) -> str:
    return net.add("Add", k, net.store(net.normal(TOKENS, 1)))


def squared(net: Network, scores: str) -> str:
    return net.add("Mul", scores, scores)


def clamped(net: Network, scores: str) -> str:
    return net.add("Max", scores, net.store(-0.5))


@pytest.mark.parametrize(
    "change",
    [
        {"keys": turned},
        {"keys": normalised},
        {"keys": inverted, "bias": np.linspace(9, 12, WIDTH)},
        {"scores": squared},
        {"scores": clamped},
        {"bias": np.linspace(-1, 1, TOKENS * WIDTH).reshape(TOKENS, WIDTH)},
    ],
    ids=["turned", "normalised", "inverted", "squared", "clamped", "table"],
)
def test_bias_of_keys_stays_where_it_counts(change: dict[str, Any]) -> None:
    net = Network(5)
    model, once = minimized(net, attention(net, **change)[0])
    assert weights(once) == weights(model)


def test_what_differs_from_token_to_token_stays() -> None:
    """The bias in front of it goes all the same."""
    net = Network(7)
    model, once = minimized(net, attention(net, keys=by_token)[0])
    assert vectors(once) == vectors(model) - 1
    assert (TOKENS, 1) in weights(once)


def test_bias_stays_where_keys_are_seen() -> None:
    """A cache for the caller, or another reader."""
    net = Network(6)
    model, once = minimized(net, *attention(net))
    assert weights(once) == weights(model)
    net = Network(6)
    y, seen = attention(net)
    model, once = minimized(net, net.add("Add", y, net.add("Tanh", seen)))
    assert weights(once) == weights(model)
