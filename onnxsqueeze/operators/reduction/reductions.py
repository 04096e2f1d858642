"""ReduceMean, ReduceSum, ReduceMax, ReduceMin and the norms, over positions and over channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, Floats, any_along
from onnxsqueeze.abstract.interval import Interval, enclosing, outward
from onnxsqueeze.abstract.specials import (
    ANY,
    GAPS,
    NAN,
    NEGATIVE,
    POSITIVE,
    Specials,
    along,
    either,
    has,
    where,
    without,
)
from onnxsqueeze.abstract.symbolic import Symbolic, product
from onnxsqueeze.coupling.constraints import NotEmpty, Rows
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.passing import mixed_specials
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter

_LINEAR = ("ReduceMean", "ReduceSum")
_ZERO_IS_NOTHING = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")


def _axes(node: Node, context: Context) -> tuple[int, ...] | None:
    """Return the reduced axes, None where they are computed."""
    rank = context.rank(node.inputs[0])
    if node.input(1):
        given = context.integers(node.inputs[1])
        if given is None:
            return None
    else:
        given = node.attributes.get("axes")
    if not given:
        return () if node.attributes.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({int(axis) % rank for axis in given}))  # one that is named twice counts once


def _applies(node: Node, context: Context) -> Refusal | None:
    return None if _axes(node, context) is not None else Refusal(Reason.UNKNOWN_SHAPE, f"{node.op} over computed axes")


def _drop(node: Node, context: Context, array: Array) -> Array:
    """Remove the reduced axes, all of length 1, unless they are kept."""
    axes = _axes(node, context)
    assert axes is not None
    if node.attributes.get("keepdims", 1) == 1:
        return array
    return array.reshape([length for axis, length in enumerate(array.shape) if axis not in axes])


def _restore(node: Node, context: Context, array: Array) -> Array:
    axes = _axes(node, context)
    assert axes is not None
    return array if node.attributes.get("keepdims", 1) == 1 else np.expand_dims(array, axes)


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """A mean, maximum or minimum stays within the bounds of what it is taken of; a sum needs their number.

    A norm is never negative.
    """
    axes, interval = _axes(node, context), context.interval(node.inputs[0])
    assert axes is not None
    if node.op in ("ReduceMean", "ReduceMax", "ReduceMin"):
        lower, upper = _extremes(node.op, interval, axes)
        reconstructible = None
        if (
            node.op == "ReduceMean"
            and interval.reconstructible is not None
            and all(interval.reconstructible.shape[axis] == 1 for axis in axes)
        ):
            reconstructible = _drop(node, context, interval.reconstructible)
        return [Interval(_drop(node, context, lower), _drop(node, context, upper), reconstructible)]
    if node.op == "ReduceSum":
        summed = _sum(interval, axes, context.shape(node.inputs[0]))
        return [Interval(_drop(node, context, summed.lower), _drop(node, context, summed.upper))]
    zeros = interval.constant & (interval.lower == 0)
    known = zeros.all(axis=axes, keepdims=True) & (node.op in _ZERO_IS_NOTHING)
    if node.op == "ReduceProd":
        known = any_along(zeros, axes, keepdims=True)
    least = 0.0 if node.op in _ZERO_IS_NOTHING else -np.inf
    bound = enclosing(np.where(known, 0.0, least), np.where(known, 0.0, np.inf))
    return [Interval(_drop(node, context, bound.lower), _drop(node, context, bound.upper))]


def _specials(node: Node, context: Context) -> Sequence[Specials | None]:
    """A sum takes up what is special; the greatest of a row is minus infinity only where all of the row is."""
    flags, axes = context.special(node.inputs[0]), _axes(node, context)
    if flags is None:
        return [None]
    if axes is None:
        return mixed_specials(node, context)
    found = along(flags, axes)
    if node.op in ("ReduceMax", "ReduceLogSumExp"):
        found = found if node.index in context.tested else without(found, GAPS)
    elif node.op == "ReduceMin":
        throughout = ~any_along(~has(flags, POSITIVE), axes, keepdims=True)
        found = either([without(found, POSITIVE), where(throughout, POSITIVE)])
    elif node.op in _LINEAR:
        found = either([found, where(has(found, NEGATIVE, GAPS) & has(found, POSITIVE), NAN)])
    else:
        found = where(found > 0, ANY)
    return [_drop(node, context, found)]


def _extremes(op: str, interval: Interval, axes: tuple[int, ...]) -> tuple[Floats, Floats]:
    if op == "ReduceMax":
        return interval.lower.max(axis=axes, keepdims=True), interval.upper.max(axis=axes, keepdims=True)
    if op == "ReduceMin":
        return interval.lower.min(axis=axes, keepdims=True), interval.upper.min(axis=axes, keepdims=True)
    constant = interval.constant.all(axis=axes, keepdims=True)
    mean = np.where(
        constant, np.where(np.isfinite(interval.lower), interval.lower, 0.0).mean(axis=axes, keepdims=True), 0.0
    )
    lower, upper = interval.lower.min(axis=axes, keepdims=True), interval.upper.max(axis=axes, keepdims=True)
    return np.where(constant, mean, lower), np.where(constant, mean, upper)


def _sum(interval: Interval, axes: tuple[int, ...], shape: Sequence[object]) -> Interval:
    """Sum bounds over static axes; over dynamic ones only zeros and signs survive."""
    alike = [axis for axis in axes if interval.lower.shape[axis] == 1 or isinstance(shape[axis], Symbolic)]
    count = product(tuple(shape[axis] for axis in alike))  # type: ignore[misc]
    lower, upper = interval.lower.sum(axis=axes, keepdims=True), interval.upper.sum(axis=axes, keepdims=True)
    constant = ~any_along(~interval.constant, axes, keepdims=True)
    if isinstance(count, Symbolic):
        lower, upper = np.where(lower >= 0, 0.0, -np.inf), np.where(upper <= 0, 0.0, np.inf)
        zero = (interval.constant & (interval.lower == 0)).all(axis=axes, keepdims=True)
        return Interval(np.where(zero, 0.0, lower), np.where(zero, 0.0, upper))
    return outward(lower * float(count), upper * float(count), constant, 1e-5)


def _link(node: Node, context: Context) -> None:
    """Classes along a reduced axis end here; those along others go on, and stand for what was reduced into them."""
    axes, name, elements = _axes(node, context), node.inputs[0], context.elements
    assert axes is not None
    ids = context.ids(name)
    reduced = tuple(axis for axis in axes if ids.shape[axis] > 1)
    if not reduced:
        elements.ids[node.outputs[0]] = _drop(node, context, ids)
        return
    rest = elements.fresh(tuple(1 if axis in reduced else length for axis, length in enumerate(ids.shape)))
    elements.ids[node.outputs[0]] = _drop(node, context, rest)
    if rest.size == 1:
        elements.constraints.append(NotEmpty(ids, rest))
        return
    elements.constraints.append(Rows(rest, ids, reduced, rest))
    elements.strict.add(name)


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """All reduced elements are read; a constant among them is absorbed by a mean and a sum, a zero by a norm."""
    axes, name = _axes(node, context), node.inputs[0]
    assert axes is not None
    live = _restore(node, context, outputs[0])
    ids = context.ids(name)
    if all(ids.shape[axis] == 1 for axis in axes):
        return [Demand(live), None]
    interval = context.interval(name)
    absorbed = (
        interval.constant & (interval.lower == 0)
        if node.op in _ZERO_IS_NOTHING
        else np.zeros(interval.lower.shape, bool)
    )
    if node.op in _LINEAR and _count(node, context) is not None and not _repeats_elsewhere(node, context, interval):
        absorbed = interval.constant
    elif node.op in ("ReduceMax", "ReduceMin"):
        absorbed = interval.constant & ~_seen(node.op, interval, axes)
    hold = np.broadcast_arrays(live, interval.constant & ~absorbed)
    return [Demand(live, hold[0] & hold[1], Reason.CONSTANT_READ, node.op), None]


def _repeats_elsewhere(node: Node, context: Context, interval: Interval) -> bool:
    """Whether constants are known by one period of another axis whose length is not."""
    sizes = zip(interval.lower.shape, context.shape(node.inputs[0]), strict=True)
    return any(length > 1 and isinstance(size, Symbolic) for length, size in sizes)


def _seen(op: str, interval: Interval, axes: tuple[int, ...]) -> Bools:
    """Mark the constant that a maximum (or minimum) can see behind all others, at each place that is not reduced.

    It sees none where something that varies, and so stays, is never below it.
    """
    lower, upper = (interval.lower, interval.upper) if op == "ReduceMax" else (-interval.upper, -interval.lower)
    values = _along_last(np.where(interval.constant, lower, -np.inf), axes)
    varying = _along_last(np.where(interval.constant, -np.inf, lower), axes)
    place = values.argmax(axis=-1, keepdims=True)
    largest = np.take_along_axis(values, place, axis=-1)
    seen = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(seen, place, largest > varying.max(axis=-1, keepdims=True), axis=-1)
    kept = [axis for axis in range(lower.ndim) if axis not in axes]
    moved = seen.reshape([lower.shape[axis] for axis in (*kept, *axes)])
    return np.asarray(moved.transpose(np.argsort([*kept, *axes])))


def _along_last(array: Floats, axes: tuple[int, ...]) -> Floats:
    """Return an array with the reduced axes as one, which is the last."""
    kept = [axis for axis in range(array.ndim) if axis not in axes]
    moved: Floats = array.transpose([*kept, *axes])
    return moved.reshape(*(array.shape[axis] for axis in kept), -1)


def _count(node: Node, context: Context) -> int | None:
    """Return the number of reduced elements, None where it is dynamic."""
    axes = _axes(node, context)
    assert axes is not None
    count = product(tuple(context.shape(node.inputs[0])[axis] for axis in axes))
    return None if isinstance(count, Symbolic) else count


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """A mean over fewer elements is rescaled to the original number; removed constants are added."""
    axes, name = _axes(node, context), node.inputs[0]
    assert axes is not None
    if node.op not in _LINEAR or all(rewriter.new_length(name, axis) is None for axis in axes):
        return
    mask, interval, count = rewriter.mask(name), context.interval(name), _count(node, context)
    shape = np.broadcast_shapes(mask.shape, interval.lower.shape)
    stays = np.broadcast_to(mask, shape)
    repeat = product(tuple(size for axis, size in enumerate(context.shape(name)) if axis in axes and shape[axis] == 1))
    constants = np.where(stays, 0.0, np.nan_to_num(np.broadcast_to(interval.lower, shape), neginf=0.0))
    removed = constants.sum(axis=axes, keepdims=True)  # the constants may differ along the other axes
    others = tuple(axis for axis in range(len(shape)) if axis not in axes)
    for axis in others:  # of which some places may be gone altogether
        if mask.shape[axis] > 1:
            along = tuple(other for other in range(len(shape)) if other != axis)
            removed = np.compress(stays.any(axis=along), removed, axis=axis)
    dtype = rewriter.dtype(name)
    if removed.any():
        assert not isinstance(repeat, Symbolic)
        total = _drop(node, context, removed * repeat / (count if node.op == "ReduceMean" and count else 1))
        rewriter.insert_after(node, "Add", [None, (total if total.size > 1 else total.reshape(())).astype(dtype)])
    if node.op == "ReduceMean":
        chosen = stays.any(axis=others)
        rewriter.insert_after(node, "Mul", [None, np.array(float(chosen.sum()) / chosen.size, dtype=dtype)])


def _carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    """A mean over other axes is linear, and adds up to 1."""
    axes = _axes(node, context)
    if node.op != "ReduceMean" or position != 0 or axes is None or axis in axes:
        return None
    return axis if node.attributes.get("keepdims", 1) == 1 else axis - sum(other < axis for other in axes)


register(
    *(
        OpRule(
            op,
            applies=_applies,
            forward=_forward,
            specials=_specials,
            link=_link,
            need=_need,
            repair=_repair,
            carries=_carries,
        )
        for op in (
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceProd",
            "ReduceLogSum",
            "ReduceLogSumExp",
        )
    )
)
