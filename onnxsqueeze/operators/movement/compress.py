"""Compress: the positions along an axis that a condition chooses, by a constant one among channels, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.movement.index_copies import Positions, index_selection_rule
from onnxsqueeze.rules.contract import Context, Refusal
from onnxsqueeze.rules.queries import known_axis, told_apart
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter


def _axis(node: Node, context: Context) -> int:
    return int(node.attributes["axis"]) % max(1, context.rank(node.inputs[0]))


def _copied(node: Node, context: Context) -> list[Positions | None]:
    """Return the chosen positions; of a computed condition none is known, and along its axis nothing varies."""
    condition = context.value(node.inputs[1])
    return [{} if condition is None else {_axis(node, context): np.flatnonzero(condition)}]


def _applies(node: Node, context: Context) -> Refusal | None:
    """Without an axis the elements are one row; a computed condition must not choose among channels."""
    if "axis" not in node.attributes:
        return Refusal(Reason.UNKNOWN_SHAPE, "Compress of all elements")
    name, axis = node.inputs[0], _axis(node, context)
    told = told_apart(context, name, axis)
    if context.value(node.inputs[1]) is None and told:
        return Refusal(Reason.UNKNOWN_SHAPE, "Compress by a computed condition")
    if not context.is_activation(name) or (known_axis(context, name, axis) is None and told):
        return Refusal(Reason.UNKNOWN_SHAPE, "Compress")
    return None


def _value(node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    axis = node.attributes.get("axis")
    return [np.compress(inputs[1], inputs[0], axis=axis)]


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """The condition is sliced as what it chooses among; a position that is chosen stays with its copy."""
    axis = _axis(node, context)
    condition = context.value(node.inputs[1])
    if condition is None or rewriter.new_length(node.inputs[0], axis) is None:
        return
    kept = rewriter.positions(node.inputs[0], axis)
    whole = np.pad(condition, (0, len(kept) - len(condition)))  # what is missing at its end is not chosen
    rewriter.set_constant(node, 1, whole[kept])


register(index_selection_rule("Compress", _copied, _repair, _value, _applies, since=9))
