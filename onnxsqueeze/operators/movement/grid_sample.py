"""GridSample: an image read at computed places, each channel by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, constant_interval, hull, outward
from onnxsqueeze.coupling.constraints import Broadcast
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
    """Channels stay at their places; along space nothing can go.

    Where heads lie in one axis with the batch, as in deformable attention, each has its own grid: both leave together.
    """
    elements, (image, grid) = context.elements, node.inputs[:2]
    ids = elements.merge(context.ids(image), tuple(range(2, context.rank(image))))
    if _by_head(node, context):
        places = elements.merge(context.ids(grid), tuple(range(1, context.rank(grid))))
        elements.ids[grid] = places
        elements.constraints.append(Broadcast(places, ids, tuple(range(1, ids.ndim))))
        elements.strict.update((image, node.outputs[0]))
    else:
        ids = elements.merge(ids, (0,))
    elements.ids[node.outputs[0]] = ids


def _by_head(node: Node, context: Context) -> bool:
    """Whether images and grids are told apart along the first axis, as many of each."""
    image, grid = node.inputs[:2]
    if not (context.is_activation(image) and context.is_activation(grid)):
        return False
    count = context.ids(image).shape[0]
    return count > 1 and context.ids(grid).shape[0] == count and context.rank(grid) == context.rank(image)


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """Of the image what is needed of the output; of the grid all, as it is, or all of the heads that are needed."""
    read = np.full((), True)
    if _by_head(node, context):
        read = any_along(outputs[0], tuple(range(1, outputs[0].ndim)), keepdims=True)
    return [Demand(outputs[0]), Demand(read, read, Reason.CONSTANT_READ, "the grid of GridSample")]


register(OpRule("GridSample", since=16, forward=_forward, link=_link, need=_need))
