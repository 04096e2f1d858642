"""Reshape compact arrays: match the axes of two shapes block by block, symbolic sizes included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import compacted
from onnxsqueeze.abstract.symbolic import Shape, Symbolic, as_symbolic, product

Array = npt.NDArray[Any]
Merge = Callable[[Array, tuple[int, ...]], Array]
Block = tuple[range, range]

_MOST_ELEMENTS = 1 << 20  # a block is not spread out to more elements than this; its elements are merged instead


@lru_cache(4096)
def blocks(source: Shape, target: Shape) -> tuple[Block, ...]:
    """Split the axes of two shapes of equal element count into the shortest pairs of runs with equal products."""
    ahead = _boundaries(source, target)
    i, j = ahead[-1]
    behind = _boundaries(source[i:][::-1], target[j:][::-1])
    cuts = ahead + [(len(source) - a, len(target) - b) for a, b in reversed(behind)]
    pairs = zip(cuts, cuts[1:], strict=False)
    return tuple((range(a, c), range(b, d)) for (a, b), (c, d) in pairs if (a, b) != (c, d))


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

    Along an axis of a size like ``4*batch`` an array may have 4 entries, which repeat. Of a tensor without elements
    there is nothing to be said: the result has none either.
    """
    if 0 in source:
        return array[(slice(0),) * array.ndim].reshape([0 if size == 0 else 1 for size in target])
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
        array, made = spread
        lengths[after.start : after.stop] = made
    return compacted(array.reshape(lengths), {axis for _, after in pairs for axis in after})


def _spread(
    array: Array, source: Shape, target: Shape, before: range, after: range
) -> tuple[Array, tuple[int, ...]] | None:
    """Repeat a block's elements to its full size, or to one period of it; also return the block's new lengths.

    None where the size is not known or too much.
    """
    lengths = array.shape[before.start : before.stop]
    periods = _periods(source[before.start : before.stop], target[after.start : after.stop], lengths)
    if periods is None:
        return None
    full, made = periods
    shape = (*array.shape[: before.start], *full, *array.shape[before.stop :])
    if np.prod(shape, dtype=np.float64) > _MOST_ELEMENTS or any(a % b for a, b in zip(full, lengths, strict=True)):
        return None
    repeats = [1] * array.ndim
    for axis, length, size in zip(before, lengths, full, strict=True):
        repeats[axis] = size // length if 1 < length < size else 1
    return np.broadcast_to(np.tile(array, repeats) if max(repeats) > 1 else array, shape), made


def _periods(source: Shape, target: Shape, lengths: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return by how many elements along each axis a block's pattern repeats, before and after; known sizes are whole.

    Of sizes as ``4*batch`` the factor 4 can be told apart, if such an axis comes first: batches and heads in one axis.
    Axes in front of it do not matter if nothing is told apart along them (``lengths`` of 1, before): the pattern that
    begins with the factor is then repeated all over the block.
    """
    symbolic = [[size for size in shape if isinstance(size, Symbolic)] for shape in (source, target)]
    if not symbolic[0] and not symbolic[1]:
        return _numbers(source), _numbers(target)
    told = [size for size, length in zip(source, lengths, strict=True) if length > 1 or isinstance(size, Symbolic)]
    heads = [next((size for size in shape if size != 1), 1) for shape in (told, target)]
    alone = all(len(found) == 1 and found[0] is head for found, head in zip(symbolic, heads, strict=True))
    first, second = (as_symbolic(head) for head in heads)
    if not alone or first.offset or second.offset or sorted(first.names) != sorted(second.names):
        return None
    return _numbers(source), _numbers(target)


def _numbers(shape: Shape) -> tuple[int, ...]:
    return tuple(size.coefficient if isinstance(size, Symbolic) else int(size) for size in shape)
