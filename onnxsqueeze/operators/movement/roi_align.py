"""RoiAlign: regions of an image read at interpolated places, each channel by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, constant_interval, hull, outward
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.registry import register

_ROUNDED = 1e-5  # relative: a mean of interpolated values
_OTHERS = (0, 2, 3)  # the axes of the image and of the output but that of the channels


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """A value lies between those that it is interpolated from, and 0: that is read outside of the image."""
    image = collapse(context.interval(node.inputs[0]), _OTHERS)
    image = hull([image, constant_interval(np.zeros(image.lower.shape))])
    return [outward(image.lower, image.upper, image.constant, _ROUNDED)]


def _link(node: Node, context: Context) -> None:
    """Channels stay at their places; regions stand where the images did."""
    name, elements = node.inputs[0], context.elements
    ids = elements.merge(context.ids(name), _OTHERS)
    if context.is_activation(name):
        elements.ids[name] = ids
    elements.ids[node.outputs[0]] = ids


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """Of the image what is needed of the output; of the regions and their numbers all, as it is."""
    everything = np.full((), True)
    regions = Demand(everything, everything, Reason.CONSTANT_READ, "the regions of RoiAlign")
    return [Demand(any_along(outputs[0], _OTHERS, keepdims=True)), regions, regions]


register(OpRule("RoiAlign", since=10, forward=_forward, link=_link, need=_need))
