"""Trilu: zeros on one side of a diagonal of each matrix, as causal linear attention writes them over its scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, constant_interval, hull
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.registry import register


def _matrix(node: Node, context: Context) -> tuple[int, int]:
    """Return the two axes of the matrices."""
    rank = context.rank(node.inputs[0])
    return rank - 2, rank - 1


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """An element is what it was, or 0."""
    found = collapse(context.interval(node.inputs[0]), _matrix(node, context))
    return [hull([found, constant_interval(np.zeros(found.lower.shape))])]


def _link(node: Node, context: Context) -> None:
    """Of a matrix all or nothing stays: it depends on the places in it what is zero."""
    elements = context.elements
    elements.ids[node.outputs[0]] = elements.merge(context.ids(node.inputs[0]), _matrix(node, context))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    everything = np.full((), True)
    diagonal = Demand(everything, everything, Reason.CONSTANT_READ, f"the diagonal of {node.op}")
    return [Demand(any_along(outputs[0], _matrix(node, context), keepdims=True)), diagonal]


register(OpRule("Trilu", since=14, forward=_forward, link=_link, need=_need))
