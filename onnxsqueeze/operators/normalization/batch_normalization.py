"""BatchNormalization at inference: a constant affine map of each channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Floats, all_finite, fits
from onnxsqueeze.abstract.interval import Interval, outward, sum_is_unsure
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, OpRule, Refusal
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import channel_parameters
from onnxsqueeze.rules.passing import pass_ids, pass_need
from onnxsqueeze.rules.queries import constant_vector
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter


def _applies(node: Node, context: Context) -> Refusal | None:
    if node.attributes.get("training_mode", 0) or sum(1 for name in node.outputs if name) > 1:
        return Refusal(Reason.UNKNOWN_OPERATOR, "BatchNormalization in training mode")
    if not node.attributes.get("spatial", 1):
        return Refusal(Reason.UNKNOWN_OPERATOR, "BatchNormalization per position")
    for name in node.inputs[1:5]:
        array = context.value(name)
        if array is None:
            return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
        if not all_finite(array):
            return Refusal(Reason.NOT_FINITE, name)
    return None if context.rank(node.inputs[0]) >= 2 else Refusal(Reason.UNKNOWN_SHAPE, node.operator)


def _affine(node: Node, context: Context) -> tuple[Floats, Floats]:
    """Return factor and summand of each channel: y = (x - mean) / sqrt(var + eps) * scale + bias."""
    scale, bias, mean, variance = (constant_vector(context, name) for name in node.inputs[1:5])
    assert scale is not None and bias is not None and mean is not None and variance is not None
    factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    shape = (1, -1) + (1,) * (context.rank(node.inputs[0]) - 2)
    return factor.reshape(shape), (bias - mean * factor).reshape(shape)


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    interval = context.interval(node.inputs[0])
    factor, summand = _affine(node, context)
    ends = [np.where(factor == 0, 0.0, factor * bound) + summand for bound in (interval.lower, interval.upper)]
    sum_is_zero = sum_is_unsure(ends[0], np.abs(summand)) & (factor != 0)
    return [outward(np.minimum(*ends), np.maximum(*ends), (interval.constant & ~sum_is_zero) | (factor == 0), 1e-5)]


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the parameters; a vector handed on by the producer moves the mean."""
    kept = rewriter.positions(node.inputs[0], 1)
    taken = rewriter.deferred_offset(node.inputs[0])
    for position in range(1, 5):
        array = context.value(node.inputs[position])
        assert array is not None
        sliced = array[kept]
        if position == 3 and taken is not None:
            moved = sliced.astype(np.float64) - taken.vector
            rewriter.check_finite(moved, array.dtype, taken.lesson)
            sliced = moved.astype(array.dtype)
        elif kept.all():
            continue
        rewriter.set_constant(node, position, sliced)


def _adopts(node: Node, context: Context, rewriter: Rewriter, axis: int, vector: Floats) -> bool:
    bias = rewriter.constant_at(node, 2)
    if bias is None or axis != 1:
        return False
    total = bias.astype(np.float64) + vector
    if not fits(total, bias.dtype):
        return False
    rewriter.set_constant(node, 2, total.astype(bias.dtype))
    return True


def _absorbs(node: Node, context: Context, position: int, axis: int) -> bool:
    return position == 0 and axis == 1 and _applies(node, context) is None


register(
    OpRule(
        "BatchNormalization",
        since=7,
        applies=_applies,
        forward=_forward,
        link=pass_ids,
        need=pass_need,
        repair=_repair,
        absorbs=_absorbs,
        adopts=_adopts,
        parameters=channel_parameters((1, Role.FACTOR), (2, Role.SUMMAND), (3, Role.OPERAND), (4, Role.OPERAND)),
    )
)
