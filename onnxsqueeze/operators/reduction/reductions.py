"""ReduceMean, ReduceSum, ReduceMax, ReduceMin and the norms, over positions and over channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, Floats, any_along
from onnxsqueeze.abstract.interval import Interval, enclosing, outward
from onnxsqueeze.abstract.symbolic import Symbolic, product
from onnxsqueeze.coupling.constraints import NotEmpty
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
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
    zero = (interval.constant & (interval.lower == 0)).all(axis=axes, keepdims=True)
    known = zero & (node.op in _ZERO_IS_NOTHING)
    least = 0.0 if node.op in _ZERO_IS_NOTHING else -np.inf
    bound = enclosing(np.where(known, 0.0, least), np.where(known, 0.0, np.inf))
    return [Interval(_drop(node, context, bound.lower), _drop(node, context, bound.upper))]


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
    """Classes along a reduced axis end here; those along others go on."""
    axes, name, elements = _axes(node, context), node.inputs[0], context.elements
    assert axes is not None
    ids = context.ids(name)
    if all(ids.shape[axis] == 1 for axis in axes):
        elements.ids[node.outputs[0]] = _drop(node, context, ids)
        return
    others = tuple(axis for axis in range(ids.ndim) if axis not in axes)
    ids = elements.merge(ids, others)
    elements.ids[name] = ids
    output = elements.fresh((1,) * context.rank(node.outputs[0]))
    elements.ids[node.outputs[0]] = output
    elements.constraints.append(NotEmpty(ids, output))


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
    elif node.op in ("ReduceMax", "ReduceMin") and not _varies_elsewhere(interval, axes):
        absorbed = interval.constant & ~_extreme(node.op, interval)
    hold = np.broadcast_arrays(live, interval.constant & ~absorbed)
    return [Demand(live, hold[0] & hold[1], Reason.CONSTANT_READ, node.op), None]


def _repeats_elsewhere(node: Node, context: Context, interval: Interval) -> bool:
    """Whether constants are known by one period of another axis whose length is not."""
    sizes = zip(interval.lower.shape, context.shape(node.inputs[0]), strict=True)
    return any(length > 1 and isinstance(size, Symbolic) for length, size in sizes)


def _varies_elsewhere(interval: Interval, axes: tuple[int, ...]) -> bool:
    return any(length > 1 for axis, length in enumerate(interval.lower.shape) if axis not in axes)


def _extreme(op: str, interval: Interval) -> Bools:
    """Mark the one constant that a maximum or minimum can see behind all the others."""
    sign = 1.0 if op == "ReduceMax" else -1.0
    place = np.argmax(np.where(interval.constant, sign * interval.lower, -np.inf))
    chosen = np.zeros(interval.lower.size, dtype=bool)
    chosen[place] = True
    return chosen.reshape(interval.lower.shape)


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
    gone = ~np.broadcast_to(mask, shape)
    repeat = product(tuple(size for axis, size in enumerate(context.shape(name)) if axis in axes and shape[axis] == 1))
    constants = np.where(gone, np.nan_to_num(np.broadcast_to(interval.lower, shape), neginf=0.0), 0.0)
    removed = constants.sum(axis=axes, keepdims=True)  # the constants may differ along the other axes
    dtype = rewriter.dtype(name)
    if removed.any():
        assert not isinstance(repeat, Symbolic)
        total = _drop(node, context, removed * repeat / (count if node.op == "ReduceMean" and count else 1))
        rewriter.insert_after(node, "Add", [None, (total if total.size > 1 else total.reshape(())).astype(dtype)])
    if node.op == "ReduceMean":
        factor = float((~gone).sum()) / gone.size
        rewriter.insert_after(node, "Mul", [None, np.array(factor, dtype=dtype)])


def _carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    """A mean over other axes is linear, and adds up to 1."""
    axes = _axes(node, context)
    if node.op != "ReduceMean" or position != 0 or axes is None or axis in axes:
        return None
    return axis if node.attributes.get("keepdims", 1) == 1 else axis - sum(other < axis for other in axes)


register(
    *(
        OpRule(op, applies=_applies, forward=_forward, link=_link, need=_need, repair=_repair, carries=_carries)
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
