"""EmbedLayerNormalization: words, their places and perhaps segments are looked up, added up, and normed.

The sum may be written besides, and the number of words that a mask leaves of each sequence. In QEmbedLayerNormalization
the tables are codes, as are scale and shift of the norm.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from onnxsqueeze.canonicalization.lowering.norms import Norm, add_norm
from onnxsqueeze.canonicalization.lowering.parts import Parts
from onnxsqueeze.canonicalization.lowering.skip_normalization import is_read
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.lowered_node import Lowered

_EPSILON = 1e-12  # onnxruntime's default
_PLACES_BY_INPUTS = 10  # the opset since which Slice takes its places as inputs
_AXES_BY_INPUTS = 13  # the same of ReduceSum
_WORDS, _SEGMENTS, _MASK, _PLACES = 0, 1, 7, 8  # inputs that say what is looked up
_COUNTS, _SUM = 1, 2  # outputs
_SCALES, _ZEROS = range(8, 13), range(13, 18)  # of the codes at the inputs 2 to 6


def lower(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """Lower to three Gathers, or two and a Slice of the first places, to sums and a norm."""
    opset, coded = scope.graph.opsets.get("", 0), node.op.startswith("Q")
    if opset < _PLACES_BY_INPUTS or not node.outputs[0] or (coded and not _decodable(node, scope)):
        return None
    if len(node.outputs) > _COUNTS and is_read(node.outputs[_COUNTS], scope):
        _count(node, parts, opset)
    found = [_looked_up(node, parts, 2, _WORDS)]
    if node.input(_PLACES) and not coded:
        found.append(_looked_up(node, parts, 3, _PLACES))
    else:
        first, axis = parts.constant(np.array([0])), parts.constant(np.array([0]))
        found.append(_decoded(node, parts, parts.add("Slice", parts.slot(3), first, _length(parts, 1), axis), 3))
    if node.input(_SEGMENTS) and node.input(4):
        found.append(_looked_up(node, parts, 4, _SEGMENTS))
    total = found[0]
    for index, summand in enumerate(found[1:], start=2):
        written = node.outputs[_SUM] if index == len(found) and len(node.outputs) > _SUM else ""
        total = parts.add("Add", total, summand, outputs=[written] if written else [])
    epsilon, kind = float(node.attributes.get("epsilon", _EPSILON)), scope.type_of(node.input(8 if coded else 2)) or 0
    scale, shift = (_decoded(node, parts, parts.slot(place), place) for place in (5, 6))
    norm = Norm(scale, shift, epsilon, kind, bool(node.input(6)))
    return parts.lowered() if add_norm(parts, total, norm, scope) else None


def _decodable(node: Node, scope: Scope) -> bool:
    """Whether all codes have scales that are known."""
    scales = [scope.constant(node.input(place)) for place in _SCALES]
    return all(scale is not None and scale.size == 1 for scale in scales)


def _looked_up(node: Node, parts: Parts, table: int, rows: int) -> str:
    return _decoded(node, parts, parts.add("Gather", parts.slot(table), parts.slot(rows), axis=0), table)


def _decoded(node: Node, parts: Parts, name: str, place: int) -> str:
    """Decode what comes of an input, if the node has codes there."""
    if not node.op.startswith("Q"):
        return name
    scale, zero = _SCALES[place - 2], _ZEROS[place - 2]
    return parts.add("DequantizeLinear", name, parts.slot(scale), *([parts.slot(zero)] if node.input(zero) else []))


def _length(parts: Parts, axis: int) -> str:
    """Compute a length of the words [batch, places] as a vector of one entry."""
    places = (parts.constant(np.array([place])) for place in (axis, axis + 1, 0))
    return parts.add("Slice", parts.add("Shape", parts.slot(_WORDS)), *places)


def _count(node: Node, parts: Parts, opset: int) -> None:
    """Count the ones of each row of the mask, whatever ``mask_index_type`` says; without a mask write zeros [batch]."""
    counts = node.outputs[_COUNTS]
    if not node.input(_MASK):
        zero = helper.make_tensor("", TensorProto.INT32, [1], [0])
        parts.add("ConstantOfShape", _length(parts, 0), outputs=[counts], value=zero)
        return
    ones = parts.add("Equal", parts.slot(_MASK), parts.constant(np.array(1, np.int32)))
    numbers = parts.add("Cast", ones, to=TensorProto.INT32)
    if opset < _AXES_BY_INPUTS:
        parts.add("ReduceSum", numbers, outputs=[counts], axes=[1], keepdims=0)
    else:
        parts.add("ReduceSum", numbers, parts.constant(np.array([1])), outputs=[counts], keepdims=0)
