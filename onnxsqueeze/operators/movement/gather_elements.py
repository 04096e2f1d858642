"""GatherElements along an axis on which nothing varies: each channel has numbers of its own for what it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.queries import told_apart
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait


def _axis(node: Node, rank: int) -> int:
    return int(node.attributes.get("axis", 0)) % max(1, rank)


def _value(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    """Along the other axes the numbers may be fewer than the data."""
    data, indices = inputs
    axis = _axis(node, data.ndim)
    part = data[tuple(slice(None if place == axis else length) for place, length in enumerate(indices.shape))]
    return [np.take_along_axis(part, indices.astype(np.int64) % data.shape[axis], axis=axis)]


def _applies(node: Node, context: Context) -> Refusal | None:
    """Along the other axes numbers and data must lie side by side wherever their elements are told apart."""
    data, indices = node.inputs[:2]
    if not context.is_activation(data):
        return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.op} from a constant")
    axis, ids = _axis(node, context.rank(data)), context.ids(data)
    if told_apart(context, data, axis):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.op} along axis {axis}")
    shapes = zip(context.shape(data), context.shape(indices), strict=True)
    apart = [place for place, (own, other) in enumerate(shapes) if own != other and place != axis]
    told = [array.shape for array in (ids, context.ids(indices), context.interval(data).lower)]
    if any(shape[place] > 1 for place in apart for shape in told):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.op} of a part")
    return None


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    return [context.interval(node.inputs[0])]


def _link(node: Node, context: Context) -> None:
    elements, (data, indices) = context.elements, node.inputs[:2]
    ids, computed = context.ids(data), context.is_activation(indices)
    elements.ids[node.outputs[0]] = elements.union(ids, context.ids(indices)) if computed else ids


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    return [Demand(outputs[0]), Demand(outputs[0])]


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice constant numbers as the channels are."""
    indices = context.value(node.inputs[1])
    if indices is not None:
        rewriter.set_constant(node, 1, rewriter.sliced(indices, node.outputs[0]))


register(
    OpRule(
        "GatherElements",
        evaluate=_value,
        applies=_applies,
        forward=_forward,
        link=_link,
        need=_need,
        repair=_repair,
        traits=frozenset({Trait.BESIDE, Trait.CARRIES_OVER}),
    )
)
