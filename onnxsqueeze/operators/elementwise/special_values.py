"""What sums, products, extremes and choices make of infinities and NaN, and where they make some of finite numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from onnxsqueeze.abstract.compact import Bools, aligned
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.abstract.specials import (
    ANY,
    FINITE,
    NAN,
    NEGATIVE,
    POSITIVE,
    Specials,
    either,
    greatest,
    has,
    least,
    multiplied,
    negated,
    scattered,
    summed,
    where,
    without,
)
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.elementwise.broadcasting import aligned_interval
from onnxsqueeze.rules.contract import Context, SpecialValues
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait

Flags = Sequence[Specials]
Combine = Callable[[Node, Context, Sequence[Interval], Flags], Specials]


def _combined(combine: Combine) -> SpecialValues:
    def specials(node: Node, context: Context) -> Sequence[Specials | None]:
        rank, names = context.rank(node.outputs[0]), [name for name in node.inputs if name]
        intervals = [aligned_interval(context.interval(name), rank) for name in names]
        flags = [aligned(_flags(context, name), rank) for name in names]
        return [combine(node, context, intervals, flags)]

    return specials


def _flags(context: Context, name: str) -> Specials:
    found = context.special(name)
    return np.full((1,) * context.rank(name), FINITE) if found is None else found


def _chain(combine: Callable[[Specials, Specials], Specials]) -> Combine:
    return lambda node, context, intervals, flags: reduce(combine, flags)


def _difference(node: Node, context: Context, intervals: Sequence[Interval], flags: Flags) -> Specials:
    return summed(flags[0], negated(flags[1]))


def _product(node: Node, context: Context, intervals: Sequence[Interval], flags: Flags) -> Specials:
    return multiplied(intervals[0], flags[0], intervals[1], flags[1])


def _reaches_zero(interval: Interval) -> Bools:
    return np.asarray((interval.lower <= 0) & (interval.upper >= 0))


def _quotient(node: Node, context: Context, intervals: Sequence[Interval], flags: Flags) -> Specials:
    """What is finite becomes 0 over an infinity, and a finite number over one that is sure not to be 0."""
    (_, divisor), (above, below) = intervals, flags
    both = where((above > 0) & (below > 0) | has(below, NAN), ANY)
    signed = np.where(divisor.lower > 0, above, np.where(divisor.upper < 0, negated(above), where(above > 0, ANY)))
    zero = where(_reaches_zero(divisor) & (below == 0), ANY if node.index in context.tested else FINITE)
    return either([both, signed.astype(np.uint8), zero])


def _power(node: Node, context: Context, intervals: Sequence[Interval], flags: Flags) -> Specials:
    """A negative number has no power that is no whole number, and 0 no negative one."""
    base, exponent = intervals
    found = where(either(flags) > 0, ANY)
    if node.index not in context.tested:
        return found
    whole = exponent.constant & (exponent.lower == np.floor(np.where(exponent.constant, exponent.lower, 0.5)))
    lost = ((base.lower < 0) & ~whole) | (_reaches_zero(base) & (exponent.lower < 0))
    return either([found, where(lost, ANY)])


def _remainder(node: Node, context: Context, intervals: Sequence[Interval], flags: Flags) -> Specials:
    lost = _reaches_zero(intervals[1]) & (node.index in context.tested)
    return where((either(flags) > 0) | lost, ANY)


def _either(node: Node, context: Context, intervals: Sequence[Interval], flags: Flags) -> Specials:
    return where(either(flags) > 0, ANY)


def _chosen(node: Node, context: Context, intervals: Sequence[Interval], flags: Flags) -> Specials:
    """What a condition tests is known where it holds; minus infinity that it puts in here and there leaves gaps."""
    condition = intervals[0]
    yes, no = condition.constant & (condition.lower != 0), condition.constant & (condition.lower == 0)
    sides = [
        without(own, *_excluded(context, node.inputs[0], name, holds))
        for own, name, holds in zip(flags[1:], node.inputs[1:], (True, False), strict=True)
    ]
    mixed = either(scattered(own) for own in sides)
    return np.where(yes, sides[0], np.where(no, sides[1], mixed)).astype(np.uint8)


def _excluded(context: Context, condition: str, name: str, holds: bool, depth: int = 8) -> list[np.uint8]:
    """Return the special values that a tensor has not got wherever a condition holds, or does not."""
    node = context.graph.producers.get(condition)
    if node is None or not depth:
        return []
    traits = rule_for(node).traits
    if Trait.NEGATES in traits:
        return _excluded(context, node.inputs[0], name, not holds, depth - 1)
    if (Trait.NEEDS_BOTH in traits and holds) or (Trait.NEEDS_ONE in traits and not holds):
        return [flag for part in node.inputs for flag in _excluded(context, part, name, holds, depth - 1)]
    if name not in node.inputs:
        return []
    if Trait.TESTS_FINITE in traits:
        return [] if holds else _tested(node, traits)
    return [NAN] if Trait.COMPARES in traits and holds else []


def _tested(node: Node, traits: frozenset[Trait]) -> list[np.uint8]:
    """Return the special values of which a test says where they are."""
    if Trait.TESTS_NAN in traits:
        return [NAN]
    signs = (("detect_negative", NEGATIVE), ("detect_positive", POSITIVE))
    return [flag for name, flag in signs if node.attributes.get(name, 1)]


SPECIALS: dict[str, SpecialValues] = {
    op: _combined(combine)
    for op, combine in {
        "Add": _chain(summed),
        "Sum": _chain(summed),
        "Mean": _chain(summed),
        "Sub": _difference,
        "Mul": _product,
        "Div": _quotient,
        "Min": _chain(least),
        "Max": _chain(greatest),
        "Pow": _power,
        "Mod": _remainder,
        "PRelu": _either,
        "Where": _chosen,
    }.items()
}
"""By operator; all others make no floating-point numbers."""


def clipped(node: Node, context: Context) -> Sequence[Specials | None]:
    """Return what is left between two limits, which are attributes of early opsets."""
    rank, names = context.rank(node.outputs[0]), (*node.inputs, "", "")
    found = aligned(_flags(context, names[0]), rank)
    for name, attribute, join in ((names[1], "min", greatest), (names[2], "max", least)):
        if name or attribute in node.attributes:
            found = join(found, aligned(_flags(context, name), rank) if name else np.full((1,) * rank, FINITE))
    return [found]
