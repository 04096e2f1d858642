"""DeformConv: a convolution whose kernel reads the image at computed places, between pixels, weighed by a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.bounds import bias_of
from onnxsqueeze.operators.linear.rule import linear_rule
from onnxsqueeze.operators.linear.view import constant_weight, constants, linear_view
from onnxsqueeze.operators.windows import window_shape
from onnxsqueeze.rules.contract import Context, Demand, Refusal
from onnxsqueeze.rules.memo import view_or_error
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.weight_view import Linear

_OFFSETS, _BIAS, _MASK = 2, 3, 4  # positions of inputs
_ROLES = {_OFFSETS: "offsets", _MASK: "mask"}


@linear_view
def _view(node: Node, context: Context) -> Linear | Refusal:
    """y[o] = b[o] + sum over i, t of W[o, i, t] m[t] x[i, position + t + offset[t]], per group.

    All channels are read at the same places, so that of constant ones one can stand for others, as behind padding.
    """
    weight = constant_weight(node, context, 1)
    if isinstance(weight, Refusal):
        return weight
    if int(node.attributes.get("offset_group", 1)) > 1:
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} whose channels are read at different places")
    if weight.size == 0 or context.rank(node.inputs[0]) != weight.ndim:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    out, inner, *kernel = weight.shape
    groups = int(node.attributes.get("group", 1))

    def restore(array: Array) -> Array:
        return array.reshape(-1, array.shape[2], *kernel)

    return Linear(
        data=node.inputs[0],
        weight=node.inputs[1],
        bias=node.input(_BIAS),
        position=1,
        data_axis=1,
        output_axis=1,
        matrix=weight.reshape(groups, out // groups, inner, -1),
        zero_padded=True,
        restore=restore,
        bias_position=_BIAS,
    )


_viewed = view_or_error(_view)


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Only what reads zeros alone is known: a mask may be any number."""
    linear = _viewed(node, context)
    zero = constants(linear, context) == 0
    reads = linear.reads.rows(~zero)
    lower, upper = bias_of(linear, context)
    shape = [1] * context.rank(node.outputs[0])
    shape[1] = -1
    return [Interval(np.where(reads, -np.inf, lower).reshape(shape), np.where(reads, np.inf, upper).reshape(shape))]


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    shape = context.shapes.get(node.inputs[1])
    kernel = [] if shape is None else [size for size in shape[2:] if isinstance(size, int)]
    return [None] if shape is None else window_shape(node, context, shape[0], kernel)


_AS_LAYER = linear_rule("DeformConv", _view, since=19)


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """Of the image as a layer needs it; of offsets and mask all, as it is."""
    everything = np.full((), True)
    demands = list(_AS_LAYER.need(node, context, outputs))
    for position, role in _ROLES.items():
        if node.input(position):
            demands[position] = Demand(everything, everything, Reason.CONSTANT_READ, f"the {role} of {node.operator}")
    return demands


register(replace(_AS_LAYER, forward=_forward, infer=_infer, need=_need))
