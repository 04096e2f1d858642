"""Interval arithmetic: sums, products and quotients of bounds, with the rounding that a runtime may add."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.abstract.interval import Interval, enclosing, never_negative, outward, sum_is_unsure

_ROUNDING = 1e-6


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
    constant = left.constant & right.constant & (right.lower != 0)
    quotient = times(left, _inverse(right))
    exact = np.where(constant, left.lower / np.where(right.lower == 0, 1.0, right.lower), 0.0)
    varying = outward(quotient.lower, quotient.upper, np.zeros(constant.shape, bool), _ROUNDING)
    zero = left.constant & (left.lower == 0) & ((right.lower > 0) | (right.upper < 0))
    exact, fixed = np.where(zero, 0.0, exact), constant | zero
    return enclosing(np.where(fixed, exact, varying.lower), np.where(fixed, exact, varying.upper))


def _least(left: Interval, right: Interval) -> Interval:
    return Interval(np.minimum(left.lower, right.lower), np.minimum(left.upper, right.upper))


def _most(left: Interval, right: Interval) -> Interval:
    return Interval(np.maximum(left.lower, right.lower), np.maximum(left.upper, right.upper))
