"""Where a tensor may hold infinities or NaN: the special values of IEEE arithmetic, kept like intervals beside them.

An interval says between which finite bounds a value lies. A product with a constant 0 is 0 only where the other factor
is finite, so that a special value which a file stores, or looks for, has to be followed. Flags are compact: an array of
the tensor's own rank, with length 1 along each axis on which nothing is told apart, and combined bit by bit. What they
say is "may": a value without any flag is finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools, Floats, all_finite, compacted
from onnxsqueeze.abstract.interval import Interval

Specials = npt.NDArray[np.uint8]

NEGATIVE, POSITIVE, NAN, GAPS = np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)
"""Minus infinity; infinity; NaN; minus infinity among other values, where a mask or a border says "nothing here"."""
ANY = np.uint8(7)
FINITE = np.uint8(0)


def specials_of(array: Array) -> Specials | None:
    """Return the special values of a constant; None where there are none, as in all that is no floating-point type."""
    if array.dtype.kind not in "fV" or all_finite(array):
        return None
    values = array.astype(np.float64)
    found = NEGATIVE * np.isneginf(values) | POSITIVE * np.isposinf(values) | NAN * np.isnan(values)
    return compacted(np.asarray(found, dtype=np.uint8))


def either(flags: Iterable[Specials]) -> Specials:
    """Return what may be there if any of several may (shapes broadcast)."""
    return np.asarray(reduce(np.bitwise_or, flags), dtype=np.uint8)


def without(flags: Specials, *gone: np.uint8) -> Specials:
    """Return flags with some of them taken away."""
    return np.asarray(flags & ~reduce(np.bitwise_or, gone, FINITE), dtype=np.uint8)


def where(mask: Bools, flag: np.uint8) -> Specials:
    """Return one flag wherever a mask holds."""
    return np.where(mask, flag, FINITE).astype(np.uint8)


def has(flags: Specials, *wanted: np.uint8) -> Bools:
    """Return where any of the wanted flags is set."""
    return np.asarray((flags & reduce(np.bitwise_or, wanted)) > 0)


def along(flags: Specials, axes: Iterable[int]) -> Specials:
    """Return what may be there anywhere along axes, which get length 1; minus infinity at some places leaves gaps."""
    chosen = tuple(axis for axis in axes if flags.shape[axis] != 1)
    if not chosen:
        return flags
    found = np.bitwise_or.reduce(flags, axis=chosen, keepdims=True).astype(np.uint8)
    throughout = np.asarray(has(flags, NEGATIVE).all(axis=chosen, keepdims=True))
    return scattered(found, ~throughout)


def scattered(flags: Specials, places: Bools | bool = True) -> Specials:
    """Return flags with gaps in place of minus infinity, wherever ``places`` holds."""
    gaps = has(flags, NEGATIVE) & places
    return np.where(gaps, without(flags, NEGATIVE) | GAPS, flags).astype(np.uint8)


def widened(interval: Interval, flags: Specials) -> Interval:
    """Return an interval that says nothing of what may be infinite or NaN."""
    special = flags > 0
    lower, upper = np.where(special, -np.inf, interval.lower), np.where(special, np.inf, interval.upper)
    marks = (None if mark is None else mark & ~special for mark in (interval.reconstructible, interval.exact))
    return Interval(lower, upper, *marks)


def negated(flags: Specials) -> Specials:
    """Return the flags of the negative: infinities change their sign, and gaps are none of minus infinity."""
    upper = where(has(flags, NEGATIVE, GAPS), POSITIVE)
    return either([upper, where(has(flags, POSITIVE), NEGATIVE), without(flags, NEGATIVE, POSITIVE, GAPS)])


def summed(left: Specials, right: Specials) -> Specials:
    """Return the flags of a sum: infinities of both signs make NaN."""
    low, high = ([has(side, *kinds) for side in (left, right)] for kinds in ((NEGATIVE, GAPS), (POSITIVE,)))
    return either([left, right, where((low[0] & high[1]) | (low[1] & high[0]), NAN)])


def scaled(flags: Specials, factor: Interval) -> Specials:
    """Return the flags of a product with a finite factor: 0 times infinity is NaN."""
    positive, negative = factor.lower > 0, factor.upper < 0
    unsure = np.where(flags > 0, ANY, FINITE)
    return np.where(positive, flags, np.where(negative, negated(flags), unsure)).astype(np.uint8)


def multiplied(left: Interval, left_flags: Specials, right: Interval, right_flags: Specials) -> Specials:
    """Return the flags of a product of two tensors."""
    both = where((left_flags > 0) & (right_flags > 0), ANY)
    return either([both, scaled(left_flags, right), scaled(right_flags, left)])


def greatest(left: Specials, right: Specials) -> Specials:
    """Return the flags of a maximum: it is minus infinity only where both are, and of NaN runtimes take either."""
    low = where(has(left, NEGATIVE) & has(right, NEGATIVE), NEGATIVE)
    gaps = where(has(left, NEGATIVE, GAPS) & has(right, NEGATIVE, GAPS), GAPS)
    rest = without(either([left, right]), NEGATIVE, GAPS)
    return either([rest, low, np.where(low > 0, FINITE, gaps).astype(np.uint8), where(has(rest, NAN), ANY)])


def least(left: Specials, right: Specials) -> Specials:
    """Return the flags of a minimum: it is infinity only where both are, and of NaN runtimes take either."""
    high = where(has(left, POSITIVE) & has(right, POSITIVE), POSITIVE)
    rest = without(either([left, right]), POSITIVE)
    return either([rest, high, where(has(rest, NAN), ANY)])


def mapped(flags: Specials, function: Callable[[Floats], Any]) -> Specials:
    """Return the flags of an elementwise function's values, from what it makes of the infinities; NaN stays NaN."""
    with np.errstate(all="ignore"):
        ends = np.asarray(function(np.array([-np.inf, np.inf])), dtype=np.float64)
    found = [where(has(flags, NAN), NAN)]
    for sources, end in (((NEGATIVE, GAPS), ends[0]), ((POSITIVE,), ends[1])):
        for source in sources:
            found.append(where(has(flags, source), _kind(float(end), source)))
    return either(found)


def _kind(value: float, source: np.uint8) -> Any:
    """Return the flag of a function's value; minus infinity that was a gap is one still."""
    if np.isnan(value):
        return NAN
    if np.isfinite(value):
        return FINITE
    if value > 0:
        return POSITIVE
    return source if source != POSITIVE else NEGATIVE
