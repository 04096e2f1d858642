"""SkipLayerNormalization of com.microsoft taken apart: what onnxruntime's optimizer fuses from sums and norms.

The sum of a stream and a branch, and perhaps of a bias, is normed, and may be written besides. Taken apart, each has
its own rule; onnxruntime fuses them again when it loads the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.loading import Initializer

DOMAIN = "com.microsoft"
_EPSILON = 1e-12  # onnxruntime's default
_FUSED_SINCE = {"LayerNormalization": 17, "RMSNormalization": 23}
_MEAN_AXES_AS_INPUT = 18  # the opset in which the axes of ReduceMean became an input


@dataclass
class Parts:
    """The nodes that a fused one is taken apart into, with their constants."""

    label: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[Initializer] = field(default_factory=list)

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node and return what it writes."""
        output = output or f"{self.label}.{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value: Any) -> str:
        """Add a constant and return its name."""
        name = f"{self.label}.constant_{len(self.constants)}"
        self.constants.append(Initializer.from_array(name, np.asarray(value)))
        return name


def unfused(node: Node, scope: Scope) -> Parts | None:
    """Return what computes the same as a SkipLayerNormalization or a SkipSimplifiedLayerNormalization.

    None for any other node, for one whose mean or deviation is written, and where the standard of the model's opset has
    no such norm and its definition would overflow in the data type.
    """
    if node.domain != DOMAIN or node.op not in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        return None
    if any(node.outputs[1:3]) or not node.outputs[0]:
        return None
    norm = "LayerNormalization" if node.op == "SkipLayerNormalization" else "RMSNormalization"
    opset = scope.graph.opsets.get("", 0)
    fused = opset >= _FUSED_SINCE[norm]
    if not fused and scope.type_of(node.input(2)) != TensorProto.FLOAT:
        return None
    parts = Parts(node.outputs[0])
    *summands, scale, shift = _operands(node)
    total = summands[0]
    for place, summand in enumerate(summands[1:], start=2):
        written = node.outputs[3] if place == len(summands) and len(node.outputs) > 3 else ""
        total = parts.add("Add", total, summand, output=written)
    epsilon = float(node.attributes.get("epsilon", _EPSILON))
    if fused:
        parameters = [name for name in (scale, shift) if name]
        parts.add(norm, total, *parameters, output=node.outputs[0], axis=-1, epsilon=epsilon)
    else:
        _spell_out(parts, total, scale, shift, epsilon, norm == "LayerNormalization", opset)
        parts.nodes[-1].output[0] = node.outputs[0]
    return parts


def _operands(node: Node) -> Iterator[str]:
    """Yield the summands, then the scale and the bias of the norm ("" where it has none)."""
    plain = node.op == "SkipLayerNormalization"
    yield from (name for name in (node.input(0), node.input(1), node.input(4 if plain else 3)) if name)
    yield node.input(2)
    yield node.input(3) if plain else ""


def _spell_out(parts: Parts, total: str, scale: str, shift: str, epsilon: float, centred: bool, opset: int) -> None:
    """Write the definition in the nodes that onnxruntime recognises."""

    def mean(data: str) -> str:
        if opset < _MEAN_AXES_AS_INPUT:
            return parts.add("ReduceMean", data, axes=[-1], keepdims=1)
        return parts.add("ReduceMean", data, parts.constant(np.array([-1])), keepdims=1)

    base = parts.add("Sub", total, mean(total)) if centred else total
    squares = parts.add("Pow", base, parts.constant(np.float32(2)))
    inside = parts.add("Add", mean(squares), parts.constant(np.float32(epsilon)))
    unit = parts.add("Div", base, parts.add("Sqrt", inside))
    scaled = parts.add("Mul", unit, scale)
    if shift:
        parts.add("Add", scaled, shift)
