"""Symbolic dimensions such as ``64*batch``, the form in which exporters write dynamic sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


class Undecided(Exception):
    """A question about a symbolic dimension whose answer depends on the size that it takes at run time."""


@dataclass(frozen=True)
class Symbolic:
    """``coefficient * product of names + offset``: what a run-time size is known to be, e.g. ``64*batch`` or ``H-2``.

    A sum of different sizes or an inexact quotient becomes one opaque name, built from its operands so that equal
    expressions stay equal.
    """

    coefficient: int
    names: tuple[str, ...]
    offset: int = 0

    def __mul__(self, other: Dimension) -> Dimension:
        if isinstance(other, Symbolic):
            left, right = _monomial(self), _monomial(other)
            return Symbolic(left.coefficient * right.coefficient, tuple(sorted(left.names + right.names)))
        if other > 0:
            return Symbolic(self.coefficient * int(other), self.names, self.offset * int(other))
        return _not_a_size(self, "*", other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dimension) -> Dimension:
        quotient = divide(self, other)
        return _opaque(self, "//", other) if quotient is None else quotient

    __truediv__ = __floordiv__

    def __rfloordiv__(self, other: int) -> Dimension:
        return _opaque(other, "//", self)

    def __add__(self, other: Dimension) -> Dimension:
        if not isinstance(other, Symbolic):
            return Symbolic(self.coefficient, self.names, self.offset + int(other))
        if other.names == self.names:
            return Symbolic(self.coefficient + other.coefficient, self.names, self.offset + other.offset)
        return _opaque(self, "+", other)

    __radd__ = __add__

    def __sub__(self, other: Dimension) -> Dimension:
        if not isinstance(other, Symbolic):
            return Symbolic(self.coefficient, self.names, self.offset - int(other))
        if other.names == self.names and other.coefficient <= self.coefficient:
            difference, offset = self.coefficient - other.coefficient, self.offset - other.offset
            return Symbolic(difference, self.names, offset) if difference else offset
        return _opaque(self, "-", other)

    def __rsub__(self, other: int) -> Dimension:
        return _opaque(other, "-", self)

    def __lt__(self, other: object) -> bool:
        raise Undecided

    __gt__ = __le__ = __ge__ = __lt__

    def __str__(self) -> str:
        factors = ([str(self.coefficient)] if self.coefficient != 1 else []) + list(self.names)
        return "*".join(factors) + (f"{self.offset:+d}" if self.offset else "")


Dimension = int | Symbolic
Shape = tuple[Dimension, ...]
Array = npt.NDArray[np.generic]


def symbol(name: str) -> Symbolic:
    """Return the run-time size called ``name``."""
    return Symbolic(1, (name,))


def divide(numerator: Dimension, denominator: Dimension) -> Dimension | None:
    """Return ``numerator / denominator`` where it is exact for every run-time size, else None."""
    top, bottom = as_symbolic(numerator), as_symbolic(denominator)
    if top.names and not bottom.names:
        exact = bottom.offset > 0 and top.coefficient % bottom.offset == 0 and top.offset % bottom.offset == 0
        return Symbolic(top.coefficient // bottom.offset, top.names, top.offset // bottom.offset) if exact else None
    if not top.names:
        exact = not bottom.names and bottom.offset != 0 and top.offset % bottom.offset == 0
        return top.offset // bottom.offset if exact else None
    return _divide_monomials(_monomial(top), _monomial(bottom))


def _divide_monomials(top: Symbolic, bottom: Symbolic) -> Dimension | None:
    names = list(top.names)
    for name in bottom.names:
        if name not in names:
            return None
        names.remove(name)
    if top.coefficient % bottom.coefficient:
        return None
    coefficient = top.coefficient // bottom.coefficient
    return Symbolic(coefficient, tuple(names)) if names else coefficient


def product(dimensions: Shape) -> Dimension:
    """Return the number of elements of a box with these sides."""
    result: Dimension = 1
    for dimension in dimensions:
        result = 0 if _is_zero(result) or _is_zero(dimension) else result * dimension
    return result


def as_symbolic(dimension: Dimension) -> Symbolic:
    """Return ``dimension`` in symbolic form; an integer has no names."""
    return dimension if isinstance(dimension, Symbolic) else Symbolic(0, (), int(dimension))


def known(dimension: Dimension) -> bool:
    """Whether ``dimension`` is a number already."""
    return not isinstance(dimension, Symbolic)


def as_values(entries: list[Dimension]) -> Array:
    """Return sizes as an int64 array, or as an object array where one of them is symbolic."""
    if all(known(entry) for entry in entries):
        return np.array(entries, dtype=np.int64)
    values = np.empty(len(entries), dtype=object)
    values[:] = entries
    return values


def _is_zero(dimension: Dimension) -> bool:
    return not isinstance(dimension, Symbolic) and dimension == 0


def _monomial(size: Symbolic) -> Symbolic:
    """Return a size without an offset, under a name of its own where it has one."""
    return symbol(f"({size})") if size.offset else size


def _opaque(left: Dimension, operator: str, right: Dimension) -> Symbolic:
    return symbol(f"({left}{operator}{right})")


def _not_a_size(left: Dimension, operator: str, right: Dimension) -> Dimension:
    if _is_zero(right):
        return 0
    raise Undecided(f"{left}{operator}{right}")
