"""What is known of a tensor's values at inference: an interval per element, kept only where it varies.

Every array has the tensor's own rank, with length 1 on each axis along which nothing is known to vary (batch, sequence,
dynamic space). The rule of a Transpose or a Concat on facts is then the very numpy call that the operator makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, Floats


@dataclass(frozen=True)
class Fact:
    """The closed interval ``[lower, upper]`` of each element, float64; equal and finite bounds make a constant.

    ``spanned`` marks elements that follow from others which stay, by one formula for all positions (what a
    normalisation makes of a constant channel; see `Mixture`). It is None where there are none, and a rule that does not
    hand it on has thereby forgotten it, which is safe.
    """

    lower: Floats
    upper: Floats
    spanned: Bools | None = None

    @property
    def constant(self) -> Bools:
        """Which elements take one finite value for every input."""
        constant: Bools = (self.lower == self.upper) & np.isfinite(self.lower)
        return constant

    @property
    def wholly_constant(self) -> bool:
        """Whether every element is a constant."""
        return bool(self.constant.all())


def moved(fact: Fact, move: Callable[[Any], Any]) -> Fact:
    """Return the fact of a tensor whose elements an operator copies to other places, as ``move`` does to any array."""
    spanned = None if fact.spanned is None else move(np.broadcast_to(fact.spanned, fact.lower.shape))
    return Fact(move(fact.lower), move(fact.upper), spanned)


def unknown(rank: int) -> Fact:
    """Return the fact that says nothing, for a tensor of this rank."""
    return Fact(np.full((1,) * rank, -np.inf), np.full((1,) * rank, np.inf))


def between(lower: float, upper: float, rank: int) -> Fact:
    """Return one interval for all elements of a tensor of this rank."""
    return Fact(np.full((1,) * rank, lower), np.full((1,) * rank, upper))


def exactly(value: npt.ArrayLike) -> Fact:
    """Return the fact of a constant tensor; elements that are not finite are unknown."""
    array = np.asarray(value).astype(np.float64)
    finite = np.isfinite(array)
    return (
        Fact(np.where(finite, array, -np.inf), np.where(finite, array, np.inf))
        if not finite.all()
        else Fact(array, array)
    )


def interval(lower: Floats, upper: Floats) -> Fact:
    """Return ``[lower, upper]``, widened to no knowledge wherever a bound came out as NaN or both as one infinity."""
    lower, upper = np.broadcast_arrays(lower, upper)
    lost = np.isnan(lower) | np.isnan(upper) | ((lower == upper) & ~np.isfinite(lower)) | (lower > upper)
    if lost.any():
        lower, upper = np.where(lost, -np.inf, lower), np.where(lost, np.inf, upper)
    return Fact(lower, upper)


def outward(lower: Floats, upper: Floats, constant: Bools, relative: float) -> Fact:
    """Return ``[lower, upper]`` widened by a relative rounding error, and constant exactly where ``constant`` says so.

    Rounding may make the two bounds of a varying element meet: a constant must come from constants only.
    """
    below = np.nextafter(lower - np.abs(lower) * relative, -np.inf)
    above = np.nextafter(upper + np.abs(upper) * relative, np.inf)
    return interval(np.where(constant, lower, below), np.where(constant, lower, above))


def cancelled(total: Floats, magnitude: Floats) -> Bools:
    """Whether a sum is so small beside its terms that a runtime's rounding may give it another sign.

    Such a sum is no constant: a step function behind it could see either side. A 0 that stays a constant is exact.
    """
    return (magnitude > 0) & (np.abs(total) <= _CANCELLED * magnitude)


_CANCELLED = 1e-5  # a few hundred float32 roundings


def hull(facts: Iterable[Fact]) -> Fact:
    """Return the smallest fact that holds wherever one of ``facts`` does (shapes broadcast)."""
    first, *others = facts
    lower, upper = first.lower, first.upper
    for other in others:
        lower, upper = np.minimum(lower, other.lower), np.maximum(upper, other.upper)
    return Fact(lower, upper)


def collapse(fact: Fact, axes: Iterable[int]) -> Fact:
    """Return the fact that holds for all positions along ``axes``, each of which gets length 1 (nothing for none)."""
    chosen = tuple(axis for axis in axes if fact.lower.shape[axis] != 1)
    if not chosen:
        return fact
    if any(fact.lower.shape[axis] == 0 for axis in chosen):
        shape = fact.lower.any(axis=chosen, keepdims=True).shape
        return Fact(np.full(shape, -np.inf), np.full(shape, np.inf))
    lower, upper = fact.lower.min(axis=chosen, keepdims=True), fact.upper.max(axis=chosen, keepdims=True)
    spanned = None if fact.spanned is None else np.asarray(fact.spanned.all(axis=chosen, keepdims=True))
    return Fact(lower, upper, spanned)


def compact(fact: Fact) -> Fact:
    """Drop every axis to length 1 along which all entries are equal."""
    for axis in range(fact.lower.ndim):
        if fact.lower.shape[axis] > 1:
            head = (slice(None),) * axis + (slice(0, 1),)
            first = moved(fact, lambda array, head=head: array[head])  # type: ignore[misc]
            alike = fact.spanned is None or (fact.spanned == first.spanned).all()
            if alike and (fact.lower == first.lower).all() and (fact.upper == first.upper).all():
                fact = first
    return fact
