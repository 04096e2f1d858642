"""Compact arrays: of a tensor's own rank, with length 1 along each axis on which nothing varies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


Bools = npt.NDArray[np.bool_]


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


Array = npt.NDArray[Any]


def all_finite(array: Array) -> bool:
    """Whether no element is NaN or Inf, without a temporary of the array's size in the common case."""
    with np.errstate(all="ignore"):
        total = array.sum(dtype=np.float32 if array.dtype.itemsize <= 4 else None)
        return bool(np.isfinite(total)) or bool(np.isfinite(array).all())
