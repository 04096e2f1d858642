"""Attention of the onnx domain (opset 23): queries, keys and values come in, projected already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.attention.heads import attention_shapes, caches_of, heads_of
from onnxsqueeze.operators.attention.rule import Attention, attention_rule
from onnxsqueeze.operators.attention.scores import masked_specials, per_head
from onnxsqueeze.rules.contract import Context, Refusal
from onnxsqueeze.rules.registry import register


def _attends(node: Node, context: Context) -> bool:
    """Whether each query has a key that no mask takes from it; the result of a query without one is 0.

    Causal masking leaves the first key to all queries, unless only the last keys of a cache count.
    """
    windows = any(node.attributes.get(f"{side}_window_size", -1) >= 0 for side in ("left", "right"))
    if node.input(6) or windows:
        return False
    if not node.input(3):
        return True
    mask = context.value(node.inputs[3])
    if mask is None:
        interval = context.interval(node.inputs[3])
        return context.dtypes[node.inputs[3]] != TensorProto.BOOL and bool(np.isfinite(interval.lower).all())
    seen = mask if mask.dtype == bool else mask.astype(np.float64) > -np.inf
    return bool((seen[..., 0] if node.attributes.get("is_causal", 0) else seen.any(axis=-1)).all())


def _view(node: Node, context: Context) -> Attention | Refusal:
    if len(node.outputs) > 3 and node.outputs[3]:
        return Refusal(Reason.UNKNOWN_OPERATOR, "Attention that also returns its scores")
    counts = [node.attributes.get(name) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads", "q_num_heads")]
    names = [*node.inputs[:3], node.outputs[0]]
    found = [
        heads_of(context, name, place, count) for place, (name, count) in enumerate(zip(names, counts, strict=True))
    ]
    query, key, value, output = found
    if query is None or key is None or value is None or output is None or query.heads % key.heads:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    caches = caches_of(node, context, 4)
    if isinstance(caches, Refusal):
        return caches
    return Attention(
        query,
        key,
        value,
        output,
        caches,
        scores=per_head(context, node, 3, 3),
        bias=-1,
        counts=("q_num_heads", "kv_num_heads"),
        scaled="scale" in node.attributes,
        cancels=not node.attributes.get("softcap", 0.0),
        averages=_attends(node, context),
    )


def _shapes(node: Node, context: Context) -> Sequence[Shape | None]:
    """Return all shapes, of which onnx leaves those of caches open."""
    operands = [context.shapes.get(node.input(position)) for position in (0, 1, 2, 4)]
    counts = (int(node.attributes.get("q_num_heads", 0)), int(node.attributes.get("kv_num_heads", 0)))
    return attention_shapes(operands[0], operands[1], operands[2], operands[3], counts)


register(attention_rule("Attention", _view, since=23, infer=_shapes, specials=masked_specials(3)))
