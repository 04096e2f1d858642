"""LpNormalization, and Normalizer of ai.onnx.ml: each vector is divided by its length, to which a zero adds nothing.

A vector of zeros stays one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.constraints import NotEmpty
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.channels import channel_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
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


def _rows_shape(node: Node, context: Context) -> Sequence[Shape | None]:
    """The standard has no inference for it; from float32 it makes float32, as from all other types."""
    known = context.dtypes.get(node.inputs[0]) == TensorProto.FLOAT
    return [context.shapes.get(node.inputs[0]) if known else None]


def _rows_apply(node: Node, context: Context) -> Refusal | None:
    """By the largest value of a row a zero may count: it may be the largest."""
    if node.attributes.get("norm", "MAX") not in ("L1", "L2"):
        return Refusal(Reason.NORMALISED, f"{node.operator} by the largest value")
    return None if context.rank(node.inputs[0]) else Refusal(Reason.UNKNOWN_SHAPE, node.operator)


_BY_LENGTH = OpRule("LpNormalization", forward=_forward, link=_link, need=_need)
register(
    _BY_LENGTH,
    replace(_BY_LENGTH, op="Normalizer", domain="ai.onnx.ml", infer=_rows_shape, applies=_rows_apply),
)
