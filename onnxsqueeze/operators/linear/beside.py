"""Layers read the other way round: they work along an axis that stays whole, and channels along the others pass them.

A layer's view knows one axis that the weight reads and one that it makes, and ties all that is told apart along the
others. Mixing tokens, x @ P over positions, or a constant adjacency, needs the opposite. Which reading is worth more is
known when the graph has been analysed (`onnxsqueeze.rules.lessons.PassBeside`), so that a layer has both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, Floats, aligned, any_along
from onnxsqueeze.abstract.interval import Interval, compact, enclosing, sum_is_unsure
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.bounds import bias_of
from onnxsqueeze.operators.linear.view import View
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.memo import view_or_error
from onnxsqueeze.rules.parameters import linear_parameters
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.weight_view import Linear

_MOST_ELEMENTS = 1 << 20  # of bounds that are worked out element by element
_FLOAT32_BYTES = 4


def _applies(view: View, node: Node, context: Context) -> Refusal | None:
    """Each position along the other axes must be read by itself: no kernel that slides over them."""
    found = view(node, context)
    if isinstance(found, Refusal):
        return found
    taps, strides = found.matrix.shape[3], node.attributes.get("strides", ())
    if found.groups > 1 or taps > 1 or found.zero_padded or any(step != 1 for step in strides):
        return Refusal(Reason.CONSTANT_VARIES, f"{node.operator} whose kernel slides over channels")
    return None


def _link(node: Node, context: Context, linear: Linear) -> None:
    """The axis that the layer reads, and the one that it makes, stay whole; all else goes on, in the same order."""
    elements = context.elements
    ids = elements.merge(context.ids(linear.data), (linear.data_axis,))
    elements.ids[linear.data] = ids
    passed = aligned(np.moveaxis(ids, linear.data_axis, -1), context.rank(node.outputs[0]))
    elements.ids[node.outputs[0]] = np.moveaxis(passed, -1, linear.output_axis)


def _forward(node: Node, context: Context, linear: Linear) -> Sequence[Interval]:
    """Bound the output channel by channel and position by position; of large tensors only zeros are told."""
    interval, rank = context.interval(linear.data), context.rank(node.outputs[0])
    lower, upper = (np.moveaxis(bound, linear.data_axis, -1) for bound in (interval.lower, interval.upper))
    weight, bias = linear.matrix[0, :, :, 0], [side.ravel() for side in bias_of(linear, context)]
    if max(lower[..., :1].size * weight.shape[0], lower[..., :1].size * weight.shape[1]) > _MOST_ELEMENTS:
        zero = ((lower == 0) & (upper == 0)).all(axis=-1, keepdims=True)
        found = enclosing(np.where(zero, bias[0].min(), -np.inf), np.where(zero, bias[1].max(), np.inf))
    else:
        found = _sums(weight.astype(np.float64) * linear.scale, lower, upper, bias, linear.matrix.dtype.itemsize)
    ends = (np.moveaxis(aligned(bound, rank), -1, linear.output_axis) for bound in (found.lower, found.upper))
    return [compact(Interval(*ends))]


def _sums(weight: Floats, lower: Floats, upper: Floats, bias: Sequence[Floats], itemsize: int) -> Interval:
    """Return the bounds of products with a weight [out, in], of a tensor whose last axis is read (or of length 1)."""
    shape = (*lower.shape[:-1], weight.shape[1])
    lower, upper = np.broadcast_to(lower, shape), np.broadcast_to(upper, shape)
    positive, negative = np.maximum(weight, 0.0).T, np.minimum(weight, 0.0).T
    low, high = np.where(np.isfinite(lower), lower, 0.0), np.where(np.isfinite(upper), upper, 0.0)
    least, most = low @ positive + high @ negative + bias[0], high @ positive + low @ negative + bias[1]
    terms = np.maximum(np.abs(low), np.abs(high)) @ np.abs(weight).T + np.maximum(*map(np.abs, bias))
    no_lower, no_upper = np.isneginf(lower) * 1.0, np.isposinf(upper) * 1.0
    above, below = (positive > 0) * 1.0, (negative < 0) * 1.0
    open_above = (no_upper @ above + no_lower @ below) > 0
    open_below = (no_lower @ above + no_upper @ below) > 0
    varies = ((lower != upper) | ~np.isfinite(lower)) * 1.0
    constant = ((varies @ np.abs(np.sign(weight)).T) == 0) & (bias[0] == bias[1]) & ~sum_is_unsure(least, terms)
    epsilon = float(np.finfo(np.float32).eps) if itemsize >= _FLOAT32_BYTES else 2.0**-7
    slack = epsilon * (weight.shape[1] + 2) * terms
    tiny = np.finfo(np.float64).tiny  # rounding must not make a constant of what varies
    found_low = np.where(constant, least, np.where(open_below, -np.inf, least - slack - tiny))
    found_high = np.where(constant, least, np.where(open_above, np.inf, most + slack + tiny))
    return enclosing(found_low, found_high)


def _need(node: Node, context: Context, linear: Linear, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """A needed channel is read at all positions along the axis that the layer reads, as it is."""
    live = np.moveaxis(any_along(outputs[0], linear.output_axis, keepdims=True), linear.output_axis, -1)
    live = live.reshape(live.shape[live.ndim - context.rank(linear.data) :])
    live = np.moveaxis(live, -1, linear.data_axis)
    demand = Demand(live, live & context.interval(linear.data).constant, Reason.CONSTANT_READ, node.operator)
    return [demand if name == linear.data else None for name in node.inputs]


def _repair(node: Node, context: Context, rewriter: Rewriter, linear: Linear) -> None:
    """Slice a bias that has entries of its own along the axes beside the layer's, as Gemm's may."""
    name = node.input(linear.bias_position) if linear.bias_position >= 0 else ""
    bias = context.value(name)
    if bias is not None and bias.ndim == context.rank(node.outputs[0]):
        sliced = rewriter.sliced(bias, node.outputs[0])
        if sliced is not bias:
            rewriter.set_constant(node, linear.bias_position, sliced)


def beside_rule(op: str, view: View) -> OpRule:
    """Return the rule of a layer that lets channels along other axes pass, from the function that views its node."""
    viewed = view_or_error(view)
    return OpRule(
        op,
        applies=lambda node, context: _applies(view, node, context),
        forward=lambda node, context: _forward(node, context, viewed(node, context)),
        link=lambda node, context: _link(node, context, viewed(node, context)),
        need=lambda node, context, outputs: _need(node, context, viewed(node, context), outputs),
        repair=lambda node, context, rewriter: _repair(node, context, rewriter, viewed(node, context)),
        parameters=lambda node, context: linear_parameters(node, context, viewed(node, context)),
    )
