"""InstanceNormalization: each channel of each sample by itself, so that a constant one becomes its bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, all_finite
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.channels import channel_bounds, channel_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import channel_parameters
from onnxsqueeze.rules.queries import constant_vector
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter


def _applies(node: Node, context: Context) -> Refusal | None:
    for name in node.inputs[1:3]:
        vector = constant_vector(context, name)
        if vector is None:
            return Refusal(Reason.COMPUTED_WEIGHT, name)
        if not all_finite(vector):
            return Refusal(Reason.NOT_FINITE, name)
    return None


def _shape(node: Node, context: Context) -> tuple[int, ...]:
    """Return the shape of a vector over the channels."""
    return (1, -1) + (1,) * (context.rank(node.inputs[0]) - 2)


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """A channel that is constant at all positions, or has no scale, is its bias."""
    scale, bias = (constant_vector(context, name) for name in node.inputs[1:3])
    assert scale is not None and bias is not None
    lower, upper = channel_bounds(context, node.inputs[0], 1)
    fixed = (scale == 0) | ((lower == upper) & np.isfinite(lower))
    shape = _shape(node, context)
    return [Interval(np.where(fixed, bias, -np.inf).reshape(shape), np.where(fixed, bias, np.inf).reshape(shape))]


def _link(node: Node, context: Context) -> None:
    channel_ids(context, node.inputs[0], 1)
    context.elements.ids[node.outputs[0]] = context.ids(node.inputs[0])


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """A channel that is constant, but not the same everywhere, cannot leave."""
    lower, upper = channel_bounds(context, node.inputs[0], 1)
    uneven = (lower != upper).reshape(_shape(node, context)) & context.interval(node.inputs[0]).constant
    return [Demand(outputs[0], outputs[0] & uneven, Reason.CONSTANT_VARIES, node.operator), None, None]


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    kept = rewriter.kept(node.inputs[0], 1)
    if kept.all():
        return
    for position, name in enumerate(node.inputs[1:3], start=1):
        array = context.value(name)
        assert array is not None
        rewriter.set_constant(node, position, array[kept])


register(
    OpRule(
        "InstanceNormalization",
        since=6,
        applies=_applies,
        forward=_forward,
        link=_link,
        need=_need,
        repair=_repair,
        parameters=channel_parameters((1, Role.FACTOR), (2, Role.SUMMAND)),
    )
)
