"""EmbedLayerNormalization: words, their places and perhaps segments are looked up, added up, and normed.

The sum may be written besides, and the number of words that a mask leaves of each sequence.
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


def lower(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """Lower to three Gathers, or two and a Slice of the first places, to sums and a norm."""
    opset = scope.graph.opsets.get("", 0)
    if opset < _PLACES_BY_INPUTS or not node.outputs[0]:
        return None
    if len(node.outputs) > _COUNTS and is_read(node.outputs[_COUNTS], scope):
        _count(node, parts, opset)
    found = [parts.add("Gather", parts.slot(2), parts.slot(_WORDS), axis=0)]
    if node.input(_PLACES):
        found.append(parts.add("Gather", parts.slot(3), parts.slot(_PLACES), axis=0))
    else:
        first, axis = parts.constant(np.array([0])), parts.constant(np.array([0]))
        found.append(parts.add("Slice", parts.slot(3), first, _length(parts, 1), axis))
    if node.input(_SEGMENTS) and node.input(4):
        found.append(parts.add("Gather", parts.slot(4), parts.slot(_SEGMENTS), axis=0))
    total = found[0]
    for index, summand in enumerate(found[1:], start=2):
        written = node.outputs[_SUM] if index == len(found) and len(node.outputs) > _SUM else ""
        total = parts.add("Add", total, summand, outputs=[written] if written else [])
    epsilon, kind = float(node.attributes.get("epsilon", _EPSILON)), scope.type_of(node.input(2)) or 0
    norm = Norm(parts.slot(5), parts.slot(6), epsilon, kind, bool(node.input(6)))
    return parts.lowered() if add_norm(parts, total, norm, scope) else None


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
