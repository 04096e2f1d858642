"""FusedMatMul of com.microsoft: alpha times the product of two tensors, each of which may be transposed before.

``transA`` swaps the last two axes of A. ``transBatchA`` says that its rows, or with both its columns, stand first, in
front of the axes of the batch. The same holds for B.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.interval import Interval, outward
from onnxsqueeze.abstract.symbolic import Dimension, Shape, Symbolic, symbol
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.operators.linear.contraction import Contraction, contraction_rule
from onnxsqueeze.operators.linear.rule import linear_rule
from onnxsqueeze.operators.linear.view import constant_weight, linear_view
from onnxsqueeze.rules.contract import Context, OpRule, Refusal, ScoreRows
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.weight_view import Linear
from onnxsqueeze.shapes.reader_hints import stored_length

_ROUNDING = 2.0**-7  # of a product in half precision
_MATRIX = 2  # its rank


def _alpha(node: Node) -> float:
    return float(node.attributes.get("alpha", 1.0))


def _swapped(node: Node, position: int, rank: int) -> tuple[bool, bool]:
    """Return whether an operand's last two axes are swapped, and whether its batch stands behind its first axis.

    A vector has nothing to swap, and a matrix no batch.
    """
    side = "AB"[position]
    last, batch = (bool(node.attributes.get(f"{name}{side}", 0)) for name in ("trans", "transBatch"))
    return last and rank > 1, batch and rank > 2


def _letters(node: Node, position: int, rank: int, batch: str) -> str:
    """Name the axes of an operand: those of the batch, then M and K of the first, K and N of the second."""
    if rank == 1:
        return "K"
    swapped, behind = _swapped(node, position, rank)
    first, last = "MK" if position == 0 else "KN"
    if swapped:
        first, last = last, first
    own = batch[len(batch) - (rank - 2) :]
    return first + own + last if behind else own + first + last


def _contraction(node: Node, left: int, right: int) -> Contraction:
    """Name the axes of both operands, of these ranks, and of the output."""
    batch = string.ascii_lowercase[: max(left, right, 2) - 2]
    output = batch + "M" * (left > 1) + "N" * (right > 1)
    return Contraction(_letters(node, 0, left, batch), _letters(node, 1, right, batch), output)


def _axes(node: Node, context: Context) -> Contraction | Refusal:
    left, right = (context.rank(name) for name in node.inputs)
    alpha = _alpha(node)
    behind = any(node.attributes.get(f"transBatch{side}", 0) for side in "AB")  # onnxruntime wants equal ranks then
    if (
        left == 0
        or right == 0
        or alpha == 0
        or not np.isfinite(alpha)
        or (behind and (left != right or left <= _MATRIX))
    ):
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return _contraction(node, left, right)


@linear_view
def _weighted(node: Node, context: Context) -> Linear | Refusal:
    """One operand is a constant matrix, the same for the whole batch."""
    left = context.value(node.inputs[0]) is not None
    position, view = (0 if left else 1), _axes(node, context)
    weight = constant_weight(node, context, position)
    if isinstance(weight, Refusal):
        return weight
    if isinstance(view, Refusal):
        return view
    data = node.inputs[1 - position]
    if weight.ndim != 2 or context.rank(data) < 2:
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} with a constant of rank {weight.ndim}")
    own, other = view.operands[position], view.operands[1 - position]
    out_first = own[0] != "K"
    return Linear(
        data=data,
        weight=node.inputs[position],
        bias="",
        bias_position=-1,
        position=position,
        data_axis=other.index("K"),
        output_axis=view.output.index("M" if left else "N"),
        matrix=(weight if out_first else weight.T)[None, :, :, None],
        zero_padded=False,
        restore=_same if out_first else _turned,
        scale=_alpha(node),
    )


def _same(array: Array) -> Array:
    return array[0, :, :, 0]


def _turned(array: Array) -> Array:
    return np.asarray(array[0, :, :, 0].T)


def _value(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    left, right = inputs
    view = _contraction(node, left.ndim, right.ndim)
    shorter = view.output[: len(view.output) - len(set(view.output) & set("MN"))]
    lengths = [dict(zip(own, array.shape, strict=True)) for own, array in zip(view.operands, inputs, strict=True)]
    operands = [array.astype(np.float64) for array in inputs]
    names = list(view.operands)
    for place, own in enumerate(names):  # an axis of length 1 broadcasts
        dropped = [letter for letter in shorter if lengths[place].get(letter) == 1 and letter in lengths[1 - place]]
        operands[place] = operands[place].squeeze(tuple(own.index(letter) for letter in dropped))
        names[place] = "".join(letter for letter in own if letter not in dropped)
    kept = "".join(letter for letter in view.output if any(letter in own for own in names))
    product = np.einsum(f"{names[0]},{names[1]}->{kept}", *operands) * _alpha(node)
    shape = [max(own.get(letter, 1) for own in lengths) for letter in view.output]
    return [np.asarray(product).reshape(shape).astype(left.dtype)]


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """The batch broadcasts; onnx has no schema for this operator."""
    shapes = [context.shapes.get(name) for name in node.inputs]
    if any(not shape for shape in shapes):
        return [None]
    known = [shape for shape in shapes if shape is not None]
    view = _contraction(node, len(known[0]), len(known[1]))
    lengths = [dict(zip(own, shape, strict=True)) for own, shape in zip(view.operands, known, strict=True)]
    found: list[Dimension] = []
    for axis, letter in enumerate(view.output):
        sizes = {own[letter] for own in lengths if letter in own and own[letter] != 1} or {1}
        numbers = {size for size in sizes if not isinstance(size, Symbolic)}
        one = numbers or sizes
        found.append(next(iter(one)) if len(one) == 1 else symbol(f"{node.outputs[0]}:{axis}"))
    return [tuple(found)]


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """The bounds of the product, times alpha."""
    (bounds,) = _PRODUCT.forward(node, context)
    alpha = _alpha(node)
    if alpha == 1:
        return [bounds]
    ends = (bounds.lower * alpha, bounds.upper * alpha)
    return [outward(np.minimum(*ends), np.maximum(*ends), bounds.constant, _ROUNDING)]


def _choose(node: Node, context: Context) -> OpRule:
    """A weight that is a matrix is read as such."""
    found = _weighted(node, context)
    matrix = isinstance(found, Linear) or found.reason not in (Reason.COMPUTED_WEIGHT, Reason.UNKNOWN_SHAPE)
    return _BY_MATRIX if matrix else _OF_TENSORS


def _expects(node: Node, graph: Graph, position: int, rank: int) -> int | None:
    if position or node.attributes.get("transA", 0):
        return None
    return stored_length(graph, node.inputs[1], int(bool(node.attributes.get("transB", 0))))


_DOMAIN = "com.microsoft"
_PRODUCT = contraction_rule("FusedMatMul", _axes)
_OF_TENSORS = replace(_PRODUCT, domain=_DOMAIN, forward=_forward, infer=_infer)
_BY_MATRIX = replace(linear_rule("FusedMatMul", _weighted), domain=_DOMAIN, infer=_infer)

register(
    replace(
        _BY_MATRIX,
        evaluate=_value,
        dispatch=_choose,
        expects=_expects,
        rows=ScoreRows(finite=lambda node, context: True),
    )
)
