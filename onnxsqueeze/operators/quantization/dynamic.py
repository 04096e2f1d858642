"""DynamicQuantizeLinear: encodes by a scale that it measures, from the least to the largest element and 0.

Any element may be the one that sets the scale, so that whether others read it says nothing: what is removed has to be
unable to. That is 0, which the range holds anyway, and whatever lies between 0 and constants that stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, bounded
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.registry import register

_CODES = 255.0


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


def measured(interval: Interval) -> tuple[Bools, Bools]:
    """Return which elements of all that is encoded together could set the scale, and which keep others from it."""
    constant = interval.constant
    values = np.where(constant, interval.lower, 0.0)
    least, most = min(0.0, float(values.min(initial=0.0))), max(0.0, float(values.max(initial=0.0)))
    inside = (interval.lower >= least) & (interval.upper <= most)
    ends = constant & (((values == least) & (least < 0)) | ((values == most) & (most > 0)))
    return ~inside, ends


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    live = outputs[0] if node.outputs[0] else np.full((1,) * context.rank(node.inputs[0]), False)
    if not any(any_along(output, tuple(range(output.ndim))) for output in outputs):
        return [Demand(live)]
    extreme, ends = measured(context.interval(node.inputs[0]))
    return [Demand(live | extreme | ends, extreme | ends, Reason.MEASURED, node.operator)]


register(OpRule("DynamicQuantizeLinear", forward=_bounds, link=_link, need=_need))
