"""What is kept of a constant along each of its axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools

Kept: TypeAlias = tuple["Bools | None", ...]
"""For each axis which positions stay [length], None where all do."""


def part_of(array: Array, kept: Kept) -> Array:
    """Return what is kept of an array, which has as many axes as ``kept``; the array itself where that is all."""
    for axis, chosen in enumerate(kept):
        if chosen is not None:
            array = np.compress(chosen, array, axis=axis)
    return array


def lengths(shape: Sequence[int], kept: Kept) -> tuple[int, ...]:
    """Return the shape of what is kept of an array."""
    return tuple(length if chosen is None else int(chosen.sum()) for length, chosen in zip(shape, kept, strict=True))


def reordered(kept: Kept, before: Sequence[int], after: Sequence[int]) -> Kept | None:
    """Return what is kept of an array before it was reshaped; None where that is nothing that axes could say.

    Args:
        kept: of the array afterwards. before, after: its shapes.
    """
    if 0 in before:
        return None
    mask = np.ones((1,) * len(after), dtype=bool)
    for axis, chosen in enumerate(kept):
        if chosen is not None:
            mask = mask & chosen.reshape((1,) * axis + (-1,) + (1,) * (len(after) - axis - 1))
    if mask.all():
        return (None,) * len(before)
    moved = np.broadcast_to(mask, after).reshape(before)
    found: list[Bools | None] = []
    rest = moved
    for axis in range(len(before)):
        along: Bools = np.asarray(moved.any(axis=tuple(other for other in range(len(before)) if other != axis)))
        found.append(None if along.all() else along)
        rest = part_of(rest, tuple(found[-1] if place == axis else None for place in range(len(before))))
    return tuple(found) if rest.all() else None
