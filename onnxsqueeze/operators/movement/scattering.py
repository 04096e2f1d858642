"""ScatterElements and ScatterND: updates written over data at computed places, each channel by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, enclosing, hull
from onnxsqueeze.abstract.specials import ANY, Specials, where
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.passing import mixed_specials
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait

_MOST_ELEMENTS = 1 << 20  # of constants alone that are told apart


def _written(node: Node, context: Context) -> tuple[int, ...] | None:
    """Return the axes of the data along which places are chosen; None where their number is not known."""
    rank = context.rank(node.inputs[0])
    if node.op != "ScatterND":
        return (int(node.attributes.get("axis", 0)) % max(1, rank),)
    count = context.shape(node.inputs[1])[-1]
    return tuple(range(count)) if isinstance(count, int) else None


def _beside(node: Node, context: Context, position: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a compact array over an input as one of the data's rank, with length 1 along the axes written to."""
    axes = _written(node, context)
    assert axes is not None
    if node.op != "ScatterND" or position == 0:
        return array
    trailing = array.shape[context.rank(node.inputs[1]) - 1 :]
    return array.reshape((1,) * len(axes) + trailing)


def _collapsed_axes(node: Node, context: Context, position: int) -> tuple[int, ...]:
    """Return the axes of the data or the updates along which nothing is told apart."""
    axes = _written(node, context)
    assert axes is not None
    return axes if node.op != "ScatterND" or position == 0 else tuple(range(context.rank(node.inputs[1]) - 1))


def _operands(node: Node) -> tuple[int, ...]:
    """Return the inputs whose channels lie beside the output's: ScatterElements has indices for each channel too."""
    return (0, 2) if node.op == "ScatterND" else (0, 1, 2)


def _applies(node: Node, context: Context) -> Refusal | None:
    """Along the other axes data, indices and updates must lie side by side wherever their elements are told apart."""
    axes, rank = _written(node, context), context.rank(node.inputs[0])
    if axes is None:
        return Refusal(Reason.UNKNOWN_SHAPE, node.inputs[1])
    if len(axes) >= rank:
        return Refusal(Reason.SINGLE_ELEMENTS, node.op)
    if node.op == "ScatterND":
        return None  # whole slices are written
    shapes = [context.shape(name) for name in node.inputs]
    for axis in set(range(rank)) - set(axes):
        told = [array.shape[axis] for array in _told_apart(node, context)]
        if any(length > 1 for length in told) and len({shape[axis] for shape in shapes}) > 1:
            return Refusal(Reason.UNKNOWN_SHAPE, f"{node.op} to a part")
    return None


def _told_apart(node: Node, context: Context) -> list[npt.NDArray[Any]]:
    names = [node.inputs[position] for position in _operands(node)]
    return [context.ids(name) for name in names] + [context.interval(name).lower for name in names]


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """What is written over is one or the other; what is added or multiplied keeps a sign or a zero at most."""
    data, updates = (
        collapse(context.interval(node.inputs[position]), _collapsed_axes(node, context, position))
        for position in (0, 2)
    )
    updates = Interval(*(_beside(node, context, 2, bound) for bound in (updates.lower, updates.upper)))
    reduction = node.attributes.get("reduction", "none")
    if reduction == "add":
        lower = np.where(updates.lower >= 0, data.lower, -np.inf)
        return [enclosing(lower, np.where(updates.upper <= 0, data.upper, np.inf))]
    if reduction == "mul":
        lower = np.where((data.lower >= 0) & (updates.lower >= 0), 0.0, -np.inf)
        return [enclosing(lower, np.full(lower.shape, np.inf))]
    return [hull([data, updates])]


def _specials(node: Node, context: Context) -> Sequence[Specials | None]:
    """Data and updates lie side by side; what is added or multiplied to data meets it."""
    (found,) = mixed_specials(node, context)
    met = node.attributes.get("reduction", "none") in ("add", "mul")
    return [where(found > 0, ANY) if met and found is not None else found]


def _link(node: Node, context: Context) -> None:
    """Each channel of the output is made from the same channel of all that is computed; constants are sliced."""
    elements, found = context.elements, []
    for position in _operands(node):
        name = node.inputs[position]
        if context.is_activation(name):
            ids = elements.merge(context.ids(name), _collapsed_axes(node, context, position))
            elements.ids[name] = ids
            found.append(_beside(node, context, position, ids))
    if not found:
        shape = np.broadcast_shapes(*(bounds.lower.shape for bounds in _forward(node, context)))
        whole = np.prod(shape, dtype=np.float64) <= _MOST_ELEMENTS
        found = [elements.fresh(shape if whole else (1,) * len(shape))]
    joined = found[0]
    for ids in found[1:]:
        joined = elements.union(joined, ids)
    elements.ids[node.outputs[0]] = joined
    if sum(length > 1 for length in joined.shape) > 1:
        elements.strict.update((node.outputs[0], *filter(context.is_activation, node.inputs)))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """A channel that stays needs all of its own: a constant that is written over in places is none any more."""
    everything, axes = np.full((), True), _collapsed_axes(node, context, 0)
    demands: list[Demand | None] = []
    for position, name in enumerate(node.inputs):
        if position not in _operands(node):
            demands.append(Demand(everything, everything, Reason.CONSTANT_READ, f"indices of {node.op}"))
            continue
        live = any_along(outputs[0], axes, keepdims=True)
        if position and node.op == "ScatterND":
            trailing = live.shape[len(axes) :]
            live = live.reshape((1,) * (context.rank(name) - len(trailing)) + trailing)
        demands.append(Demand(live, live, Reason.CONSTANT_READ, node.operator))
    return demands


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the constants as the channels are."""
    for position in _operands(node):
        name = node.inputs[position]
        value = None if context.is_activation(name) else context.value(name)
        if value is not None:
            sliced = rewriter.sliced(value, node.outputs[0])
            if sliced is not value:
                rewriter.set_constant(node, position, sliced)


register(
    *(
        OpRule(
            op,
            since=since,
            applies=_applies,
            forward=_forward,
            specials=_specials,
            link=_link,
            need=_need,
            repair=_repair,
            traits=frozenset({Trait.BESIDE}),
        )
        for op, since in (("Scatter", 9), ("ScatterElements", 11), ("ScatterND", 11))
    )
)
