"""One view of Conv, ConvTranspose, Gemm and MatMul: a constant weight as [groups, out, in, taps].

``out`` and ``in`` are counted per group. One view lets one piece of code bound, trace, slice and fold all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

import numpy as np

from onnxsqueeze.abstract.compact import Array, Floats, all_finite
from onnxsqueeze.abstract.floating import is_floating
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.channels import channel_constants
from onnxsqueeze.rules.codes import first_of_block
from onnxsqueeze.rules.contract import Context, Refusal
from onnxsqueeze.rules.memo import per_node
from onnxsqueeze.rules.weight_source import codes_of
from onnxsqueeze.rules.weight_view import Linear

View = Callable[[Node, Context], "Linear | Refusal"]


def linear_view(view: View) -> View:
    """Let a function view a node as linear once, and only where weights and biases are constant and finite."""

    @per_node
    @wraps(view)
    def checked(node: Node, context: Context) -> Linear | Refusal:
        found = view(node, context)
        return found if isinstance(found, Refusal) else _checked(found, context)

    return checked


def constant_weight(node: Node, context: Context, position: int) -> Array | Refusal:
    """Return the constant weight at an input, or why it cannot serve as one."""
    weight = context.value(node.input(position))
    if weight is None:
        return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
    if not is_floating(weight.dtype):
        return Refusal(Reason.UNSUPPORTED_DTYPE, f"{node.operator} {weight.dtype}")
    return weight


def _checked(linear: Linear, context: Context) -> Linear | Refusal:
    """Weights that are NaN or Inf would vanish with a dead unit: leave them alone."""
    if not all_finite(linear.matrix):
        return Refusal(Reason.NOT_FINITE, linear.weight)
    if linear.bias:
        bias = context.value(linear.bias)
        if bias is None:
            return Refusal(Reason.COMPUTED_WEIGHT, linear.bias)
        if not all_finite(bias):
            return Refusal(Reason.NOT_FINITE, linear.bias)
    codes = codes_of(context, linear.weight)
    if codes is not None and codes.block and linear.groups == 1 and codes.axis == linear.stored_axis(2):
        linear = replace(linear, together=first_of_block(linear.matrix.shape[2], codes.block))
    stored = linear.bias in context.graph.initializers or codes_of(context, linear.bias) is not None
    if linear.bias and not stored and not np.any(context.value(linear.bias)):
        return replace(linear, bias="", zero_bias=True)
    return linear


def constants(linear: Linear, context: Context) -> Floats:
    """Return the value of each input channel that is one constant at all positions, NaN elsewhere; [groups, in]."""
    return linear.per_group(channel_constants(context, linear.data, linear.data_axis), False)
