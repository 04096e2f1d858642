"""Operators of several tensors that broadcast against each other: one way to couple, slice and fold for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.helper import tensor_dtype_to_np_dtype

from onnxsqueeze.abstract.arithmetic import exactly
from onnxsqueeze.abstract.compact import Array, Bools, aligned, any_along
from onnxsqueeze.abstract.interval import Interval, top
from onnxsqueeze.abstract.symbolic import Dimension, Shape, Symbolic
from onnxsqueeze.coupling.constraints import Broadcast
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.passing import of_operands
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait

Combine = Callable[[Node, Sequence[Interval]], Interval]
Reads = Callable[[Node, Sequence[Interval]], "Sequence[Bools | None]"]


def aligned_interval(interval: Interval, rank: int) -> Interval:
    """Return a interval with leading axes of length 1 up to a rank."""
    exact = None if interval.exact is None else aligned(interval.exact, rank)
    return Interval(aligned(interval.lower, rank), aligned(interval.upper, rank), exact=exact)


def _padded_shape(context: Context, name: str, rank: int) -> tuple[Dimension, ...]:
    shape = context.shape(name)
    return (1,) * (rank - len(shape)) + tuple(shape)


def constant_operands(node: Node, context: Context) -> list[Array | None]:
    """Return for each input the constant that it may be replaced by, None where it is data.

    An activation found constant counts, unless the output takes a length from it that no other input gives, or it is
    known by one period of a length that is not.
    """
    rank = context.rank(node.outputs[0])
    operands = [context.operand(name) if name else None for name in node.inputs]
    data = [name for name, operand in zip(node.inputs, operands, strict=True) if name and operand is None]
    output = context.shape(node.outputs[0])
    for position, name in enumerate(node.inputs):
        operand = operands[position]
        if operand is None or context.value(name) is not None:
            continue
        compact = aligned(operand, rank).shape
        for axis, length in enumerate(_padded_shape(context, name, rank)):
            given = any(_padded_shape(context, other, rank)[axis] == output[axis] for other in data)
            repeats = isinstance(length, Symbolic) and compact[axis] > 1
            if repeats or (length != 1 and compact[axis] == 1 and not given):
                operands[position] = None
    return operands


def _clashes(context: Context, names: Sequence[str], rank: int) -> bool:
    """Whether it is unclear if two inputs are equally long or broadcast along an axis on which their classes vary."""
    for axis in range(rank):
        lengths = {_padded_shape(context, name, rank)[axis] for name in names} - {1}
        varies = any(aligned(context.ids(name), rank).shape[axis] > 1 for name in names)
        if varies and len(lengths) > 1:
            return True
    return False


def applies(node: Node, context: Context) -> Refusal | None:
    """Refuse where run-time sizes decide which input broadcasts."""
    operands = constant_operands(node, context)
    data = [name for name, operand in zip(node.inputs, operands, strict=True) if name and operand is None]
    data = [name for name in data if context.is_activation(name)]
    if _clashes(context, data, context.rank(node.outputs[0])):
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return None


def link(node: Node, context: Context) -> None:
    """Elements at equal positions share a class; one that broadcasts is tied to all that it meets."""
    elements, output = context.elements, node.outputs[0]
    rank = context.rank(output)
    operands = constant_operands(node, context)
    data = [name for name, operand in zip(node.inputs, operands, strict=True) if name and operand is None]
    full_axes = {name: _full_axes(context, name, output) for name in data}
    ids = _joined(context, data, full_axes, rank, _added_axes(context, data, operands, rank))
    elements.ids[output] = ids
    varying = [axis for axis in range(rank) if ids.shape[axis] > 1]
    for name in data:
        broadcast = tuple(axis for axis in varying if axis not in full_axes[name])
        if broadcast:
            elements.constraints.append(Broadcast(aligned(context.ids(name), rank), ids, broadcast))
            elements.strict.update([output, *(other for other in data if context.ids(other).size > 1)])
    for operand in operands:
        if operand is not None and operand.size > 1:
            shape = aligned(operand, rank).shape
            if any(shape[axis] == 1 for axis in varying) and any(shape[axis] > 1 for axis in varying):
                elements.strict.add(output)


def _full_axes(context: Context, name: str, output: str) -> set[int]:
    """Return the axes of the output along which an input does not broadcast."""
    shape = context.shape(output)
    own = _padded_shape(context, name, len(shape))
    return {axis for axis, length in enumerate(shape) if own[axis] == length}


def _added_axes(context: Context, data: Sequence[str], operands: Sequence[Array | None], rank: int) -> tuple[int, ...]:
    """Return the lengths of the axes along which only constants are longer than 1, which are then sliced; else 1."""
    lengths = [1] * rank
    for axis in range(rank) if data else ():
        if all(_padded_shape(context, name, rank)[axis] == 1 for name in data):
            lengths[axis] = max(
                (aligned(array, rank).shape[axis] for array in operands if array is not None), default=1
            )
    shapes = [aligned(context.ids(name), rank).shape for name in data]
    fits = np.prod(np.broadcast_shapes(tuple(lengths), *shapes), dtype=np.float64) <= _MOST_ADDED
    return tuple(lengths) if fits else (1,) * rank


_MOST_ADDED = 1 << 20  # elements that are told apart because a constant is longer than what it meets


def _joined(
    context: Context, data: Sequence[str], full_axes: dict[str, set[int]], rank: int, added: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """Unite the inputs that do not broadcast along any axis on which others vary; they give the output its classes."""
    arrays = {name: aligned(context.ids(name), rank) for name in data}
    if not arrays:
        return context.elements.fresh((1,) * rank)
    shapes = [added, *(array.shape for array in arrays.values())]
    varying = {axis for shape in shapes for axis in range(rank) if shape[axis] > 1}
    whole = [name for name in data if varying <= full_axes[name]]
    if not whole:
        return context.elements.fresh(np.broadcast_shapes(*shapes))
    joined = arrays[whole[0]]
    for name in whole[1:]:
        joined = context.elements.union(joined, arrays[name])
    return np.broadcast_to(joined, np.broadcast_shapes(*shapes))  # others may vary where these do not


def repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the constants; an activation that is constant becomes one."""
    output = node.outputs[0]
    for position, (name, operand) in enumerate(zip(node.inputs, constant_operands(node, context), strict=True)):
        if operand is None:
            continue
        sliced = rewriter.sliced(operand, output)
        if context.is_activation(name):
            rewriter.set_constant(node, position, sliced.astype(rewriter.dtype(name)))
        elif sliced is not operand:
            stored = name in context.graph.initializers
            rewriter.set_constant(node, position, sliced if stored else _shortest(sliced, operand))


def _shortest(sliced: Array, operand: Array) -> Array:
    """A computed constant that is the same along a narrowed axis is stored once: the data has that axis's length."""
    for axis in range(sliced.ndim):
        first = sliced[(slice(None),) * axis + (slice(0, 1),)]
        if sliced.shape[axis] < operand.shape[axis] and (sliced == first).all():
            sliced = first
    return sliced


@dataclass(frozen=True)
class Pointwise:
    """An operator of several broadcasting tensors.

    Attributes:
        value: its numpy form.
        bounds: the interval of the output from those of the inputs, aligned to the output's rank.
        reads: which elements of each input can matter; None for all.
        rounded: the numpy function, of two tensors, that runtimes round to the nearest number; None for others.
    """

    value: Callable[..., Array]
    bounds: Combine
    reads: Reads | None = None
    rounded: Callable[..., Any] | None = None


def pointwise_rule(op: str, pointwise: Pointwise, **fields: Any) -> OpRule:
    """Return the rule of an operator whose inputs broadcast."""

    def evaluate(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
        return [pointwise.value(node, *inputs)]

    def intervals(node: Node, context: Context) -> list[Interval]:
        rank = context.rank(node.outputs[0])
        return [aligned_interval(context.interval(name), rank) if name else top(rank) for name in node.inputs]

    def forward(node: Node, context: Context) -> Sequence[Interval]:
        operands = intervals(node, context)
        found = pointwise.bounds(node, operands)
        if pointwise.rounded is None or len(operands) != 2 or node.outputs[0] not in context.dtypes:
            return [found]
        dtype = tensor_dtype_to_np_dtype(context.dtypes[node.outputs[0]])
        return [exactly(pointwise.rounded, operands[0], operands[1], found, dtype)]

    def need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
        rank = context.rank(node.outputs[0])
        operands = constant_operands(node, context)
        masks = pointwise.reads(node, intervals(node, context)) if pointwise.reads else [None] * len(operands)
        demands: list[Demand | None] = []
        for name, operand, mask in zip(node.inputs, operands, masks, strict=True):
            if not name or operand is not None:
                demands.append(None)
                continue
            special = context.special(name)
            if mask is not None and special is not None:
                mask = mask | aligned(special > 0, rank)  # not even a product with 0 does without it
            live = outputs[0] if mask is None else outputs[0] & mask
            demands.append(Demand(_unaligned(live, rank, context.rank(name))))
        return demands

    fields.setdefault("repair", repair)
    fields.setdefault("sliced_from", of_operands)
    fields["traits"] = frozenset({Trait.POINTWISE, *fields.get("traits", ())})
    return OpRule(
        op,
        evaluate=evaluate,
        infer=_infer,
        applies=applies,
        forward=forward,
        link=link,
        need=need,
        **fields,
    )


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """Return the broadcast shape where equal symbols settle it."""
    names = [name for name in node.inputs if name]
    if any(name not in context.shapes for name in names):
        return [None]
    rank = max(context.rank(name) for name in names)
    sizes: list[Dimension] = []
    for axis in range(rank):
        longer = {_padded_shape(context, name, rank)[axis] for name in names} - {1}
        numbers = {size for size in longer if not isinstance(size, Symbolic)}
        if len(longer) > 1 and len(numbers) != 1:
            return [None]  # either run-time size may be the 1 that broadcasts
        sizes.append(next(iter(numbers or longer), 1))
    return [tuple(sizes)]


def _unaligned(mask: Bools, rank: int, own: int) -> Bools:
    return any_along(mask, tuple(range(rank - own))) if rank > own else mask
