"""What is known of a tensor's values at inference: an interval per element, kept only where it varies.

Every array has the tensor's own rank, with length 1 on each axis along which nothing is known to vary (batch, sequence,
dynamic space). The rule of a Transpose or a Concat on intervals is then the very numpy call that the operator makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, Floats


@dataclass(frozen=True)
class Interval:
    """The closed interval ``[lower, upper]`` of each element, float64; equal and finite bounds make a constant.

    ``reconstructible`` marks elements that follow from others which stay, by one formula for all positions (what a
    normalisation makes of a constant channel; see `Reconstruction`). It is None where there are none, and a rule that
    does not hand it on has thereby forgotten it, which is safe.

    ``exact`` marks constants that a runtime has to the last bit, whatever it fuses: what is stored, sums and products
    of such that its type can hold. Only of these do two that cancel each other make 0. None and forgetting as above.
    """

    lower: Floats
    upper: Floats
    reconstructible: Bools | None = None
    exact: Bools | None = None

    @property
    def constant(self) -> Bools:
        """Which elements take one finite value for every input."""
        constant: Bools = (self.lower == self.upper) & np.isfinite(self.lower)
        return constant

    @property
    def wholly_constant(self) -> bool:
        """Whether every element is a constant."""
        return bool(self.constant.all())


def rearranged(interval: Interval, move: Callable[[Any], Any]) -> Interval:
    """Return the interval of a tensor whose elements an operator copies to other places, as ``move`` does to arrays."""
    marks = (
        None if mark is None else move(np.broadcast_to(mark, interval.lower.shape))
        for mark in (interval.reconstructible, interval.exact)
    )
    return Interval(move(interval.lower), move(interval.upper), *marks)


def top(rank: int) -> Interval:
    """Return the interval that says nothing, for a tensor of this rank."""
    return Interval(np.full((1,) * rank, -np.inf), np.full((1,) * rank, np.inf))


def bounded(lower: float, upper: float, rank: int) -> Interval:
    """Return one interval for all elements of a tensor of this rank."""
    return Interval(np.full((1,) * rank, lower), np.full((1,) * rank, upper))


def constant_interval(value: npt.ArrayLike) -> Interval:
    """Return the interval of a constant tensor; elements that are not finite are unknown."""
    array = np.asarray(value).astype(np.float64)
    finite = np.isfinite(array)
    return (
        Interval(np.where(finite, array, -np.inf), np.where(finite, array, np.inf), exact=finite)
        if not finite.all()
        else Interval(array, array, exact=np.full((1,) * array.ndim, True))
    )


def enclosing(lower: Floats, upper: Floats) -> Interval:
    """Return ``[lower, upper]``, widened to no knowledge wherever a bound came out as NaN or both as one infinity."""
    lower, upper = np.broadcast_arrays(lower, upper)
    lost = np.isnan(lower) | np.isnan(upper) | ((lower == upper) & ~np.isfinite(lower)) | (lower > upper)
    if lost.any():
        lower, upper = np.where(lost, -np.inf, lower), np.where(lost, np.inf, upper)
    return Interval(lower, upper)


def outward(lower: Floats, upper: Floats, constant: Bools, relative: float) -> Interval:
    """Return ``[lower, upper]`` widened by a relative rounding error, and constant exactly where ``constant`` says so.

    Rounding may make the two bounds of a varying element meet: a constant must come from constants only.
    """
    below = np.nextafter(lower - np.abs(lower) * relative, -np.inf)
    above = np.nextafter(upper + np.abs(upper) * relative, np.inf)
    return enclosing(np.where(constant, lower, below), np.where(constant, lower, above))


def never_negative(rounded: Interval, exact: Floats) -> Interval:
    """Return an interval that rounding widened without what lies below 0, where ``exact`` lower bounds do not.

    Rounding to the nearest number keeps signs: it makes no negative one of what is at least 0.
    """
    return Interval(np.where(exact >= 0, np.maximum(rounded.lower, 0.0), rounded.lower), rounded.upper)


def sum_is_unsure(total: Floats, magnitude: Floats) -> Bools:
    """Whether a sum is so small beside its terms that a runtime's rounding may give it another sign.

    Such a sum is no constant: a step function behind it could see either side. A 0 that stays a constant is exact.
    """
    return (magnitude > 0) & (np.abs(total) <= _CANCELLED * magnitude)


_CANCELLED = 1e-5  # a few hundred float32 roundings


def hull(intervals: Iterable[Interval]) -> Interval:
    """Return the smallest interval that holds wherever one of ``intervals`` does (shapes broadcast)."""
    first, *others = intervals
    lower, upper = first.lower, first.upper
    for other in others:
        lower, upper = np.minimum(lower, other.lower), np.maximum(upper, other.upper)
    return Interval(lower, upper)


def collapse(interval: Interval, axes: Iterable[int]) -> Interval:
    """Return the interval that holds for all positions along ``axes``, which get length 1 (nothing for none)."""
    chosen = tuple(axis for axis in axes if interval.lower.shape[axis] != 1)
    if not chosen:
        return interval
    if any(interval.lower.shape[axis] == 0 for axis in chosen):
        shape = interval.lower.any(axis=chosen, keepdims=True).shape
        return Interval(np.full(shape, -np.inf), np.full(shape, np.inf))
    lower, upper = interval.lower.min(axis=chosen, keepdims=True), interval.upper.max(axis=chosen, keepdims=True)
    marks = (_everywhere(mark, interval, chosen) for mark in (interval.reconstructible, interval.exact))
    return Interval(lower, upper, *marks)


def _everywhere(mark: Bools | None, interval: Interval, axes: tuple[int, ...]) -> Bools | None:
    if mark is None:
        return None
    return np.asarray(np.broadcast_to(mark, interval.lower.shape).all(axis=axes, keepdims=True))


def compact(interval: Interval) -> Interval:
    """Drop every axis to length 1 along which all entries are equal."""
    for axis in range(interval.lower.ndim):
        if interval.lower.shape[axis] > 1:
            head = (slice(None),) * axis + (slice(0, 1),)
            first = rearranged(interval, lambda array, head=head: array[head])  # type: ignore[misc]
            alike = interval.reconstructible is None or (interval.reconstructible == first.reconstructible).all()
            if alike and (interval.lower == first.lower).all() and (interval.upper == first.upper).all():
                exact = None if interval.exact is None else np.asarray(interval.exact.all(axis=axis, keepdims=True))
                interval = Interval(first.lower, first.upper, first.reconstructible, exact)
    return interval
