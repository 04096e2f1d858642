"""RemovePadding and RestorePadding of com.microsoft: tokens in one row, without those that fill up sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, constant_interval, hull, rearranged, top
from onnxsqueeze.abstract.symbolic import Shape, symbol
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.queries import held_sizes
from onnxsqueeze.rules.registry import register

_DOMAIN = "com.microsoft"


def _row(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a compact array [1, 1, C] as one over packed tokens."""
    return array.reshape(1, -1)


def _removed_shapes(node: Node, context: Context) -> Sequence[Shape | None]:
    """Packed tokens, the places of all tokens, where each sequence starts, and the length of the longest."""
    shape = context.shapes.get(node.inputs[0])
    if shape is None or len(shape) != 3:
        return [None] * len(node.outputs)
    starts = shape[0] + 1
    return [(symbol(f"{node.outputs[0]}:0"), shape[2]), (shape[0], shape[1]), (starts,), (1,)][: len(node.outputs)]


def _removed_types(node: Node, context: Context) -> Sequence[int | None]:
    return [None, *(TensorProto.INT32 for _ in node.outputs[1:])]


def _removed_forward(node: Node, context: Context) -> Sequence[Interval]:
    interval = collapse(context.interval(node.inputs[0]), (0, 1))
    return [rearranged(interval, _row), *(top(context.rank(name)) for name in node.outputs[1:])]


def _removed_link(node: Node, context: Context) -> None:
    elements, name = context.elements, node.inputs[0]
    ids = elements.ids[name] = elements.merge(context.ids(name), (0, 1))
    elements.ids[node.outputs[0]] = _row(ids)
    for output in filter(None, node.outputs[1:]):
        elements.ids[output] = elements.fresh((1,) * context.rank(output))


def _removed_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    return [Demand(outputs[0][None]), *held_sizes(node)[1:]]


def _restored_shape(node: Node, context: Context) -> Sequence[Shape | None]:
    shape, places = (context.shapes.get(name) for name in node.inputs)
    return [None if shape is None or places is None or len(places) != 2 else (*places, shape[1])]


def _restored_forward(node: Node, context: Context) -> Sequence[Interval]:
    """Tokens that fill up a sequence are zeros."""
    interval = collapse(context.interval(node.inputs[0]), (0,))
    zeros = constant_interval(np.zeros(interval.lower.shape))
    return [rearranged(hull([interval, zeros]), lambda array: array[None])]


def _restored_link(node: Node, context: Context) -> None:
    elements, name = context.elements, node.inputs[0]
    ids = elements.ids[name] = elements.merge(context.ids(name), (0,))
    elements.ids[node.outputs[0]] = ids[None]


def _restored_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """A constant that zeros are put beside is none any more, so that it stays where it is needed."""
    live = any_along(outputs[0], (0, 1)).reshape(1, -1)
    interval = context.interval(node.inputs[0])
    varies = live & interval.constant & (interval.lower != 0)
    return [Demand(live, varies, Reason.CONSTANT_VARIES, node.operator), *held_sizes(node)[1:]]


register(
    OpRule(
        "RemovePadding",
        _DOMAIN,
        infer=_removed_shapes,
        element_type=_removed_types,
        forward=_removed_forward,
        link=_removed_link,
        need=_removed_need,
        carries=lambda node, context, position, axis: 1 if position == 0 and axis == 2 else None,
    ),
    OpRule(
        "RestorePadding",
        _DOMAIN,
        infer=_restored_shape,
        forward=_restored_forward,
        link=_restored_link,
        need=_restored_need,
    ),
)
