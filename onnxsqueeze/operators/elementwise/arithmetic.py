"""Add, Sub, Mul, Div, Min, Max, Pow, Mod, Sum, Mean, PRelu, Where, comparisons and logic, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np

from onnxsqueeze.abstract.arithmetic import _all_constant, _divide, _least, _most, _negated, add, times
from onnxsqueeze.abstract.compact import Array, Bools, aligned
from onnxsqueeze.abstract.interval import Interval, enclosing, hull, sum_is_unsure
from onnxsqueeze.abstract.symbolic import Symbolic, Undecided
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.elementwise import broadcasting
from onnxsqueeze.operators.elementwise.broadcasting import (
    Combine,
    Pointwise,
    constant_operands,
    pointwise_rule,
)
from onnxsqueeze.operators.elementwise.rows import ROWS
from onnxsqueeze.operators.elementwise.special_values import SPECIALS
from onnxsqueeze.rules.contract import Context, OpRule
from onnxsqueeze.rules.lessons import KeepSummand
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import operand_parameters
from onnxsqueeze.rules.passing import no_specials
from onnxsqueeze.rules.queries import absorbed_by_readers
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Offset, Rewriter
from onnxsqueeze.rules.traits import Trait


def _pair(combine: Callable[[Interval, Interval], Interval]) -> Combine:
    return lambda node, intervals: combine(intervals[0], intervals[1])


def _many(combine: Callable[[Interval, Interval], Interval]) -> Combine:
    return lambda node, intervals: reduce(combine, intervals)


def _mean(node: Node, intervals: Sequence[Interval]) -> Interval:
    total = reduce(add, intervals)
    return Interval(total.lower / len(intervals), total.upper / len(intervals))


def _product(node: Node, intervals: Sequence[Interval]) -> Interval:
    """Multiply; a square is never negative."""
    found = times(*intervals)
    return Interval(np.maximum(found.lower, 0.0), found.upper) if node.inputs[0] == node.inputs[1] else found


def _power(node: Node, intervals: Sequence[Interval]) -> Interval:
    """Constants have constant powers; even ones, and those of what is not negative, are none below 0."""
    base, exponent = intervals
    found = _constant_only(np.power)(node, intervals)
    even = exponent.constant & (np.where(exponent.constant, exponent.lower, 1.0) % 2 == 0)
    return Interval(np.where(even | (base.lower >= 0), np.maximum(found.lower, 0.0), found.lower), found.upper)


def _constant_only(function: Callable[..., Array], low: float = -np.inf, high: float = np.inf) -> Combine:
    """Bounds that say nothing but for constants."""

    def bounds(node: Node, intervals: Sequence[Interval]) -> Interval:
        constant = _all_constant(intervals)
        at = np.asarray(function(*(np.where(interval.constant, interval.lower, 1.0) for interval in intervals))).astype(
            np.float64
        )
        return enclosing(np.where(constant, at, low), np.where(constant, at, high))

    return bounds


def _compared(function: Callable[..., Any]) -> Combine:
    """Constants compare as they do in any precision if they are clearly apart."""
    decided = _constant_only(function, 0.0, 1.0)

    def bounds(node: Node, intervals: Sequence[Interval]) -> Interval:
        interval, (left, right) = decided(node, intervals), intervals
        close = sum_is_unsure(left.lower - right.lower, np.abs(left.lower) + np.abs(right.lower))
        return Interval(np.where(close, 0.0, interval.lower), np.where(close, 1.0, interval.upper))

    return bounds


def _prelu(node: Node, intervals: Sequence[Interval]) -> Interval:
    data, slope = intervals
    above = Interval(np.maximum(data.lower, 0.0), np.maximum(data.upper, 0.0))
    below = times(Interval(np.minimum(data.lower, 0.0), np.minimum(data.upper, 0.0)), slope)
    positive, negative = data.lower >= 0, data.upper <= 0
    both = hull([above, below])
    lower = np.where(positive, above.lower, np.where(negative, below.lower, both.lower))
    return Interval(lower, np.where(positive, above.upper, np.where(negative, below.upper, both.upper)))


def _where(node: Node, intervals: Sequence[Interval]) -> Interval:
    condition, chosen, other = intervals
    both = hull([chosen, other])
    yes, no = condition.constant & (condition.lower != 0), condition.constant & (condition.lower == 0)
    lower = np.where(yes, chosen.lower, np.where(no, other.lower, both.lower))
    return Interval(lower, np.where(yes, chosen.upper, np.where(no, other.upper, both.upper)))


def _where_reads(node: Node, intervals: Sequence[Interval]) -> Sequence[Bools | None]:
    """A constant condition reads one side only; equal constants on both sides make the condition idle."""
    condition, chosen, other = intervals
    yes, no = condition.constant & (condition.lower != 0), condition.constant & (condition.lower == 0)
    same = chosen.constant & other.constant & (chosen.lower == other.lower)
    return [~same, ~no & ~same, ~yes & ~same]


def _product_reads(node: Node, intervals: Sequence[Interval]) -> Sequence[Bools | None]:
    """If one side of a product is the constant 0, the other side is dead."""
    left, right = intervals
    return [~(right.constant & (right.lower == 0)), ~(left.constant & (left.lower == 0))]


def _plain(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda node, *inputs: np.asarray(function(*inputs)).astype(np.result_type(*inputs), copy=False)


def _quotient(node: Node, left: Array, right: Array) -> Array:
    """Integers divide towards zero."""
    if left.dtype == object or right.dtype == object:
        return np.asarray(np.frompyfunc(_size_quotient, 2, 1)(left, right), dtype=object)
    if left.dtype.kind in "iu":
        return np.asarray(np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right))).astype(left.dtype)
    return np.asarray(left / right).astype(left.dtype)


def _size_quotient(left: Any, right: Any) -> Any:
    """Sizes divide like the numbers of their type."""
    return left / right if isinstance(left, float) or isinstance(right, float) else left // right


def _modulo(node: Node, left: Array, right: Array) -> Array:
    return np.asarray(np.fmod(left, right) if node.attributes.get("fmod", 0) else np.mod(left, right))


def _equal(node: Node, left: Array, right: Array) -> Array:
    if left.dtype != object and right.dtype != object:
        return np.asarray(left == right)
    flat = [
        _sizes_equal(a, b) for a, b in zip(*(array.ravel() for array in np.broadcast_arrays(left, right)), strict=True)
    ]
    return np.array(flat, dtype=bool).reshape(np.broadcast_shapes(left.shape, right.shape))


def _sizes_equal(left: Any, right: Any) -> bool:
    """A size that is symbolic is never negative or zero; whether it is some positive number depends."""
    if left == right:
        return True
    if isinstance(left, Symbolic) or isinstance(right, Symbolic):
        other = right if isinstance(left, Symbolic) else left
        size = left if isinstance(left, Symbolic) else right
        if isinstance(other, Symbolic) or other > 0 or size.offset < 0:
            raise Undecided
    return False


def _shift(node: Node, left: Array, right: Array) -> Array:
    return np.left_shift(left, right) if node.attributes["direction"] == "LEFT" else np.right_shift(left, right)


def _flag(function: Callable[..., Any]) -> Pointwise:
    return Pointwise(lambda node, *inputs: np.asarray(function(*inputs)), _compared(function))


def _logic(function: Callable[..., Any]) -> Pointwise:
    return Pointwise(
        lambda node, *inputs: np.asarray(function(*inputs)),
        _constant_only(lambda *values: function(*(value != 0 for value in values)), 0.0, 1.0),
    )


def _nary(function: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    return lambda node, *inputs: np.asarray(reduce(function, inputs)).astype(inputs[0].dtype, copy=False)


_POINTWISE: dict[str, Pointwise] = {
    "Sub": Pointwise(_plain(np.subtract), _pair(lambda left, right: add(left, _negated(right))), rounded=np.subtract),
    "Div": Pointwise(_quotient, _pair(_divide)),
    "Min": Pointwise(_nary(np.minimum), _many(_least)),
    "Max": Pointwise(_nary(np.maximum), _many(_most)),
    "Mean": Pointwise(lambda node, *inputs: (sum(inputs) / len(inputs)).astype(inputs[0].dtype), _mean),
    "Pow": Pointwise(lambda node, a, b: np.power(a, b).astype(a.dtype), _power),
    "Mod": Pointwise(_modulo, lambda node, intervals: _unknown_like(intervals)),
    "PRelu": Pointwise(lambda node, x, slope: np.where(x < 0, x * slope, x).astype(x.dtype), _prelu),
    "Where": Pointwise(lambda node, c, x, y: np.asarray(np.where(c, x, y)), _where, _where_reads),
    "Equal": Pointwise(_equal, _compared(np.equal)),
    "Greater": _flag(np.greater),
    "GreaterOrEqual": _flag(np.greater_equal),
    "Less": _flag(np.less),
    "LessOrEqual": _flag(np.less_equal),
    "And": _logic(np.logical_and),
    "Or": _logic(np.logical_or),
    "Xor": _logic(np.logical_xor),
    "BitShift": Pointwise(_shift, lambda node, intervals: _unknown_like(intervals)),
    "BitwiseAnd": Pointwise(_plain(np.bitwise_and), lambda node, intervals: _unknown_like(intervals)),
    "BitwiseOr": Pointwise(_plain(np.bitwise_or), lambda node, intervals: _unknown_like(intervals)),
    "BitwiseXor": Pointwise(_plain(np.bitwise_xor), lambda node, intervals: _unknown_like(intervals)),
}


def _unknown_like(intervals: Sequence[Interval]) -> Interval:
    shape = np.broadcast_shapes(*(interval.lower.shape for interval in intervals))
    return Interval(np.full(shape, -np.inf), np.full(shape, np.inf))


def _absorbs(node: Node, context: Context, position: int, axis: int) -> bool:
    """An Add of a constant takes up a vector along an axis of its data."""
    if len(node.inputs) != 2 or context.rank(node.inputs[position]) != context.rank(node.outputs[0]):
        return False
    other = constant_operands(node, context)[1 - position]
    if other is None or other.dtype.kind not in "fV":
        return False
    return _single_axis(aligned(other, context.rank(node.outputs[0])).shape) in (None, axis)


def _single_axis(shape: tuple[int, ...]) -> int | None:
    """Return the only axis that is longer than 1; None if there is none, -1 if there are several."""
    longer = [axis for axis, length in enumerate(shape) if length > 1]
    return None if not longer else longer[0] if len(longer) == 1 else -1


def _repair_add(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the constant and add what a linear producer handed on; a branch that became a constant moves on."""
    if node.index in rewriter.plan.cancelled:
        rewriter.bypass(node, 1 - rewriter.plan.cancelled[node.index])
        return
    operands = constant_operands(node, context)
    for position, (name, operand) in enumerate(zip(node.inputs, operands, strict=True)):
        if (
            operand is not None
            and context.is_activation(name)
            and _moved_on(node, position, operand, context, rewriter)
        ):
            return
    broadcasting.repair(node, context, rewriter)
    for position, name in enumerate(node.inputs):
        taken = rewriter.deferred_offset(name)
        if taken is None:
            continue
        operand = operands[1 - position]
        assert operand is not None
        shape = (-1,) + (1,) * (context.rank(name) - 1 - taken.axis)
        before = rewriter.sliced(operand, node.outputs[0])
        total = before.astype(np.float64) + taken.vector.reshape(shape)
        dtype = rewriter.dtype(name)
        rewriter.check_finite(total, dtype, taken.lesson, before)
        rewriter.set_constant(node, 1 - position, total.astype(dtype))


def _gate_alignment(node: Node, context: Context) -> tuple[int, int]:
    """A gate of one value a channel, computed by convolutions itself, is multiplied block by block."""
    data = [name for name in node.inputs if context.is_activation(name) and context.rank(name) == 4]
    gates = [name for name in data if context.shape(name)[2:] == (1, 1)]
    return 1, 16 if gates and len(data) == 2 and len(gates) < 2 else 1


def _repair_sum(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the constants; branches that became zero are left out."""
    output = node.outputs[0]
    operands = constant_operands(node, context)
    zero = [operand is not None and not rewriter.sliced(operand, output).any() for operand in operands]
    whole = [context.shape(name) == context.shape(output) for name in node.inputs]
    data = [place for place, flag in enumerate(zero) if not flag]
    broadcasting.repair(node, context, rewriter)
    if len(data) == 1 and whole[data[0]]:
        rewriter.bypass(node, data[0])
    elif any(whole[place] for place in data):
        rewriter.drop_inputs(node, [place for place, flag in enumerate(zero) if flag])


def _moved_on(node: Node, position: int, operand: Array, context: Context, rewriter: Rewriter) -> bool:
    """Let the producer or the readers take up a branch that became a constant, so that the Add falls away."""
    data, output = node.inputs[1 - position], node.outputs[0]
    if rewriter.deferred_offset(data) is not None or context.shape(data) != context.shape(output):
        return False
    if node.inputs[position] in context.learned.summands:
        return False
    vector = rewriter.sliced(aligned(operand, context.rank(output)), output)
    axis = _single_axis(vector.shape)
    if not vector.any():
        rewriter.bypass(node, 1 - position)
        return True
    if axis is None or axis < 0:
        return False
    flat = vector.astype(np.float64).ravel()
    producer = context.graph.producers.get(data)
    adopts = context.rules[producer.index].adopts if producer and context.graph.sole_reader(data) else None
    if producer is not None and adopts is not None and adopts(producer, context, rewriter, axis, flat):
        rewriter.bypass(node, 1 - position)
        return True
    if absorbed_by_readers(context, output, axis):
        rewriter.defer_offset(output, Offset(axis, flat, partial(KeepSummand, node.inputs[position])))
        rewriter.bypass(node, 1 - position)
        return True
    return False


def _constant_summand(node: Node, context: Context) -> int | None:
    """Return the position of a constant that is added to what has the output's shape."""
    source = _beside_constant(node, context)
    return None if source is None else 1 - source


def _beside_constant(node: Node, context: Context) -> int | None:
    """Return the position of the input that has the output's shape, if the other one is a constant."""
    for position, (source, other) in enumerate((node.inputs, node.inputs[::-1])):
        if context.value(other) is not None and context.is_activation(source):
            return position if context.shapes.get(source) == context.shapes.get(node.outputs[0]) else None
    return None


def _scaled(node: Node, context: Context) -> int | None:
    """Return the position of what is multiplied by one constant number."""
    source = _beside_constant(node, context)
    factor = None if source is None else context.value(node.inputs[1 - source])
    return source if factor is not None and factor.size == 1 else None


def _divided(node: Node, context: Context) -> int | None:
    return 0 if _scaled(node, context) == 0 else None


_SUMMAND, _FACTOR, _OPERAND = (operand_parameters(role) for role in (Role.SUMMAND, Role.FACTOR, Role.OPERAND))
_FIELDS: dict[str, dict[str, Any]] = {
    "Sub": {"parameters": _SUMMAND, "rows": ROWS["Sub"]},
    "Div": {"parameters": _OPERAND, "rows": ROWS["Div"], "scales": _divided},
    "Where": {"parameters": _SUMMAND, "rows": ROWS["Where"]},
    "PRelu": {"parameters": _FACTOR},
    **dict.fromkeys(("Pow", "Min", "Max", "Mod"), {"parameters": _OPERAND}),
}
"""What is known of operators beside their bounds; a constant operand of others blocks what is masked around it."""


_TRAITS: dict[str, Trait] = {
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), Trait.COMPARES),
    "And": Trait.NEEDS_BOTH,
    "Or": Trait.NEEDS_ONE,
}


def _rule(op: str, pointwise: Pointwise, **fields: Any) -> OpRule:
    traits = frozenset({_TRAITS[op]} if op in _TRAITS else ())
    return pointwise_rule(op, pointwise, specials=SPECIALS.get(op, no_specials), traits=traits, **fields)


register(*(_rule(op, pointwise, **_FIELDS.get(op, {})) for op, pointwise in _POINTWISE.items()))
register(
    _rule(
        "Add",
        Pointwise(_plain(np.add), _pair(add), rounded=np.add),
        absorbs=_absorbs,
        repair=_repair_add,
        parameters=_SUMMAND,
        rows=ROWS["Add"],
        adds_constant=_constant_summand,
    ),
    _rule(
        "Mul",
        Pointwise(_plain(np.multiply), _product, _product_reads, np.multiply),
        alignment=_gate_alignment,
        parameters=_FACTOR,
        rows=ROWS["Mul"],
        scales=_scaled,
    ),
    _rule("Sum", Pointwise(_nary(np.add), _many(add)), repair=_repair_sum, parameters=_SUMMAND),
)
