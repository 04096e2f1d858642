"""Slicing a constant to what a mask keeps of it."""

from __future__ import annotations

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, any_along
from onnxsqueeze.coupling.constraints import outer


def slice_to_mask(array: Array, mask: Bools) -> Array:
    """Return the part of an array that a mask of what it broadcasts against keeps (compact, of no smaller rank)."""
    if mask.all() or array.ndim == 0:
        return array
    if mask.ndim > array.ndim:
        mask = any_along(mask, tuple(range(mask.ndim - array.ndim)))
    return _product(array, mask) if np.array_equal(outer(mask), mask) else _ragged(array, mask)


def _product(array: Array, mask: Bools) -> Array:
    for axis, length in enumerate(mask.shape, start=array.ndim - mask.ndim):
        if length > 1 and array.shape[axis] > 1:
            others = tuple(other for other in range(mask.ndim) if other != axis - array.ndim + mask.ndim)
            array = np.compress(mask.any(axis=others), array, axis=axis)
    return array


def _ragged(array: Array, mask: Bools) -> Array:
    """Slice where rows keep different positions but equally many of them."""
    varying = [axis for axis, length in enumerate(mask.shape) if length > 1]
    front = np.moveaxis(array, varying, range(len(varying)))
    chosen = mask.reshape([mask.shape[axis] for axis in varying])
    rows = any_along(chosen, -1)
    others = [tuple(other for other in range(rows.ndim) if other != axis) for axis in range(rows.ndim)]
    lengths = [int(any_along(rows, axes).sum()) for axes in others]
    part = front[chosen].reshape(*lengths, -1, *front.shape[len(varying) :])
    return np.moveaxis(part, range(len(varying)), varying)
