"""Symbolic dimensions: monomials such as ``64*batch``, the form in which exporters write dynamic sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

import numpy as np
import numpy.typing as npt


class Undecided(Exception):
    """A question about a symbolic dimension whose answer depends on the size that it takes at run time."""


@dataclass(frozen=True)
class Symbolic:
    """The product of a positive integer and of named run-time sizes, e.g. ``64*batch``.

    A sum or an inexact quotient becomes one opaque name, built from its operands so that equal expressions stay equal.
    """

    coefficient: int
    names: tuple[str, ...]

    def __mul__(self, other: Dimension) -> Dimension:
        if isinstance(other, Symbolic):
            return Symbolic(self.coefficient * other.coefficient, tuple(sorted(self.names + other.names)))
        return Symbolic(self.coefficient * int(other), self.names) if other > 0 else _not_a_size(self, "*", other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dimension) -> Dimension:
        return divide(self, other) or _opaque(self, "//", other)

    __truediv__ = __floordiv__

    def __rfloordiv__(self, other: int) -> Dimension:
        return _opaque(other, "//", self)

    def __add__(self, other: Dimension) -> Dimension:
        if isinstance(other, Symbolic) and other.names == self.names:
            return Symbolic(self.coefficient + other.coefficient, self.names)
        return self if _is_zero(other) else _opaque(self, "+", other)

    def __radd__(self, other: int) -> Dimension:
        return self if other == 0 else _opaque(other, "+", self)

    def __sub__(self, other: Dimension) -> Dimension:
        if isinstance(other, Symbolic) and other.names == self.names and other.coefficient <= self.coefficient:
            difference = self.coefficient - other.coefficient
            return Symbolic(difference, self.names) if difference else 0
        return self if _is_zero(other) else _opaque(self, "-", other)

    def __rsub__(self, other: int) -> Dimension:
        return _opaque(other, "-", self)

    def __lt__(self, other: object) -> bool:
        raise Undecided

    __gt__ = __le__ = __ge__ = __lt__

    def __str__(self) -> str:
        factors = ([str(self.coefficient)] if self.coefficient != 1 else []) + list(self.names)
        return "*".join(factors)


Dimension = Union[int, Symbolic]
Shape = tuple[Dimension, ...]
Array = npt.NDArray[np.generic]


def symbol(name: str) -> Symbolic:
    """Return the run-time size called ``name``."""
    return Symbolic(1, (name,))


def divide(numerator: Dimension, denominator: Dimension) -> Dimension | None:
    """Return ``numerator / denominator`` where it is exact for every run-time size, else None."""
    top, bottom = as_symbolic(numerator), as_symbolic(denominator)
    if bottom.coefficient == 0 or top.coefficient % bottom.coefficient:
        return None
    names = list(top.names)
    for name in bottom.names:
        if name not in names:
            return None
        names.remove(name)
    coefficient = top.coefficient // bottom.coefficient
    return Symbolic(coefficient, tuple(names)) if names else coefficient


def product(dimensions: Shape) -> Dimension:
    """Return the number of elements of a box with these sides."""
    result: Dimension = 1
    for dimension in dimensions:
        result = 0 if _is_zero(result) or _is_zero(dimension) else result * dimension
    return result


def as_symbolic(dimension: Dimension) -> Symbolic:
    """Return ``dimension`` as a monomial; an integer has no names."""
    return dimension if isinstance(dimension, Symbolic) else Symbolic(int(dimension), ())


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


def _opaque(left: Dimension, operator: str, right: Dimension) -> Symbolic:
    return symbol(f"({left}{operator}{right})")


def _not_a_size(left: Dimension, operator: str, right: Dimension) -> Dimension:
    if _is_zero(right):
        return 0
    raise Undecided(f"{left}{operator}{right}")
