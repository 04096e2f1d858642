"""CenterCropPad: an image cropped or padded with zeros to a size; channels that are neither pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, constant_interval, hull
from onnxsqueeze.abstract.symbolic import Shape, Symbolic, symbol
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.queries import held_sizes
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.shapes.computed_shapes import repair_requested_shape


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """Sizes that are computed are those of some axes alone, if the node says which."""
    if node.inputs[0] not in context.shapes:
        return [None]
    sizes, shape = context.sizes(node.inputs[1]), list(context.shape(node.inputs[0]))
    axes = node.attributes.get("axes") or range(len(shape))
    found = [symbol(f"{node.outputs[0]}:{axis}") for axis in axes] if sizes is None else sizes
    for axis, size in zip(axes, found, strict=True):
        shape[axis % len(shape)] = size if isinstance(size, Symbolic) else int(size)
    return [tuple(shape)]


def _changed(node: Node, context: Context) -> tuple[int, ...]:
    """Return the axes of which the length changes, or may change."""
    shapes = (context.shape(node.inputs[0]), context.shape(node.outputs[0]))
    return tuple(axis for axis, (before, after) in enumerate(zip(*shapes, strict=True)) if before != after)


def _pads(node: Node, context: Context) -> bool:
    """Whether zeros may be added."""
    source, target = context.shape(node.inputs[0]), context.shape(node.outputs[0])
    pairs = [(source[axis], target[axis]) for axis in _changed(node, context)]
    return any(isinstance(a, Symbolic) or isinstance(b, Symbolic) or a < b for a, b in pairs)


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    interval = collapse(context.interval(node.inputs[0]), _changed(node, context))
    if not _pads(node, context):
        return [interval]
    return [hull([interval, constant_interval(np.zeros(interval.lower.shape))])]


def _link(node: Node, context: Context) -> None:
    """Along an axis that is cropped or padded nothing can go."""
    name, elements = node.inputs[0], context.elements
    ids = elements.merge(context.ids(name), _changed(node, context))
    if context.is_activation(name):
        elements.ids[name] = ids
    elements.ids[node.outputs[0]] = ids


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """A constant that zeros are put beside is none any more, so that it stays where it is needed."""
    live = any_along(outputs[0], _changed(node, context), keepdims=True)
    interval = context.interval(node.inputs[0])
    varies = live & interval.constant & (interval.lower != 0) if _pads(node, context) else None
    return [Demand(live, varies, Reason.CONSTANT_VARIES, node.operator), *held_sizes(node)[1:]]


register(
    OpRule(
        "CenterCropPad",
        since=18,
        infer=_infer,
        forward=_forward,
        link=_link,
        need=_need,
        repair=repair_requested_shape,
        shape_input=1,
        traits=frozenset({Trait.CARRIES_OVER}),
    )
)
