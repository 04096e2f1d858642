"""Symbolic dimensions such as ``64*batch``, the form in which exporters write dynamic sizes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt


class Undecided(Exception):
    """A question about a symbolic dimension whose answer depends on the size that it takes at run time."""


@dataclass(frozen=True)
class Symbolic:
    """``coefficient * product of names + offset``: what a run-time size is known to be, e.g. ``64*batch`` or ``H-2``.

    A sum of different sizes or an inexact quotient becomes one opaque name, built from its operands so that equal
    expressions stay equal. Floating-point arithmetic on sizes (``floating``) may leave a fraction, named ``~...``.
    """

    coefficient: int
    names: tuple[str, ...]
    offset: int = 0
    floating: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is sure to be a whole number."""
        return not any(name.startswith("~") for name in self.names)

    def __mul__(self, other: Dimension) -> Dimension:
        floating = _floating(self, other)
        if isinstance(other, Symbolic):
            left, right = _monomial(self), _monomial(other)
            names = tuple(sorted(left.names + right.names))
            return Symbolic(left.coefficient * right.coefficient, names, floating=floating)
        if not _is_whole(other):
            return _opaque(self, "*", other, fraction=True)
        if other > 0:
            return Symbolic(self.coefficient * int(other), self.names, self.offset * int(other), floating)
        return _not_a_size(self, "*", other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dimension) -> Dimension:
        quotient = divide(self, other) if _is_whole(other) else None
        if quotient is None:
            return _divided_again(self, other) or _opaque(self, "//", other, fraction=True)
        size: Dimension = retyped(quotient, _floating(self, other))
        return size

    __truediv__ = __floordiv__

    def __rfloordiv__(self, other: int) -> Dimension:
        return _opaque(other, "//", self, fraction=True)

    __rtruediv__ = __rfloordiv__

    def __add__(self, other: Dimension) -> Dimension:
        floating = _floating(self, other)
        if not _is_whole(other) or (isinstance(other, Symbolic) and other.names != self.names):
            return _opaque(self, "+", other)
        if not isinstance(other, Symbolic):
            return Symbolic(self.coefficient, self.names, self.offset + int(other), floating)
        return Symbolic(self.coefficient + other.coefficient, self.names, self.offset + other.offset, floating)

    __radd__ = __add__

    def __sub__(self, other: Dimension) -> Dimension:
        floating = _floating(self, other)
        if not isinstance(other, Symbolic) and _is_whole(other):
            return Symbolic(self.coefficient, self.names, self.offset - int(other), floating)
        if isinstance(other, Symbolic) and other.names == self.names and other.coefficient <= self.coefficient:
            difference, offset = self.coefficient - other.coefficient, self.offset - other.offset
            return Symbolic(difference, self.names, offset, floating) if difference else offset
        return _opaque(self, "-", other)

    def __rsub__(self, other: int) -> Dimension:
        return _opaque(other, "-", self)

    def __lt__(self, other: object) -> bool:
        raise Undecided

    __gt__ = __le__ = __ge__ = __lt__

    def __str__(self) -> str:
        factors = ([str(self.coefficient)] if self.coefficient != 1 else []) + list(self.names)
        return "*".join(factors) + (f"{self.offset:+d}" if self.offset else "")


_EXPRESSION = re.compile(r"(?:([1-9]\d*) ?\* ?)?([A-Za-z_]\w*(?: ?\* ?[A-Za-z_]\w*)*)( ?[+-] ?\d+)?")
Dimension = int | Symbolic
Shape = tuple[Dimension, ...]
Array = npt.NDArray[np.generic]


def symbol(name: str) -> Symbolic:
    """Return the run-time size called ``name``."""
    return Symbolic(1, (name,))


def parsed(text: str) -> Symbolic:
    """Return a size from the form in which exporters write it, such as ``4*batch`` or ``tokens + 1``.

    What is more complicated than that is one opaque name, as is what is no expression at all.
    """
    found = _EXPRESSION.fullmatch(text)
    if found is None:
        return symbol(text)
    coefficient, names, offset = found.groups()
    factors = sorted(name.strip() for name in names.split("*"))
    return Symbolic(int(coefficient or 1), tuple(factors), int((offset or "0").replace(" ", "")))


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


def retyped(size: Any, floating: bool) -> Any:
    """Return a size as a floating-point number or as an integer, towards which fractions are cut off."""
    if not isinstance(size, Symbolic):
        return float(size) if floating else int(size)
    return replace(size, floating=floating) if floating or size.whole else symbol(f"int({size})")


def rounded(size: Any, function: Callable[..., Any], name: str) -> Any:
    """Return a floating-point size rounded to a whole number by a function, which goes by a name."""
    if not isinstance(size, Symbolic):
        return float(function(size))
    return size if size.whole else replace(symbol(f"{name}({size})"), floating=True)


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
    return _named(f"({size})", size.floating, size.whole) if size.offset else size


def _divided_again(size: Symbolic, divisor: Dimension) -> Symbolic | None:
    """Return (x // a) // b as x // (a b), so that sizes reached in one step and in several are recognised as equal."""
    plain = size.coefficient == 1 and size.offset == 0 and len(size.names) == 1 and not size.floating
    found = re.fullmatch(r"\((.*)//(\d+)\)", size.names[0]) if plain and isinstance(divisor, int) else None
    return symbol(f"({found[1]}//{int(found[2]) * divisor})") if found else None


def _opaque(left: Dimension, operator: str, right: Dimension, fraction: bool = False) -> Symbolic:
    """Return a size that is only known by its expression; of integers a quotient is whole too."""
    floating = _floating(left, right)
    whole = not floating or (not fraction and _is_whole(left) and _is_whole(right))
    return _named(f"({left}{operator}{right})", floating, whole)


def _named(name: str, floating: bool, whole: bool) -> Symbolic:
    return Symbolic(1, (name if whole else f"~{name}",), floating=floating)


def _floating(*operands: Dimension) -> bool:
    return any(getattr(size, "floating", isinstance(size, float)) for size in operands)


def _is_whole(size: Dimension) -> bool:
    return size.whole if isinstance(size, Symbolic) else size == int(size)


def _not_a_size(left: Dimension, operator: str, right: Dimension) -> Dimension:
    if _is_zero(right):
        return 0
    raise Undecided(f"{left}{operator}{right}")
