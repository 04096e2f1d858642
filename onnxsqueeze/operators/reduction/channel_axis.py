"""Operators that compare, order or add up all that lies along one axis: ArgMax, ArgMin, TopK, CumSum, NonZero.

Over channels nothing can leave, since each of them counts. Over any other axis the channels pass through.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, top
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.queries import held_sizes
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.traits import Trait


def _axis(node: Node, context: Context) -> int | None:
    """Return the axis, None where it is computed."""
    rank = context.rank(node.inputs[0])
    if node.op == "CumSum":
        given = context.integers(node.inputs[1])
        return None if given is None else given[0] % rank
    return int(node.attributes.get("axis", -1 if node.op == "TopK" else 0)) % rank


def _known(node: Node, context: Context) -> int:
    axis = _axis(node, context)
    assert axis is not None
    return axis


def _applies(node: Node, context: Context) -> Refusal | None:
    if context.rank(node.inputs[0]) == 0 or _axis(node, context) is None:
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} along a computed axis")
    return None


def _dropped(node: Node, context: Context, array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Remove the axis, of length 1, if the output does not have it."""
    gone = context.rank(node.outputs[0]) < array.ndim
    return array.squeeze(_known(node, context)) if gone else array


def _link(node: Node, context: Context) -> None:
    """All that lies along the axis shares a class, and the others go on; the outputs have one where none are left."""
    ids, elements = context.ids(node.inputs[0]), context.elements
    merged = elements.merge(ids, (_known(node, context),))
    if merged.size < ids.size and merged.size == 1:
        merged = elements.fresh(merged.shape)
    for name in node.outputs:
        if name:
            elements.ids[name] = _dropped(node, context, merged)


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    name, axis = node.inputs[0], _known(node, context)
    live = np.logical_or.reduce(np.broadcast_arrays(*(mask for mask in outputs if mask.ndim)))
    if live.ndim < context.rank(name):
        live = np.expand_dims(live, axis)
    live = any_along(live, axis, keepdims=True)
    held = live if context.ids(name).shape[axis] > 1 else None
    return [Demand(live, held, Reason.COMPARED, f"{node.op} over axis {axis}"), *held_sizes(node)[1:]]


def _places(node: Node, context: Context) -> Sequence[Interval]:
    return [top(context.rank(name)) for name in node.outputs]


def _largest(node: Node, context: Context) -> Sequence[Interval]:
    """The values are some of those that were there."""
    return [collapse(context.interval(node.inputs[0]), (_known(node, context),)), top(context.rank(node.inputs[0]))]


def _sums(node: Node, context: Context) -> Sequence[Interval]:
    """Only zeros and signs survive being added up, from the first place on or after it."""
    interval = collapse(context.interval(node.inputs[0]), (_known(node, context),))
    return [Interval(np.where(interval.lower >= 0, 0.0, -np.inf), np.where(interval.upper <= 0, 0.0, np.inf))]


def _held(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    everything = np.full((), True)
    return [Demand(everything, everything, Reason.COMPARED, node.op)]


register(
    *(OpRule(op, applies=_applies, forward=_places, link=_link, need=_need) for op in ("ArgMax", "ArgMin")),
    OpRule(
        "TopK",
        applies=_applies,
        forward=_largest,
        link=_link,
        need=_need,
        traits=frozenset({Trait.CARRIES_OVER}),
    ),
    OpRule("CumSum", applies=_applies, forward=_sums, link=_link, need=_need),
    OpRule("NonZero", need=_held),
)
