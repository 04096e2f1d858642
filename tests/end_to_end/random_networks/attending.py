"""Attention of tokens, spread over nodes as exporters do or as one operator, with masked heads and dims of heads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tests.end_to_end.random_networks.network import Array, Tensor
from tests.end_to_end.random_networks.normalized import norm_of_heads
from tests.end_to_end.random_networks.stream import TokenNetwork

LONGEST = 20  # tokens for which tables are stored
FUSED_ATTENTION = 23  # the opset that brought Attention


@dataclass(frozen=True)
class Heads:
    """How many heads the queries have, how many the keys and values, and the dims of each."""

    queries: int
    keys: int
    dims: int
    values: int

    @property
    def shared(self) -> int:
        """The heads of queries that share one of keys."""
        return self.queries // self.keys


def attention(net: TokenNetwork, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Attend to the tokens themselves or to a memory; return [batch, tokens, heads * dims] before the last layer.

    Args:
        mask: which tokens may be attended to, bool [batch, tokens].
    """
    keys = net.pick(1, 2, 2, 3)
    shared = net.pick(1, 1, 1, 2, 3)
    dims = net.pick(2, 4, 4, 6) if shared == 1 else net.pick(2, 4)
    heads = Heads(keys * shared, keys, dims, dims if net.chance(0.7) else net.whole(1, 5))
    source = memory or x
    fused = net.opset >= FUSED_ATTENTION and net.dtype is np.float32 and net.chance(0.3)
    query, key, value = _projected(net, x, source, heads, flat=not fused)
    if fused:
        causal = int(memory is None and net.chance(0.3))
        return net.add(
            "Attention", query, key, value, q_num_heads=heads.queries, kv_num_heads=heads.keys, is_causal=causal
        )
    if shared == 1 and heads.values == dims and net.dtype is np.float32 and net.chance(0.1):
        return net.foreign("MultiHeadAttention", query, key, value, like=query.shapes, num_heads=keys)
    q, k = by_head(net, query, heads.queries), by_head(net, key, heads.keys)
    v = by_head(net, value, heads.keys)
    if net.chance(0.15):
        q, k = norm_of_heads(net, q), norm_of_heads(net, k)
    if dims % 2 == 0 and memory is None and net.chance(0.3):
        cos, sin = _tables(net, x, dims)
        q, k = _rotated(net, q, cos, sin), _rotated(net, k, cos, sin)
    if shared > 1:
        k, v = _repeated(net, k, heads), _repeated(net, v, heads)
    scores = _biased(net, _scores(net, q, k, dims), memory is None, heads)
    if mask is not None and memory is None:
        scores = _hidden(net, scores, mask)
    weights = _softmax(net, scores)
    if net.opset >= 12 and net.chance(0.1):
        y = net.add("Einsum", weights, v, equation="bhqk,bhkd->bqhd")
    else:
        y = net.add("Transpose", net.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    if net.chance(0.3):
        sizes = net.sizes(net.extent(y, 0), net.extent(y, 1), heads.queries * heads.values)
    else:
        sizes = net.integers(0, 0, net.pick(-1, heads.queries * heads.values))
    return net.add("Reshape", y, sizes)


# -- queries, keys and values ------------------------------------------------------------------------------------------


def _masked(net: TokenNetwork, inputs: int, heads: int, dims: int, lacking: Array) -> tuple[Array, Array]:
    """Draw a projection of which some dims of some heads are constant; their biases are zero, or not."""
    weight = (net.normal(inputs, heads, dims) / np.sqrt(inputs)) * ~lacking
    bias = np.where(lacking & net.chance(0.5), 0, net.sparse(heads, dims, share=0.2))
    return weight.reshape(inputs, -1), bias.reshape(-1)


def gone(net: TokenNetwork, heads: int, dims: int) -> Array:
    """Draw which dims lack: some of each head, the same of all heads, or whole heads."""
    kind = net.pick("any", "alike", "heads", "none")
    if kind == "alike":
        return np.broadcast_to(net.random.random(dims) < 0.4, (heads, dims))
    if kind == "heads":
        return np.broadcast_to(net.random.random((heads, 1)) < 0.4, (heads, dims))
    return net.random.random((heads, dims)) < (0.4 if kind == "any" else 0)


def _projected(net: TokenNetwork, x: Tensor, source: Tensor, heads: Heads, flat: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Add the three layers, or a fused one that is cut."""
    kinds = ((heads.queries, heads.dims), (heads.keys, heads.dims), (heads.keys, heads.values))
    read_by = zip(kinds, (x, source, source), strict=True)
    drawn = [_masked(net, read.width, *kind, gone(net, *kind)) for kind, read in read_by]
    biased = net.chance(0.7)
    if x is not source or net.chance(0.6):
        layers = zip((x, source, source), drawn, strict=True)
        q, k, v = (net.product(read, weight, bias if biased else None, flat) for read, (weight, bias) in layers)
        return q, k, v
    weight, bias = (np.concatenate(parts, axis=-1) for parts in zip(*drawn, strict=True))
    fused = net.product(x, weight, bias if biased else None, flat)
    widths = [count * dims for count, dims in kinds]
    if net.chance(0.5):
        if net.opset >= 13:
            q, k, v = net.split("Split", fused, net.integers(*widths), outputs=3, axis=-1)
        else:
            q, k, v = net.split("Split", fused, outputs=3, axis=2, split=widths)
        return q, k, v
    if len(set(widths)) == 1 and net.chance(0.6):
        cut = net.add("Reshape", fused, net.integers(0, 0, 3, widths[0]))
        cut = net.add("Transpose", cut, perm=[2, 0, 1, 3])
        q, k, v = (net.add("Gather", cut, net.constant(i, np.int64), axis=0) for i in range(3))
        return q, k, v
    stops = np.cumsum(widths)
    q, k, v = (
        net.add("Slice", fused, net.integers(stop - width), net.integers(stop), net.integers(2))
        for stop, width in zip(stops, widths, strict=True)
    )
    return q, k, v


def by_head(net: TokenNetwork, x: Tensor, heads: int) -> Tensor:
    """Bring [batch, tokens, heads * dims] to [batch, heads, tokens, dims]."""
    dims = x.width // heads
    if net.chance(0.3):
        sizes = net.sizes(net.extent(x, 0), net.extent(x, 1), heads, dims)
    else:
        sizes = net.integers(0, net.pick(0, -1), heads, dims)
    return net.add("Transpose", net.add("Reshape", x, sizes), perm=[0, 2, 1, 3])


def _repeated(net: TokenNetwork, x: Tensor, heads: Heads) -> Tensor:
    """Copy each head of keys for those of the queries that share it."""
    if heads.keys == 1 and net.chance(0.4):
        return x  # broadcast
    if net.chance(0.3):
        taken = np.repeat(np.arange(heads.keys), heads.shared)
        return net.add("Gather", x, net.integers(*map(int, taken)), axis=1)
    apart = net.with_axes("Unsqueeze", x, [2])
    if net.chance(0.6):
        batch, tokens = net.extent(x, 0), net.extent(x, 2)
        copies = net.add("Expand", apart, net.sizes(batch, heads.keys, heads.shared, tokens, x.width))
    else:
        copies = net.add("Tile", apart, net.integers(1, 1, heads.shared, 1, 1))
    sizes = net.sizes(net.extent(x, 0), heads.queries, net.extent(x, 2), x.width)
    return net.add("Reshape", copies, sizes)


# -- rotary embeddings -------------------------------------------------------------------------------------------------


def _tables(net: TokenNetwork, x: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Store cosines and sines of all positions, and slice as many as there are tokens."""
    angles = np.arange(LONGEST)[:, None] * (10.0 ** -np.linspace(0, 2, dims // 2))
    angles = np.concatenate([angles, angles], axis=1)
    length = net.extent(x, 1)
    cos, sin = (
        net.add("Slice", net.constant(table), net.integers(0), length, net.integers(0))
        for table in (np.cos(angles), np.sin(angles))
    )
    return cos, sin


def _rotated(net: TokenNetwork, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of each head: x cos + [-x2, x1] sin."""
    half, end = x.width // 2, np.iinfo(np.int64).max
    first = net.add("Slice", x, net.integers(0), net.integers(half), net.integers(3))
    second = net.add("Slice", x, net.integers(half), net.integers(end), net.integers(3))
    turned = net.add("Concat", net.add("Neg", second), first, axis=-1)
    return net.add("Add", net.add("Mul", x, cos), net.add("Mul", turned, sin))


# -- scores ------------------------------------------------------------------------------------------------------------


def _scores(net: TokenNetwork, q: Tensor, k: Tensor, dims: int) -> Tensor:
    """Multiply queries and keys and scale, before or behind."""
    scale = float(dims) ** -0.5
    kind = net.pick("before", "both", "behind", "divided")
    if kind == "before":
        q = net.add("Mul", q, net.constant(scale))
    elif kind == "both":
        root = net.constant(scale**0.5)
        q, k = net.add("Mul", q, root), net.add("Mul", k, root)
    if net.opset >= 12 and net.chance(0.1) and q.shapes[0][1] == k.shapes[0][1]:
        scores = net.add("Einsum", q, k, equation="bhqd,bhkd->bhqk")
    else:
        scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    if kind == "behind":
        return net.add("Mul", scores, net.constant(scale))
    return net.add("Div", scores, net.constant(1 / scale)) if kind == "divided" else scores


def _biased(net: TokenNetwork, scores: Tensor, itself: bool, heads: Heads) -> Tensor:
    """Add a causal mask or a bias by relative position, or none."""
    kind = net.pick("none", "none", "causal", "where", "relative", "learnt")
    if kind == "none" or not itself:
        return scores
    tokens = net.extent(scores, 2)
    later = np.arange(LONGEST)[:, None] < np.arange(LONGEST)
    if kind in ("causal", "where"):
        table = np.where(later, -1e4, 0.0) if kind == "causal" else later
        stored = net.constant(table[None, None], None if kind == "causal" else np.bool_)
    elif kind == "relative":
        distance = np.abs(np.arange(LONGEST)[:, None] - np.arange(LONGEST))
        stored = net.constant((net.sparse(heads.queries, 1, 1) * distance)[None])
    else:
        stored = net.constant(net.normal(1, heads.queries, LONGEST, LONGEST))
    cut = net.add("Slice", stored, net.integers(0, 0), net.sizes(tokens, tokens), net.integers(2, 3))
    if kind == "where":
        return net.add("Where", replace(cut, dtype=np.bool_), net.constant(-1e4), scores)
    return net.add("Add", scores, cut)


def _hidden(net: TokenNetwork, scores: Tensor, mask: Tensor) -> Tensor:
    """Lower the scores of tokens that must not be attended to."""
    seen = net.with_axes("Unsqueeze", mask, [1, 2])
    if net.chance(0.5):
        return net.add("Where", replace(seen, dtype=np.bool_), scores, net.constant(-1e4))
    number = net.add("Cast", replace(seen, dtype=np.bool_), to=net.elem_type)
    lost = net.add("Sub", net.constant(1.0), number)
    return net.add("Add", scores, net.add("Mul", lost, net.constant(-1e4)))


def _softmax(net: TokenNetwork, scores: Tensor) -> Tensor:
    """Normalize over the keys; a guard against rows of minus infinity, sometimes."""
    weights = net.add("Softmax", scores, axis=3 if net.opset < 13 else net.pick(-1, 3))
    if net.chance(0.25):
        nothing = net.add("IsNaN", weights)
        return net.add("Where", replace(nothing, dtype=np.bool_), net.constant(0.0), weights)
    return weights
