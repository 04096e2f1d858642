"""Concat: parts side by side along an axis, each narrowed on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.abstract.interval import Interval, collapse, compact, hull
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.movement.index_copies import with_length
from onnxsqueeze.rules.channels import own_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.kept import Kept
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.queries import known_axis
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait


def _concat_axis(node: Node, context: Context) -> int:
    return int(node.attributes["axis"]) % context.rank(node.outputs[0])


def _concat_applies(node: Node, context: Context) -> Refusal | None:
    """Along an axis of unknown length the parts cannot be told apart, unless nothing varies along it."""
    axis = _concat_axis(node, context)
    varies = any(context.is_activation(name) and context.ids(name).shape[axis] > 1 for name in node.inputs)
    unknown_length = any(known_axis(context, name, axis) is None for name in node.inputs)
    return Refusal(Reason.UNKNOWN_SHAPE, node.operator) if varies and unknown_length else None


def _together(node: Node, context: Context) -> bool:
    """Whether the parts are laid side by side along an axis whose positions are told apart."""
    axis = _concat_axis(node, context)
    lengths = [known_axis(context, name, axis) for name in node.inputs]
    return None not in lengths and sum(length or 0 for length in lengths) <= _MOST_POSITIONS


_MOST_POSITIONS = 1 << 16


def _parts(node: Node, context: Context, arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Lay compact arrays side by side, each repeated to its own length along the axis."""
    axis = _concat_axis(node, context)
    shape = list(np.broadcast_shapes(*(with_length(array.shape, axis, 1) for array in arrays)))
    spread = []
    for name, array in zip(node.inputs, arrays, strict=True):
        shape[axis] = int(context.shape(name)[axis])  # type: ignore[arg-type]
        spread.append(np.broadcast_to(array, shape))
    return np.concatenate(spread, axis=axis)


def _concat_forward(node: Node, context: Context) -> Sequence[Interval]:
    intervals = [context.interval(name) for name in node.inputs]
    if not _together(node, context):
        axis = _concat_axis(node, context)
        return [hull(collapse(interval, (axis,)) for interval in intervals)]
    lower, upper = (
        _parts(node, context, bounds) for bounds in ([f.lower for f in intervals], [f.upper for f in intervals])
    )
    reconstructible = [
        np.broadcast_to(f.reconstructible, f.lower.shape) for f in intervals if f.reconstructible is not None
    ]
    exact = _parts(node, context, [np.zeros(f.lower.shape, bool) if f.exact is None else f.exact for f in intervals])
    if len(reconstructible) < len(intervals) or not _rearranges(node, context):
        return [compact(Interval(lower, upper, exact=exact))]
    return [compact(Interval(lower, upper, _parts(node, context, reconstructible), exact))]


def _rearranges(node: Node, context: Context) -> bool:
    """Whether all parts are pieces of one tensor, its axes in one order: a window that was rolled, for one."""
    return len({_origin(name, context) for name in node.inputs}) == 1


def _origin(name: str, context: Context) -> tuple[str, tuple[int | None, ...]]:
    """Return the tensor that a piece was cut from, and which of the piece's axes each of its axes became."""
    steps = []
    while (producer := context.graph.producers.get(name)) is not None:
        carries = context.rules[producer.index].carries
        if carries is None:
            break
        steps.append((producer, carries))
        name = producer.inputs[0]
    axes: list[int | None] = list(range(context.rank(name)))
    for producer, carries in reversed(steps):
        axes = [None if axis is None else carries(producer, context, 0, axis) for axis in axes]
    return name, tuple(axes)


def _carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    return axis if axis != _concat_axis(node, context) and _rearranges(node, context) else None


def _concat_ids(node: Node, context: Context) -> list[npt.NDArray[np.int64]]:
    """Return the classes of the parts; a constant part gets some of its own, told apart where the others are."""
    axis, together = _concat_axis(node, context), _together(node, context)
    given = [context.ids(name) for name in node.inputs if context.is_activation(name)]
    others = np.broadcast_shapes(*(with_length(ids.shape, axis, 1) for ids in given)) if together else ()
    found = []
    for position, name in enumerate(node.inputs):
        if context.is_activation(name):
            found.append(context.ids(name))
        else:
            length = known_axis(context, name, axis) if together else 1
            found.append(own_ids(node, context, position, _own_shape(context.rank(name), axis, length or 1, others)))
    return found


def _own_shape(rank: int, axis: int, length: int, others: tuple[int, ...]) -> tuple[int, ...]:
    """Return along which axes a constant part is told apart: along the others alone where that were too many."""
    if not others or math.prod(others) == 1:
        return with_length((1,) * rank, axis, length)
    return with_length(others, axis, length if length * math.prod(others) <= _MOST_POSITIONS else 1)


def _concat_link(node: Node, context: Context) -> None:
    """Along the axis the parts keep their own classes; across it they share them."""
    axis, elements = _concat_axis(node, context), context.elements
    arrays = _concat_ids(node, context)
    if not _together(node, context):
        joined = arrays[0]
        for array in arrays[1:]:
            joined = elements.union(joined, array)
        elements.ids[node.outputs[0]] = joined
        return
    if all(array.shape[axis] == 1 and np.array_equal(array, arrays[0]) for array in arrays):
        elements.ids[node.outputs[0]] = arrays[0]
        return
    if any(length > 1 for array in arrays for place, length in enumerate(array.shape) if place != axis):
        elements.strict.add(node.outputs[0])  # rows that keep different positions could not be laid side by side
        elements.strict.update(name for name in node.inputs if context.is_activation(name))
    elements.ids[node.outputs[0]] = _parts(node, context, arrays)
    _tie_other_axes(node, context, arrays, axis)


def _tie_other_axes(node: Node, context: Context, arrays: Sequence[npt.NDArray[np.int64]], axis: int) -> None:
    """A part along whose other axes nothing varies cannot follow when another part is narrowed there."""
    whole = np.broadcast_shapes(*(with_length(array.shape, axis, 1) for array in arrays))
    for array in arrays:
        if with_length(array.shape, axis, 1) != whole:
            for other in arrays:
                context.elements.merge(other, tuple(a for a in range(other.ndim) if a != axis))


def _concat_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    axis = _concat_axis(node, context)
    if not _together(node, context):
        return [Demand(outputs[0]) for _ in node.inputs]
    lengths = [int(context.shape(name)[axis]) for name in node.inputs]  # type: ignore[arg-type]
    full = np.broadcast_to(outputs[0], with_length(outputs[0].shape, axis, sum(lengths)))
    return [Demand(part) for part in np.split(full, np.cumsum(lengths)[:-1], axis=axis)]


def _concat_repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """A part of which nothing stays is left out; a constant part is sliced as its place in the output says."""
    axis, output = _concat_axis(node, context), node.outputs[0]
    if not _together(node, context):
        return
    mask = rewriter.mask(output)
    lengths = [int(context.shape(name)[axis]) for name in node.inputs]  # type: ignore[arg-type]
    full = np.broadcast_to(mask, with_length(mask.shape, axis, sum(lengths)))
    parts = np.split(full, np.cumsum(lengths)[:-1], axis=axis)
    gone = []
    for position, (name, part) in enumerate(zip(node.inputs, parts, strict=True)):
        if not part.any():
            gone.append(position)
        elif not context.is_activation(name) and not part.all():
            value = context.value(name)
            assert value is not None
            for place in range(value.ndim):
                others = tuple(other for other in range(part.ndim) if other != place)
                if part.shape[place] > 1:
                    value = np.compress(part.any(axis=others), value, axis=place)
            rewriter.set_constant(node, position, value)
    if len(gone) == len(node.inputs) - 1:
        rewriter.bypass(node, next(place for place in range(len(node.inputs)) if place not in gone))
        return
    rewriter.drop_inputs(node, gone)


def _concat_sliced(node: Node, context: Context, kept: Kept) -> Sequence[Kept | None] | None:
    """Each part keeps what is kept of its place in the output; one of which nothing stays would have to fall away."""
    axis, found, start = _concat_axis(node, context), [], 0
    for name in node.inputs:
        length = known_axis(context, name, axis)
        chosen = kept[axis]
        if length is None or (chosen is not None and not chosen[start : start + length].any()):
            return None
        part = None if chosen is None else chosen[start : start + length]
        found.append(tuple(part if place == axis else entry for place, entry in enumerate(kept)))
        start += length
    return found


def _concat_parameters(node: Node, context: Context) -> Sequence[Parameter]:
    """A constant part has the classes of its place in the output."""
    ids, axis, found, start = context.ids(node.outputs[0]), _concat_axis(node, context), [], 0
    for position, name in enumerate(node.inputs):
        length = known_axis(context, name, axis)
        if length is None:
            return ()
        if not context.is_activation(name):
            part = ids if ids.shape[axis] == 1 else np.take(ids, np.arange(start, start + length), axis=axis)
            found.append(Parameter(name, position, Role.SUMMAND, (part,)))
        start += length
    return found


register(
    OpRule(
        "Concat",
        since=4,
        evaluate=lambda node, inputs: [np.concatenate(inputs, axis=int(node.attributes["axis"]))],
        applies=_concat_applies,
        forward=_concat_forward,
        link=_concat_link,
        need=_concat_need,
        repair=_concat_repair,
        carries=_carries,
        sliced_from=_concat_sliced,
        traits=frozenset({Trait.JOINS}),
        parameters=_concat_parameters,
        alignment=lambda node, context: (1, 16 if _concat_axis(node, context) == 1 else 1),
    )
)
