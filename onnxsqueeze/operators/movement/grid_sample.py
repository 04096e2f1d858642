"""GridSample: an image read at computed places, each channel by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.abstract.interval import Interval, collapse, constant_interval, hull, outward
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.registry import register

_CUBIC = ("cubic", "bicubic")
_ROUNDED = 1e-5  # relative: a sum of at most eight products


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """A value lies between those that it is interpolated from, and 0 where places outside the image count as that."""
    image = collapse(context.interval(node.inputs[0]), range(2, context.rank(node.inputs[0])))
    if node.attributes.get("mode") in _CUBIC:  # some weights are negative: only of zeros it is known what they make
        bound = np.where(image.constant & (image.lower == 0), 0.0, np.inf)
        return [Interval(-bound, bound)]
    if node.attributes.get("padding_mode", "zeros") == "zeros":
        image = hull([image, constant_interval(np.zeros(image.lower.shape))])
    return [outward(image.lower, image.upper, image.constant, _ROUNDED)]


def _link(node: Node, context: Context) -> None:
    """Channels stay at their places; along space nothing can go."""
    ids = context.ids(node.inputs[0])
    context.elements.ids[node.outputs[0]] = context.elements.merge(ids, tuple(range(2, ids.ndim)))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """Of the image what is needed of the output; of the grid all, as it is."""
    everything = np.full((), True)
    return [Demand(outputs[0]), Demand(everything, everything, Reason.CONSTANT_READ, "the grid of GridSample")]


register(OpRule("GridSample", since=16, forward=_forward, link=_link, need=_need))
