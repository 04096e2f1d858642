"""DynamicQuantizeLinear: encodes by a scale that it measures, from the least to the largest element and 0.

Any element may be the one that sets the scale, so that whether others read it says nothing: what is removed has to be
unable to. That is 0, which the range holds anyway, and whatever lies within what is reached for certain: from the least
of all upper bounds to the largest of all lower bounds, 0 included. One channel that reaches each end stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, Floats, any_along
from onnxsqueeze.abstract.interval import Interval, bounded
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.registry import register

_CODES = 255.0
_NONE = np.full((), False)


def _bounds(node: Node, context: Context) -> Sequence[Interval]:
    rank = context.rank(node.inputs[0])
    return [bounded(0.0, _CODES, rank), bounded(0.0, np.inf, 0), bounded(0.0, _CODES, 0)][: len(node.outputs)]


def _link(node: Node, context: Context) -> None:
    """The codes stand where the numbers do; scale and zero point are one number each."""
    codes, *numbers = node.outputs
    if codes:
        context.elements.ids[codes] = context.ids(node.inputs[0])
    for name in filter(None, numbers):
        context.elements.ids[name] = context.elements.fresh(())


def measured(interval: Interval, live: Bools = _NONE) -> tuple[Bools, Bools]:
    """Return what of all that is encoded together could set the scale, and what else keeps others from it.

    Nothing else has to where one that could reaches an end for certain; else one element does for each end, of those
    that are ``live`` if there are such.
    """
    lower, upper = _within(interval.lower, np.inf), _within(interval.upper, -np.inf)
    ends = [(upper, upper.min(initial=0.0)), (lower, lower.max(initial=0.0))]
    inside = (lower >= ends[0][1]) & (upper <= ends[1][1])
    inside, live = np.broadcast_arrays(inside, live)
    witnesses = np.zeros(inside.shape, bool)
    for bound, end in ends:
        reach = np.broadcast_to((bound == end) & (end != 0), inside.shape)
        if reach.any() and not (reach & ~inside).any():
            witnesses.flat[np.argmax(reach & live if (reach & live).any() else reach)] = True
    return ~inside, witnesses


def _within(bound: Floats, side: float) -> Floats:
    """Return a bound of numbers in float32, which are all that is measured, as the nearest of these inside."""
    with np.errstate(all="ignore"):
        near = bound.astype(np.float32)
        near = np.where((near - bound) * side < 0, np.nextafter(near, np.float32(side)), near)
        return np.where(np.isfinite(near), near.astype(np.float64), bound)


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    live = outputs[0] if node.outputs[0] else np.full((1,) * context.rank(node.inputs[0]), False)
    if not any(any_along(output, tuple(range(output.ndim))) for output in outputs):
        return [Demand(live)]
    extreme, ends = measured(context.interval(node.inputs[0]), live)
    return [Demand(live | extreme | ends, extreme | ends, Reason.MEASURED, node.operator)]


register(OpRule("DynamicQuantizeLinear", forward=_bounds, link=_link, need=_need))
