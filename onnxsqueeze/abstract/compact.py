"""Compact arrays: of a tensor's own rank, with length 1 along each axis on which nothing varies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_Entry = TypeVar("_Entry", bound=np.generic)


def any_along(mask: Bools, axes: int | tuple[int, ...], keepdims: bool = False) -> Bools:
    """Return whether anything holds along ``axes`` (an array also where none of the axes is left)."""
    return np.asarray(mask.any(axis=axes, keepdims=keepdims))


def aligned(array: npt.NDArray[Any], rank: int) -> npt.NDArray[Any]:
    """Return an array with leading axes of length 1 up to a rank."""
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def fit_any(mask: Bools, shape: tuple[int, ...]) -> Bools:
    """Bring a compact mask to a compact shape of the same rank: any() where that has length 1, repeated elsewhere."""
    if mask.shape == shape:
        return mask
    axes = tuple(axis for axis, length in enumerate(shape) if length == 1 and mask.shape[axis] != 1)
    reduced = any_along(mask, axes, keepdims=True) if axes else mask
    return reduced if reduced.shape == shape else np.broadcast_to(reduced, shape)


def fit_all(mask: Bools, shape: tuple[int, ...]) -> Bools:
    """Like `fit_any`, but an entry of length 1 holds only if it held everywhere along the axis."""
    return mask if mask.shape == shape else ~fit_any(~mask, shape)


def compacted(array: npt.NDArray[_Entry], axes: Iterable[int] | None = None) -> npt.NDArray[_Entry]:
    """Drop every axis (of those given) to length 1 along which all entries are equal."""
    for axis in range(array.ndim) if axes is None else axes:
        if array.shape[axis] > 1:
            first = array[(slice(None),) * axis + (slice(0, 1),)]
            if (array == first).all():
                array = first
    return array


def all_finite(array: Array) -> bool:
    """Whether no element is NaN or Inf, without a temporary of the array's size in the common case."""
    with np.errstate(all="ignore"):
        total = array.sum(dtype=np.float32 if array.dtype.itemsize <= 4 else None)
        return bool(np.isfinite(total)) or bool(np.isfinite(array).all())


def fits(array: Array, dtype: np.dtype[Any], before: Array | None = None) -> bool:
    """Whether float64 results are finite in a data type, or were infinite or NaN before they were computed further.

    Args:
        array: the results; of any other type they fit. dtype: what they are to be cast to.
        before: what they were computed from; it broadcasts against them.
    """
    if array.dtype != np.float64 or not array.size:
        return True
    with np.errstate(all="ignore"):
        ends = np.asarray([array.max(), array.min()]).astype(dtype).astype(np.float64)
        if np.isfinite(ends).all():
            return True
        if before is None:
            return False
        lost = ~np.isfinite(array.astype(dtype).astype(np.float64)) & np.isfinite(before.astype(np.float64))
        return not lost.any()
