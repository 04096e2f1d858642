"""MultiHeadAttention and GroupQueryAttention of com.microsoft, as onnxruntime's fusions and model builders write them.

Their masks add a large finite number, so that the probabilities of every query sum to 1. What their kernels demand of
the sizes (multiples of 8, equal sizes) is kept, as found in onnxruntime 1.31.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.symbolic import Shape, symbol
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.attention.heads import Heads, attention_shapes, caches_of, heads_of
from onnxsqueeze.operators.attention.rule import Attention, attention_rule
from onnxsqueeze.operators.attention.scores import masked_specials, per_head
from onnxsqueeze.rules.contract import Context, Refusal
from onnxsqueeze.rules.registry import register

_MICROSOFT = "com.microsoft"


def _has(node: Node, *positions: int) -> bool:
    return any(node.input(position) for position in positions)


def _unknown(node: Node, what: str) -> Refusal:
    return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.operator} with {what}")


def _multi_head(node: Node, context: Context) -> Attention | Refusal:
    if not node.input(1) or not node.input(2) or context.rank(node.inputs[1]) == 5:
        return _unknown(node, "packed keys and values")
    if _has(node, 8, 9):
        return _unknown(node, "a shared cache")
    if len(node.outputs) > 3 and node.outputs[3]:
        return _unknown(node, "its scores as an output")
    heads = int(node.attributes["num_heads"])
    query, key, value = (heads_of(context, node.inputs[place], place, heads) for place in range(3))
    output = heads_of(context, node.outputs[0], 0, heads)
    caches = caches_of(node, context, 6)
    if query is None or key is None or value is None or output is None or isinstance(caches, Refusal):
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    separate = not key.channels  # keys and values of an encoder, which come with an axis for the heads
    if separate and (_has(node, 3) or caches is not None):
        return _unknown(node, "keys by head and a bias or a cache")
    return _viewed(node, context, (query, key, value, output), caches, 5, separate or caches is not None)


def _viewed(
    node: Node,
    context: Context,
    heads: tuple[Heads, Heads, Heads, Heads],
    caches: tuple[Heads, Heads] | None,
    scores: int,
    alike: bool,
) -> Attention | Refusal:
    """Return the view of a node whose queries, keys, values and outputs have heads that are known.

    Args:
        scores: the position of what is added to the scores. caches, alike: see `Attention`.
    """
    if node.input(3) and not _is_finite(context, node.inputs[3]):
        return Refusal(Reason.COMPUTED_WEIGHT, node.inputs[3])
    return Attention(
        *heads,
        caches,
        scores=per_head(context, node, scores, 3),
        bias=3 if node.input(3) else -1,
        counts=("num_heads", ""),
        scaled=bool(node.attributes.get("scale", 0.0)),
        cancels=True,
        averages=True,
        alike=alike,
    )


def _packed(node: Node, context: Context) -> Attention | Refusal:
    """PackedMultiHeadAttention: of the tokens of all sequences in one row, without those that only fill them up."""
    if not node.input(1) or not node.input(2):
        return _unknown(node, "queries, keys and values in one tensor")
    heads = int(node.attributes["num_heads"])
    query, key, value = (heads_of(context, node.inputs[place], place, heads) for place in range(3))
    output = heads_of(context, node.outputs[0], 0, heads)
    if query is None or key is None or value is None or output is None or query.rank != _PACKED_RANK:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return _viewed(node, context, (query, key, value, output), None, 6, alike=True)


_PACKED_RANK = 2


def _packed_shapes(node: Node, context: Context) -> Sequence[Shape | None]:
    query, value = (context.shapes.get(node.input(position)) for position in (0, 2))
    if query is None or value is None or len(query) != _PACKED_RANK or len(value) != _PACKED_RANK:
        return [None]
    return [(query[0], value[1])]


def _is_finite(context: Context, name: str) -> bool:
    array = context.value(name)
    return array is not None and bool(np.isfinite(array.astype(np.float64)).all())


def _group_query(node: Node, context: Context) -> Attention | Refusal:
    if _has(node, 12, 13):
        return _unknown(node, "a quantized cache")
    if _has(node, 14, 15):
        return _unknown(node, "normalized queries and keys")
    if len(node.outputs) > 3 and node.outputs[3]:
        return _unknown(node, "its scores as an output")
    if node.input(11) and context.value(node.inputs[11]) is None:
        return _unknown(node, "computed sinks")
    operands = _grouped_operands(node, context)
    output = heads_of(context, node.outputs[0], 0, int(node.attributes["num_heads"]))
    caches = caches_of(node, context, 3)
    if operands is None or output is None or isinstance(caches, Refusal):
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    query, key, value = operands
    sinks = bool(node.input(11)) or bool(node.attributes.get("smooth_softmax", 0))
    return Attention(
        query,
        key,
        value,
        output,
        caches,
        scores=(*per_head(context, node, 10, 3), *(per_head(context, node, 11, 1))),
        bias=-1,
        counts=("num_heads", "kv_num_heads"),
        scaled=bool(node.attributes.get("scale", 0.0)),
        cancels=not node.attributes.get("softcap", 0.0) and not sinks,
        averages=not sinks,
        rotated=bool(node.attributes.get("do_rotary", 0)),
        multiple=8,
        alike=True,
    )


def _grouped_operands(node: Node, context: Context) -> tuple[Heads, Heads, Heads] | None:
    """Return queries, keys and values, which may stand in one tensor one after the other."""
    heads, shared = int(node.attributes["num_heads"]), int(node.attributes["kv_num_heads"])
    counts = (heads, shared, shared)
    if node.input(1):
        found = [heads_of(context, node.input(place), place, count) for place, count in enumerate(counts)]
    else:
        packed = heads_of(context, node.inputs[0], 0, heads + 2 * shared)
        found = [packed] if packed is None else _unpacked(packed, counts)
    if any(operand is None for operand in found) or heads % shared:
        return None
    query, key, value = (operand for operand in found if operand is not None)
    return query, key, value


def _unpacked(packed: Heads, counts: Sequence[int]) -> list[Heads | None]:
    starts = [packed.size * sum(counts[:place]) for place in range(len(counts))]
    return [
        Heads(packed.name, 0, count, packed.size, packed.channels, start)
        for count, start in zip(counts, starts, strict=True)
    ]


def _multi_head_shapes(node: Node, context: Context) -> Sequence[Shape | None]:
    query, key, value, past = (context.shapes.get(node.input(position)) for position in (0, 1, 2, 6))
    heads = int(node.attributes["num_heads"])
    if query is not None and not node.input(2):  # packed: the keys [N, T, heads, 2, size], or all three
        width = query[2] if len(query) == 3 else heads * query[4]
        return [(query[0], query[1], width)]
    return attention_shapes(query, key, value, past, (heads, heads))


def _group_query_shapes(node: Node, context: Context) -> Sequence[Shape | None]:
    """The caches may have been allocated for more positions than there are."""
    query = context.shapes.get(node.inputs[0])
    if query is None or len(query) != 3:
        return [None] * len(node.outputs)
    heads, shared = int(node.attributes["num_heads"]), int(node.attributes["kv_num_heads"])
    size = query[2] // (heads if node.input(1) else heads + 2 * shared)
    lengths = [symbol(f"{name}:2") for name in node.outputs[1:]]
    caches = [(query[0], shared, length, size) for length in lengths[:2]]
    scores = [(query[0], heads, query[1], length) for length in lengths[2:]]
    return [(query[0], query[1], heads * size), *caches, *scores]


register(
    attention_rule(
        "MultiHeadAttention",
        _multi_head,
        domain=_MICROSOFT,
        infer=_multi_head_shapes,
        specials=masked_specials(5),
    ),
    attention_rule(
        "GroupQueryAttention",
        _group_query,
        domain=_MICROSOFT,
        infer=_group_query_shapes,
        specials=masked_specials(10),
    ),
    attention_rule(
        "PackedMultiHeadAttention",
        _packed,
        domain=_MICROSOFT,
        infer=_packed_shapes,
        specials=masked_specials(6),
    ),
)
