"""LayerNormalization and RMSNormalization over space alone, as of torch.nn.LayerNorm([H, W]): each channel by itself.

That is an instance normalization with a scale and a bias for each place, and what many exporters make of one: they
spell it in elementary operators, over the axes behind the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, compact
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.normalization.channels import axis_of, keeps_shape, statistics_refusal
from onnxsqueeze.operators.normalization.several_axes import parameters_refusal, whole_parameter
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import operand_parameters

_CHANNELS = 1


def covers_space(node: Node, context: Context) -> bool:
    """Whether a norm over an axis and all behind it is one over several axes, the channels not among them."""
    rank = context.rank(node.inputs[0])
    return rank > 0 and _CHANNELS < axis_of(node, context) < rank - 1


def _applies(node: Node, context: Context) -> Refusal | None:
    return statistics_refusal(node, context) or parameters_refusal(node, context, len(_axes(node, context)))


def _axes(node: Node, context: Context) -> tuple[int, ...]:
    """Return the normalised axes."""
    return tuple(range(axis_of(node, context), context.rank(node.inputs[0])))


def _forward(node: Node, context: Context, centred: bool) -> Sequence[Interval]:
    """What has no scale is its bias, and what is 0 everywhere; with a mean, what is one constant everywhere, too."""
    data = collapse(context.interval(node.inputs[0]), _axes(node, context))
    fixed = (whole_parameter(node, context, 1, 1.0) == 0) | (data.constant & (centred | (data.lower == 0)))
    bias = whole_parameter(node, context, 2, 0.0).astype(np.float64)
    return [compact(Interval(np.where(fixed, bias, -np.inf), np.where(fixed, bias, np.inf)))]


def _link(node: Node, context: Context) -> None:
    """Along the normalised axes nothing is told apart."""
    elements, name = context.elements, node.inputs[0]
    elements.ids[name] = elements.merge(context.ids(name), _axes(node, context))
    elements.ids[node.outputs[0]] = elements.ids[name]


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """Of a channel all is read."""
    return [Demand(any_along(outputs[0], _axes(node, context), keepdims=True)), *(None for _ in node.inputs[1:])]


def over_space(op: str, centred: bool) -> OpRule:
    """Return the rule of a norm with or without a mean, where it `covers_space`."""
    return OpRule(
        op,
        applies=_applies,
        forward=partial(_forward, centred=centred),
        link=_link,
        need=_need,
        infer=keeps_shape,
        parameters=operand_parameters(Role.SUMMAND if centred else Role.FACTOR),
    )
