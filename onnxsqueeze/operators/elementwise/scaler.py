"""Scaler of ai.onnx.ml: each feature moved and scaled by constants of its own, which are attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxsqueeze.abstract.compact import Array, Floats, aligned
from onnxsqueeze.abstract.interval import Interval, outward
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, OpRule, Refusal
from onnxsqueeze.rules.passing import pass_need
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter

_ROUNDED = 1e-6  # relative: of a difference and a product in float32


def _vectors(node: Node) -> tuple[Floats, Floats]:
    """Return offset and scale, [features] or [1]."""
    given = (node.attributes.get(name, [default]) for name, default in (("offset", 0.0), ("scale", 1.0)))
    offset, scale = (np.asarray(values, dtype=np.float64) for values in given)
    return offset, scale


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """The standard has no inference for it; from float32 it makes float32, as from all other types."""
    if context.dtypes.get(node.inputs[0]) != TensorProto.FLOAT:
        return [None]
    return [context.shapes.get(node.inputs[0])]


def _applies(node: Node, context: Context) -> Refusal | None:
    if context.rank(node.inputs[0]) == 0 or not all(np.isfinite(vector).all() for vector in _vectors(node)):
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return None


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    interval, (offset, scale) = context.interval(node.inputs[0]), _vectors(node)
    rank = interval.lower.ndim
    offset, scale = aligned(offset, rank), aligned(scale, rank)
    ends = [np.where(scale == 0, 0.0, (bound - offset) * scale) for bound in (interval.lower, interval.upper)]
    lower, upper = np.minimum(*ends), np.maximum(*ends)
    constant = np.broadcast_to(interval.constant | (scale == 0), lower.shape)
    magnitude = np.abs(offset * scale) * _ROUNDED  # a small difference of large numbers
    return [outward(np.where(constant, lower, lower - magnitude), upper + magnitude, constant, _ROUNDED)]


def _value(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    offset, scale = _vectors(node)
    return [((inputs[0].astype(np.float64) - offset) * scale).astype(np.float32)]


def _link(node: Node, context: Context) -> None:
    """The constants tell the features apart where nothing else does."""
    ids, rank = context.ids(node.inputs[0]), context.rank(node.inputs[0])
    features = max(vector.size for vector in _vectors(node))
    context.elements.ids[node.outputs[0]] = np.broadcast_to(
        ids, np.broadcast_shapes(ids.shape, (1,) * (rank - 1) + (features,))
    )


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the attributes."""
    last = context.rank(node.outputs[0]) - 1
    if rewriter.new_length(node.outputs[0], last) is None:
        return
    kept = rewriter.kept(node.outputs[0], last)
    for name in ("offset", "scale"):
        values = node.attributes.get(name, ())
        if len(values) > 1:
            rewriter.set_attribute(node, name, [float(values[place]) for place in np.flatnonzero(kept)])


register(
    OpRule(
        "Scaler",
        "ai.onnx.ml",
        evaluate=_value,
        infer=_infer,
        applies=_applies,
        forward=_forward,
        link=_link,
        need=pass_need,
        repair=_repair,
    )
)
