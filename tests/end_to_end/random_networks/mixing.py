"""Other ways than softmax over keys to let tokens or channels read each other."""

from __future__ import annotations

import numpy as np

from tests.end_to_end.random_networks.attending import by_head, gone
from tests.end_to_end.random_networks.network import Array, Tensor
from tests.end_to_end.random_networks.normalized import mean
from tests.end_to_end.random_networks.stream import TokenNetwork


def _drawn(net: TokenNetwork, inputs: int, heads: int, dims: int) -> Array:
    """Draw a projection to heads [inputs, heads, dims], of which some dims lack."""
    return (net.normal(inputs, heads, dims) / np.sqrt(inputs)) * ~gone(net, heads, dims)


def _heads(net: TokenNetwork, x: Tensor, heads: int, dims: int) -> Tensor:
    """Project and bring to [batch, heads, tokens, dims]."""
    bias = net.sparse(heads * dims) if net.chance(0.6) else None
    return by_head(net, net.product(x, _drawn(net, x.width, heads, dims).reshape(x.width, -1), bias), heads)


def _merged(net: TokenNetwork, y: Tensor) -> Tensor:
    """Bring [batch, heads, tokens, dims] to [batch, tokens, heads * dims]."""
    return net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.integers(0, 0, -1))


def without_softmax(net: TokenNetwork, x: Tensor) -> Tensor:
    """Linear attention: queries times (keys times values), both first ones not negative."""
    heads, dims = net.whole(1, 3), net.whole(2, 4)
    q, k, v = (_heads(net, x, heads, size) for size in (dims, dims, net.whole(2, 4)))
    q, k = net.add("Relu", q), net.add(net.pick("Relu", "Sigmoid"), k)
    memory = net.add("MatMul", net.add("Transpose", k, perm=[0, 1, 3, 2]), v)
    y = net.add("MatMul", q, memory)
    if net.chance(0.5):
        total = net.add("MatMul", q, net.add("Transpose", mean(net, k, 2), perm=[0, 1, 3, 2]))
        y = net.add("Div", y, net.add("Add", total, net.constant(0.5)))
    return _merged(net, y)


def batch_and_heads_in_one(net: TokenNetwork, x: Tensor) -> Tensor:
    """Attend with batch and heads in one axis, [tokens, batch * heads, dims], as torch's MultiheadAttention does."""
    heads, dims = net.whole(1, 3), net.whole(2, 4)
    turned = net.add("Transpose", x, perm=[1, 0, 2])
    rows = _rows(net, x, heads)
    q, k, v = (_rowed(net, turned, heads, dims, rows) for _ in range(3))
    scores = net.add("MatMul", net.add("Mul", q, net.constant(dims**-0.5)), net.add("Transpose", k, perm=[0, 2, 1]))
    y = net.add("MatMul", net.add("Softmax", scores, axis=2), v)
    y = net.add("Transpose", y, perm=[1, 0, 2])
    tokens, batch = net.extent(x, 1), net.extent(x, 0)
    if net.chance(0.5):
        y = net.add("Reshape", y, net.sizes(tokens, batch, heads * dims))
        return net.add("Transpose", y, perm=[1, 0, 2])
    flat = net.add("Reshape", y, net.integers(-1, heads * dims))
    units = net.whole(2, 6)
    made = net.product(flat, net.matrix(heads * dims, units), net.sparse(units))
    return net.add("Transpose", net.add("Reshape", made, net.sizes(tokens, batch, units)), perm=[1, 0, 2])


def _rows(net: TokenNetwork, x: Tensor, heads: int) -> int | Tensor:
    first, second = (shape[0] * heads for shape in x.shapes)
    if first == second and net.chance(0.5):
        return first
    return net.add("Mul", net.extent(x, 0), net.integers(heads), values=(np.array([first]), np.array([second])))


def _rowed(net: TokenNetwork, x: Tensor, heads: int, dims: int, rows: int | Tensor) -> Tensor:
    """Project [tokens, batch, channels] and bring to [batch * heads, tokens, dims]."""
    bias = net.sparse(heads * dims) if net.chance(0.6) else None
    made = net.product(x, _drawn(net, x.width, heads, dims).reshape(x.width, -1), bias)
    tokens = net.extent(x, 0) if net.chance(0.5) else -1
    sizes = net.sizes(tokens, rows, dims)
    return net.add("Transpose", net.add("Reshape", made, sizes), perm=[1, 0, 2])


def with_past(net: TokenNetwork, x: Tensor, past: Tensor) -> Tensor:
    """Attend to what is handed in as keys and values of one head, and to the tokens behind it."""
    dims, heads = past.width, net.whole(1, 3)
    q = _heads(net, x, heads, dims)
    k = net.add("Concat", past, _heads(net, x, 1, dims), axis=2)
    v = net.add("Concat", past, _heads(net, x, 1, dims), axis=2)
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    return _merged(net, net.add("MatMul", net.add("Softmax", scores, axis=3), v))


def of_channels(net: TokenNetwork, x: Tensor) -> Tensor:
    """Let channels attend to channels: softmax over the keys' dims, each normalized over all tokens."""
    heads, dims = net.whole(1, 3), net.whole(2, 4)
    q, k, v = (net.add("Transpose", _heads(net, x, heads, dims), perm=[0, 1, 3, 2]) for _ in range(3))
    if net.chance(0.5):
        q, k = (net.add("Div", y, net.add("Add", net.add("Abs", mean(net, y, -1)), net.constant(0.5))) for y in (q, k))
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    weights = net.add("Softmax", net.add("Mul", scores, net.constant(net.sparse(heads, 1, 1))), axis=3)
    y = net.add("MatMul", weights, v)
    return net.add("Reshape", net.add("Transpose", y, perm=[0, 3, 1, 2]), net.integers(0, 0, heads * dims))


def by_einsum(net: TokenNetwork, x: Tensor) -> Tensor:
    """Project to heads, attend and come back by Einsum alone, or by products with a matrix for each head."""
    heads, dims = net.whole(1, 3), net.whole(2, 4)
    weights = [_drawn(net, x.width, heads, dims) for _ in range(3)]
    if net.opset >= 12 and net.chance(0.6):
        form = net.pick("btc,chd->bhtd", "btc,hcd->bhtd")
        order = (0, 1, 2) if form.startswith("btc,ch") else (1, 0, 2)
        q, k, v = (net.add("Einsum", x, net.constant(w.transpose(order)), equation=form) for w in weights)
        scores = net.add("Einsum", q, k, equation="bhqd,bhkd->bhqk")
    else:
        apart = net.with_axes("Unsqueeze", x, [1])
        q, k, v = (net.add("MatMul", apart, net.constant(w.transpose(1, 0, 2)[None])) for w in weights)
        q = net.add("Add", q, net.constant(net.sparse(heads, 1, dims)))
        scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    softmax = net.add("Softmax", scores, axis=3)
    y = net.add("MatMul", softmax, v)
    back = net.normal(heads, dims, x.width) * (net.random.random((heads, 1, 1)) < 0.8) / dims
    if net.opset >= 12 and net.chance(0.5):
        return net.add("Einsum", y, net.constant(back), equation="bhtd,hdc->btc")
    made = net.add("MatMul", y, net.constant(back))
    return net.with_axes("ReduceSum", made, [1], keepdims=0)


def by_experts(net: TokenNetwork, x: Tensor) -> Tensor:
    """Weigh what several layers make by a softmax over them."""
    experts, units = net.whole(2, 3), net.whole(2, 5)
    shares = net.add("Softmax", net.linear(x, experts), axis=x.rank - 1)
    made = net.add("Reshape", net.linear(x, experts * units), net.integers(0, 0, experts, units))
    made = net.add("Mul", net.add("Tanh", made), net.with_axes("Unsqueeze", shares, [3]))
    return net.with_axes("ReduceSum", made, [2], keepdims=0)
