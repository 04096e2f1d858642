"""SkipLayerNormalization and SkipSimplifiedLayerNormalization: the sum of a stream and a branch, normed.

The sum of a stream and a branch, and perhaps of a bias, is normed, and may be written besides, as may its mean and its
inverse deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from onnxsqueeze.canonicalization.lowering.parts import Parts
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.lowered_node import Lowered

_EPSILON = 1e-12  # onnxruntime's default
_FUSED_SINCE = {"LayerNormalization": 17, "RMSNormalization": 23}
_MEAN_AXES_AS_INPUT = 18  # the opset in which the axes of ReduceMean became an input
_SUM = 3  # the position of the sum among the outputs


def lower(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """Lower to sums and a norm.

    None where the deviation of a root mean square is read, and where the standard of the model's opset has no such norm
    and its definition would overflow in the data type.
    """
    statistics = [name if _read(name, scope) else "" for name in node.outputs[1:_SUM]]
    if not node.outputs[0] or (any(statistics) and node.op != "SkipLayerNormalization"):
        return None
    norm = "LayerNormalization" if node.op == "SkipLayerNormalization" else "RMSNormalization"
    opset = scope.graph.opsets.get("", 0)
    fused = opset >= _FUSED_SINCE[norm]
    if not fused and scope.type_of(node.input(2)) != TensorProto.FLOAT:
        return None
    plain = norm == "LayerNormalization"
    summands = [position for position in (0, 1, 4 if plain else 3) if node.input(position)]
    total = parts.slot(summands[0])
    for position in summands[1:]:
        written = node.outputs[_SUM] if position == summands[-1] and len(node.outputs) > _SUM else ""
        total = parts.add("Add", total, parts.slot(position), outputs=[written] if written else [])
    scale, shift = parts.slot(2), parts.slot(3) if plain and node.input(3) else ""
    epsilon = float(node.attributes.get("epsilon", _EPSILON))
    if fused:
        outputs = ["", *statistics] if any(statistics) else []
        parameters = [scale, parts.slot(3)] if plain else [scale]
        parts.add(norm, total, *parameters, outputs=outputs, axis=-1, epsilon=epsilon)
    else:
        _spell_out(parts, total, (scale, shift), epsilon, plain, opset, [*statistics, "", ""])
    return parts.lowered()


def _read(name: str, scope: Scope) -> bool:
    return bool(name) and (name in scope.graph.outputs or bool(scope.graph.readers.get(name)))


def _spell_out(
    parts: Parts,
    total: str,
    parameters: tuple[str, str],
    epsilon: float,
    centred: bool,
    opset: int,
    statistics: Sequence[str],
) -> None:
    """Write the definition in the nodes that onnxruntime recognises; the statistics have names if they are read."""

    def mean(data: str, name: str = "") -> str:
        if opset < _MEAN_AXES_AS_INPUT:
            return parts.add("ReduceMean", data, outputs=[name], axes=[-1], keepdims=1)
        return parts.add("ReduceMean", data, parts.constant(np.array([-1])), outputs=[name], keepdims=1)

    scale, shift = parameters
    base = parts.add("Sub", total, mean(total, statistics[0])) if centred else total
    squares = parts.add("Pow", base, parts.constant(np.float32(2)))
    inside = parts.add("Add", mean(squares), parts.constant(np.float32(epsilon)))
    root = parts.add("Sqrt", inside)
    if statistics[1]:
        parts.add("Reciprocal", root, outputs=[statistics[1]])
    unit = parts.add("Div", base, root)
    scaled = parts.add("Mul", unit, scale)
    if shift:
        parts.add("Add", scaled, shift)
