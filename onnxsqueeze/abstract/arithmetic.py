"""Interval arithmetic: sums, products and quotients of bounds, with the rounding that a runtime may add."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.abstract.interval import Fact, cancelled, interval, outward

_ROUNDING = 1e-6


def _all_constant(facts: Sequence[Fact]) -> Bools:
    return reduce(np.logical_and, (fact.constant for fact in facts))


def add(left: Fact, right: Fact) -> Fact:
    """Return the fact of a sum; constants that cancel each other are none."""
    lower, upper = left.lower + right.lower, left.upper + right.upper
    constant = left.constant & right.constant & ~cancelled(lower, np.abs(left.lower) + np.abs(right.lower))
    return outward(lower, upper, constant, _ROUNDING)


def _negated(fact: Fact) -> Fact:
    return Fact(-fact.upper, -fact.lower)


def times(left: Fact, right: Fact) -> Fact:
    """Return the fact of a product; 0 times anything finite is 0, which also decides 0 * Inf between bounds."""
    pairs = [(a, b) for a in (left.lower, left.upper) for b in (right.lower, right.upper)]
    products = [np.where((a == 0) | (b == 0), 0.0, a * b) for a, b in pairs]
    lower, upper = reduce(np.minimum, products), reduce(np.maximum, products)
    zero = (left.constant & (left.lower == 0)) | (right.constant & (right.lower == 0))
    return outward(lower, upper, (left.constant & right.constant) | zero, _ROUNDING)


def _inverse(fact: Fact) -> Fact:
    around_zero = (fact.lower <= 0) & (fact.upper >= 0)
    lower = np.where(around_zero, -np.inf, 1 / fact.upper)
    return interval(lower, np.where(around_zero, np.inf, 1 / fact.lower))


def _divide(left: Fact, right: Fact) -> Fact:
    constant = left.constant & right.constant & (right.lower != 0)
    quotient = times(left, _inverse(right))
    exact = np.where(constant, left.lower / np.where(right.lower == 0, 1.0, right.lower), 0.0)
    varying = outward(quotient.lower, quotient.upper, np.zeros(constant.shape, bool), _ROUNDING)
    zero = left.constant & (left.lower == 0) & ((right.lower > 0) | (right.upper < 0))
    exact, fixed = np.where(zero, 0.0, exact), constant | zero
    return interval(np.where(fixed, exact, varying.lower), np.where(fixed, exact, varying.upper))


def _least(left: Fact, right: Fact) -> Fact:
    return Fact(np.minimum(left.lower, right.lower), np.minimum(left.upper, right.upper))


def _most(left: Fact, right: Fact) -> Fact:
    return Fact(np.maximum(left.lower, right.lower), np.maximum(left.upper, right.upper))
