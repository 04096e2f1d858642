"""SkipLayerNormalization and SkipSimplifiedLayerNormalization: the sum of a stream and a branch, normed.

The sum of a stream and a branch, and perhaps of a bias, is normed, and may be written besides, as may its mean and its
inverse deviation.
"""

from __future__ import annotations

from onnxsqueeze.canonicalization.lowering.norms import Norm, add_norm
from onnxsqueeze.canonicalization.lowering.parts import Parts
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.lowered_node import Lowered

_EPSILON = 1e-12  # onnxruntime's default
_SUM = 3  # the position of the sum among the outputs


def lower(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """Lower to sums and a norm; None where the deviation of a root mean square is read."""
    statistics = [name if is_read(name, scope) else "" for name in node.outputs[1:_SUM]]
    if not node.outputs[0]:
        return None
    plain = node.op == "SkipLayerNormalization"
    summands = [position for position in (0, 1, 4 if plain else 3) if node.input(position)]
    total = parts.slot(summands[0])
    for position in summands[1:]:
        written = node.outputs[_SUM] if position == summands[-1] and len(node.outputs) > _SUM else ""
        total = parts.add("Add", total, parts.slot(position), outputs=[written] if written else [])
    norm = Norm(
        parts.slot(2),
        parts.slot(3) if plain else "",
        float(node.attributes.get("epsilon", _EPSILON)),
        scope.type_of(node.input(2)) or 0,
        plain and bool(node.input(3)),
        plain,
        statistics,
    )
    return parts.lowered() if add_norm(parts, total, norm, scope) else None


def is_read(name: str, scope: Scope) -> bool:
    """Whether anything reads a tensor, or it is an output."""
    return bool(name) and (name in scope.graph.outputs or bool(scope.graph.readers.get(name)))
