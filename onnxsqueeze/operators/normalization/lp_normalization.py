"""LpNormalization: each vector is divided by its length, to which a zero adds nothing. A vector of zeros stays one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.constraints import NotEmpty
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.channels import channel_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.registry import register

_LONGEST = 1.01


def _axis(node: Node, context: Context) -> int:
    return int(node.attributes.get("axis", -1)) % context.rank(node.inputs[0])


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """No element is longer than the whole, but for rounding; zero stays zero, also in a vector of zeros."""
    interval = context.interval(node.inputs[0])
    return [Interval(np.where(interval.lower >= 0, 0.0, -_LONGEST), np.where(interval.upper <= 0, 0.0, _LONGEST))]


def _link(node: Node, context: Context) -> None:
    name = node.inputs[0]
    ids = channel_ids(context, name, _axis(node, context))
    context.elements.ids[node.outputs[0]] = context.ids(name)
    context.elements.constraints.append(NotEmpty(ids, context.ids(node.outputs[0])))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """Each element depends on the whole vector, where only a zero can be left out."""
    interval = context.interval(node.inputs[0])
    live = np.broadcast_to(
        any_along(outputs[0], _axis(node, context), keepdims=True),
        np.broadcast_shapes(outputs[0].shape, interval.lower.shape),
    )
    hold = live & interval.constant & (interval.lower != 0)
    return [Demand(live, hold, Reason.NORMALISED, node.operator)]


register(OpRule("LpNormalization", forward=_forward, link=_link, need=_need))
