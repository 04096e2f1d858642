"""Softmax of products of queries and keys, and what is added to them: intervals and demands of any such operator.

A product makes no difference where it is 0, and also where the keys are one constant at all positions: that adds one
number to all scores of a query, which softmax cancels. Rows of probabilities sum to 1, so that a constant among the
values is what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.abstract.interval import Interval, hull, outward
from onnxsqueeze.abstract.specials import ANY, NAN, POSITIVE, Specials, has
from onnxsqueeze.coupling.constraint import Classes
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, SpecialValues
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.score_rows import LARGEST_CANCELLED

Scores = tuple[tuple[int, int], ...]
"""(input position, axis) of each input that has one entry for each head."""


def cancelled_products(queries: Interval, keys: Interval, groups: tuple[int, int], cancels: bool) -> Bools:
    """Return which products q k make no difference to the probabilities, as [groups, heads per group, size]."""
    zero = (queries.lower == 0) & (queries.upper == 0)
    moderate = keys.constant & (np.abs(keys.lower) <= LARGEST_CANCELLED)
    alike = moderate if cancels else (keys.lower == 0) & (keys.upper == 0)
    return np.asarray(zero.reshape(*groups, -1) | alike[:, None, :])


def mean(values: Interval, averages: bool, relative: float) -> Interval:
    """Bound a mean of values by the values; without ``averages`` it may also be 0."""
    if not averages:
        values = hull([values, Interval(np.zeros(values.lower.shape), np.zeros(values.lower.shape))])
    return outward(values.lower, values.upper, values.constant, relative)


def slack(context: Context, name: str) -> float:
    """Return how far a mean may lie, by rounding, outside of what it is the mean of (relative)."""
    return 1e-5 if context.dtypes[name] in (TensorProto.FLOAT, TensorProto.DOUBLE) else 2.0**-7


def masked_specials(mask: int) -> SpecialValues:
    """Return what becomes of special values where the input at a position is added to the scores.

    Minus infinity there masks. A query that is masked as a whole counts as in a softmax: only before a test of the
    network's own.
    """

    def specials(node: Node, context: Context) -> Sequence[Specials | None]:
        flags = {position: context.special(name) for position, name in enumerate(node.inputs) if name}
        masks = flags.pop(mask, None)
        lost = any(each is not None for each in flags.values())
        if masks is not None:
            lost = lost or node.index in context.tested or bool(has(masks, POSITIVE, NAN).any())
        return [np.full((1,) * context.rank(name), ANY) if lost else None for name in node.outputs]

    return specials


def reading_specials(node: Node, context: Context, demands: Sequence[Demand | None]) -> list[Demand | None]:
    """Return demands with all that may be infinite or NaN: not even a product with 0 does without it."""
    found = [context.special(name) if name else None for name in node.inputs]
    return [
        demand if demand is None or flags is None else replace(demand, live=demand.live | (flags > 0))
        for demand, flags in zip(demands, found, strict=True)
    ]


def per_head(context: Context, node: Node, position: int, axis: int) -> Scores:
    """Return an input that has one entry for each head along an axis, counted from the end, as (position, axis).

    Returns nothing where it is absent or the same for all heads.
    """
    shape = context.shapes.get(node.input(position), ())
    return ((position, len(shape) - axis),) if len(shape) >= axis and shape[len(shape) - axis] != 1 else ()


def head_classes(node: Node, context: Context, groups: tuple[int, int], position: int, axis: int) -> Classes | None:
    """Return the classes of a computed input that has one entry for each head; a constant is sliced as it is."""
    name = node.inputs[position]
    if not context.is_activation(name):
        return None
    others = tuple(other for other in range(context.rank(name)) if other != axis)
    ids = context.elements.ids[name] = context.elements.merge(context.ids(name), others)
    return np.broadcast_to(ids.ravel(), (groups[0] * groups[1],)).reshape(groups)


def scores_demand(node: Node, context: Context, position: int, axis: int, heads: Bools) -> Demand:
    """Return what is needed of an input that has one entry for each head along an axis."""
    shape = [1] * context.rank(node.inputs[position])
    shape[axis] = -1
    return unless_constant(node, context, position, heads.reshape(shape))


def unless_constant(node: Node, context: Context, position: int, live: Bools) -> Demand:
    """A constant that makes a difference stays: nothing in the node could stand for it."""
    constant = context.interval(node.inputs[position]).constant
    return Demand(live, live & constant, Reason.CONSTANT_READ, node.operator)


def everything(node: Node) -> Demand:
    """Return the demand for an input of which nothing may leave."""
    whole = np.full((), True)
    return Demand(whole, whole, Reason.CONSTANT_READ, node.operator)


def slice_scores(node: Node, context: Context, rewriter: Rewriter, scores: Scores, heads: Bools) -> None:
    """Slice the constants that have one entry for each head."""
    for position, axis in scores:
        array = context.value(node.inputs[position])
        if array is not None and not heads.all():
            rewriter.set_constant(node, position, np.compress(heads, array, axis=axis))
