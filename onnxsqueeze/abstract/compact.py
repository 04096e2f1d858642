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


def fit_any(mask: Bools, shape: tuple[int, ...]) -> Bools:
    """Bring a compact mask to a compact shape of the same rank: any() where that has length 1, repeated elsewhere."""
    axes = tuple(axis for axis, length in enumerate(shape) if length == 1 and mask.shape[axis] != 1)
    reduced = any_along(mask, axes, keepdims=True) if axes else mask
    return np.broadcast_to(reduced, shape)


def fit_all(mask: Bools, shape: tuple[int, ...]) -> Bools:
    """Like `fit_any`, but an entry of length 1 holds only if it held everywhere along the axis."""
    return ~fit_any(~mask, shape)


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
