"""Interval arithmetic: sums, products and quotients of bounds, with the rounding that a runtime may add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Bools, Floats
from onnxsqueeze.abstract.interval import Interval, enclosing, never_negative, outward, sum_is_unsure

_ROUNDING = 1e-6
_SINGLE = np.dtype(np.float32)


def _all_constant(intervals: Sequence[Interval]) -> Bools:
    return reduce(np.logical_and, (interval.constant for interval in intervals))


def add(left: Interval, right: Interval) -> Interval:
    """Return the interval of a sum; constants that cancel each other are none."""
    lower, upper = left.lower + right.lower, left.upper + right.upper
    constant = left.constant & right.constant & ~sum_is_unsure(lower, np.abs(left.lower) + np.abs(right.lower))
    return never_negative(outward(lower, upper, constant, _ROUNDING), np.minimum(left.lower, right.lower))


def _negated(interval: Interval) -> Interval:
    return Interval(-interval.upper, -interval.lower)


def times(left: Interval, right: Interval) -> Interval:
    """Return the interval of a product; 0 times anything finite is 0, which also decides 0 * Inf between bounds."""
    pairs = [(a, b) for a in (left.lower, left.upper) for b in (right.lower, right.upper)]
    products = [np.where((a == 0) | (b == 0), 0.0, a * b) for a, b in pairs]
    lower, upper = reduce(np.minimum, products), reduce(np.maximum, products)
    zero = (left.constant & (left.lower == 0)) | (right.constant & (right.lower == 0))
    found = outward(lower, upper, (left.constant & right.constant) | zero, _ROUNDING)
    return never_negative(found, np.minimum(left.lower, right.lower))


def _inverse(interval: Interval) -> Interval:
    around_zero = (interval.lower <= 0) & (interval.upper >= 0)
    lower = np.where(around_zero, -np.inf, 1 / interval.upper)
    return enclosing(lower, np.where(around_zero, np.inf, 1 / interval.lower))


def _divide(left: Interval, right: Interval) -> Interval:
    """Return the interval of a quotient; 0 divided is 0, unless by what is always 0: as finite count all results."""
    constant = left.constant & right.constant & (right.lower != 0)
    quotient = times(left, _inverse(right))
    exact = np.where(constant, left.lower / np.where(right.lower == 0, 1.0, right.lower), 0.0)
    varying = outward(quotient.lower, quotient.upper, np.zeros(constant.shape, bool), _ROUNDING)
    zero = left.constant & (left.lower == 0) & ~(right.constant & (right.lower == 0))
    exact, fixed = np.where(zero, 0.0, exact), constant | zero
    return enclosing(np.where(fixed, exact, varying.lower), np.where(fixed, exact, varying.upper))


def exactly(
    function: Callable[[Floats, Floats], Any], left: Interval, right: Interval, found: Interval, dtype: np.dtype[Any]
) -> Interval:
    """Return the interval of a sum, difference or product, with what is known of it to the last bit.

    Runtimes round to the nearest number, so that a result which their type can hold is what they compute. Numbers of
    single precision have their exact product in double precision; a sum has lost nothing if both summands come back.

    Args:
        function: np.add, np.subtract or np.multiply. left, right: the operands. found: what is known otherwise.
        dtype: of the result.
    """
    if left.exact is None or right.exact is None:
        return found
    with np.errstate(all="ignore"):
        exact = left.constant & left.exact & right.constant & right.exact
        value = np.where(exact, function(left.lower, right.lower), 0.0)
        for kind, held in ((_SINGLE, left.lower), (_SINGLE, right.lower), (dtype, value)):
            exact = exact & (held.astype(kind).astype(np.float64) == held)
        if function is not np.multiply:
            second = right.lower if function is np.add else -right.lower
            exact = exact & (value - left.lower == second) & (value - second == left.lower)
    return Interval(np.where(exact, value, found.lower), np.where(exact, value, found.upper), exact=exact)


def _least(left: Interval, right: Interval) -> Interval:
    return Interval(np.minimum(left.lower, right.lower), np.minimum(left.upper, right.upper))


def _most(left: Interval, right: Interval) -> Interval:
    return Interval(np.maximum(left.lower, right.lower), np.maximum(left.upper, right.upper))
