"""Einsum by its equation: a weight that is a matrix, a product of two tensors, a transposition."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.contraction import Contraction, contraction_rule
from onnxsqueeze.operators.linear.rule import linear_rule
from onnxsqueeze.operators.linear.view import constant_weight, linear_view
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal, ScoreRows
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.weight_view import Linear


def _refusal(node: Node) -> Refusal:
    return Refusal(Reason.UNKNOWN_OPERATOR, f"Einsum {node.attributes.get('equation', '')}")


def _letters(node: Node, context: Context) -> tuple[list[str], str] | None:
    """Return the letters of each operand and of the output, "..." spelled out; None if one stands twice in a term."""
    equation = str(node.attributes.get("equation", "")).replace(" ", "")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        return None
    free = "".join(letter for letter in string.ascii_letters if letter not in equation)
    dots = max(context.rank(name) - len(term.replace("...", "")) for term, name in zip(terms, node.inputs, strict=True))
    spelled = []
    for term, name in zip(terms, node.inputs, strict=True):
        own = context.rank(name) - len(term.replace("...", "")) if "..." in term else 0
        spelled.append(term.replace("...", free[dots - own : dots] if own else ""))
    if arrow:
        output = output.replace("...", free[:dots] if "..." in left else "")
    else:
        once = sorted(letter for letter in set("".join(terms)) - {"."} if "".join(terms).count(letter) == 1)
        output = (free[:dots] if "..." in left else "") + "".join(once)
    ranks = [context.rank(name) for name in (*node.inputs, node.outputs[0])]
    fits = [len(letters) for letters in (*spelled, output)] == ranks
    single = all(len(set(letters)) == len(letters) for letters in (*spelled, output))
    return (spelled, output) if fits and single and set(output) <= set("".join(spelled)) else None


def _axes(node: Node, context: Context) -> Contraction | Refusal:
    found = _letters(node, context)
    if found is None or len(found[0]) != 2:
        return _refusal(node)
    return Contraction(found[0][0], found[0][1], found[1])


@linear_view
def _matrix(node: Node, context: Context) -> Linear | Refusal:
    """View an Einsum that replaces one axis of its data by the other one of a constant matrix."""
    found = _axes(node, context)
    if isinstance(found, Refusal):
        return found
    position = 0 if context.value(node.inputs[0]) is not None else 1
    weight = constant_weight(node, context, position)
    if isinstance(weight, Refusal):
        return weight
    data, own = found.operands[1 - position], found.operands[position]
    read, made = [x for x in own if x not in found.output], [x for x in own if x not in data]
    others = set(data) - set(own)
    if len(own) != 2 or len(read) != 1 or len(made) != 1 or read[0] not in data or not others <= set(found.output):
        return Refusal(Reason.UNKNOWN_SHAPE, _refusal(node).detail)
    if context.shape(node.inputs[1 - position])[data.index(read[0])] != weight.shape[own.index(read[0])]:
        return Refusal(Reason.UNKNOWN_SHAPE, _refusal(node).detail)
    out_first = own.index(made[0]) == 0
    return Linear(
        data=node.inputs[1 - position],
        weight=node.inputs[position],
        bias="",
        bias_position=-1,
        position=position,
        data_axis=data.index(read[0]),
        output_axis=found.output.index(made[0]),
        matrix=(weight if out_first else weight.T)[None, :, :, None],
        zero_padded=False,
        restore=lambda array: array[0, :, :, 0] if out_first else array[0, :, :, 0].T,
    )


def _order(node: Node, context: Context) -> list[int] | None:
    """Return the axes of the only operand in the output's order, None where it does not just transpose."""
    found = _letters(node, context)
    if found is None or len(found[0]) != 1 or set(found[0][0]) != set(found[1]):
        return None
    return [found[0][0].index(letter) for letter in found[1]]


def _transposed(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    order = _order(node, context)
    assert order is not None
    moved: npt.NDArray[Any] = array.transpose(order)
    return moved


def _transpose_forward(node: Node, context: Context) -> Sequence[Interval]:
    interval = context.interval(node.inputs[0])
    return [Interval(_transposed(node, context, interval.lower), _transposed(node, context, interval.upper))]


def _transpose_link(node: Node, context: Context) -> None:
    """Varying axes may change places, so that rows may not keep different positions."""
    context.elements.ids[node.outputs[0]] = _transposed(node, context, context.ids(node.inputs[0]))
    context.elements.strict.update((node.inputs[0], node.outputs[0]))


def _transpose_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    order = _order(node, context)
    assert order is not None
    return [Demand(outputs[0].transpose(np.argsort(order)))]


_TRANSPOSES = OpRule(
    "Einsum",
    applies=lambda node, context: None if _order(node, context) is not None else _refusal(node),
    forward=_transpose_forward,
    link=_transpose_link,
    need=_transpose_need,
)
_MULTIPLIES = contraction_rule("Einsum", _axes)
_BY_MATRIX = linear_rule("Einsum", _matrix)


def _choose(node: Node, context: Context) -> OpRule:
    if len(node.inputs) == 1:
        return _TRANSPOSES
    if len(node.inputs) != 2:
        return _MULTIPLIES
    found = _matrix(node, context)
    matrix = isinstance(found, Linear) or found.reason in (Reason.NOT_FINITE, Reason.UNSUPPORTED_DTYPE)
    return _BY_MATRIX if matrix else _MULTIPLIES


def _value(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    wide = [array.astype(np.float64) if array.dtype.kind in "fV" else array for array in inputs]
    return [np.asarray(np.einsum(str(node.attributes["equation"]), *wide)).astype(inputs[0].dtype)]


register(
    OpRule(
        "Einsum",
        since=12,
        evaluate=_value,
        dispatch=_choose,
        variants=(_TRANSPOSES, _MULTIPLIES, _BY_MATRIX),
        rows=ScoreRows(finite=lambda node, context: True),
    )
)
