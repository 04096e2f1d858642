"""Reshape compact arrays: match the axes of two shapes block by block, symbolic sizes included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.dimension import Shape, Symbolic, as_symbolic, known, product

Array = npt.NDArray[Any]
Merge = Callable[[Array, tuple[int, ...]], Array]
Block = tuple[range, range]

_MOST_ELEMENTS = 1 << 20  # a block is not spread out to more elements than this; its elements are merged instead


def blocks(source: Shape, target: Shape) -> list[Block]:
    """Split the axes of two shapes of equal element count into the shortest pairs of runs with equal products."""
    ahead = _boundaries(source, target)
    i, j = ahead[-1]
    behind = _boundaries(source[i:][::-1], target[j:][::-1])
    cuts = ahead + [(len(source) - a, len(target) - b) for a, b in reversed(behind)]
    pairs = zip(cuts, cuts[1:], strict=False)
    return [(range(a, c), range(b, d)) for (a, b), (c, d) in pairs if (a, b) != (c, d)]


def _boundaries(source: Shape, target: Shape) -> list[tuple[int, int]]:
    """Return the places, from the front, up to which both shapes have the same number of elements."""
    place: dict[Symbolic, int] = {}
    for j in range(len(target) + 1):
        place.setdefault(as_symbolic(product(target[:j])), j)
    found, last = [], -1
    for i in range(len(source) + 1):
        j = place.get(as_symbolic(product(source[:i])), -1)
        if j > last:
            found.append((i, j))
            last = j
    return found


def reshape(array: Array, source: Shape, target: Shape, merge: Merge) -> Array:
    """Reshape a compact array of a tensor of shape ``source`` as the tensor itself is reshaped to ``target``.

    Args:
        merge: brings an array to length 1 along axes whose order the reshape would scramble.
    """
    pairs = blocks(source, target)
    lengths = [1] * len(target)
    for before, after in pairs:
        varying = [axis for axis in before if array.shape[axis] > 1]
        if not varying:
            continue
        inner = [(axis, source[axis]) for axis in before if source[axis] != 1]
        outer = [(axis, target[axis]) for axis in after if target[axis] != 1]
        if len(inner) == len(outer) == 1:
            lengths[outer[0][0]] = array.shape[inner[0][0]]
            continue
        spread = _spread(array, source, target, before, after)
        if spread is None:
            array = merge(array, tuple(varying))
            continue
        array = spread
        for axis in after:
            lengths[axis] = int(target[axis])  # type: ignore[arg-type]
    return _compressed(array.reshape(lengths), {axis for _, after in pairs for axis in after})


def _spread(array: Array, source: Shape, target: Shape, before: range, after: range) -> Array | None:
    """Repeat a block's elements to its full size, None where that is not known or too much."""
    if not all(known(source[axis]) for axis in before) or not all(known(target[axis]) for axis in after):
        return None
    shape = list(array.shape)
    for axis in before:
        shape[axis] = int(source[axis])  # type: ignore[arg-type]
    if np.prod(shape, dtype=np.float64) > _MOST_ELEMENTS:
        return None
    return np.broadcast_to(array, shape)


def _compressed(array: Array, axes: set[int]) -> Array:
    """Drop every axis to length 1 along which all entries are equal."""
    for axis in axes:
        if array.shape[axis] > 1:
            head = array[(slice(None),) * axis + (slice(0, 1),)]
            if (array == head).all():
                array = head
    return array
