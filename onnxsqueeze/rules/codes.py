"""Tensors of real numbers that are stored as codes, whole numbers mostly: ``(code - zero_point) * scale``.

A runtime that computes in integers recognises its tensors by the node that decodes them, so that what is rewritten has
to be codes again, the very same numbers or none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Floats
from onnxsqueeze.rules.kept import Kept, part_of

_SURE = 0.25  # a sum of whole numbers that is known to within this is known exactly


@dataclass(frozen=True, eq=False)
class Codes:
    """How a tensor is stored as codes.

    Attributes:
        name: the tensor of codes, "" where there is none yet. dtype: of the codes.
        scale: as it is stored: one number, a vector along ``axis``, or of the tensor's rank, for blocks of ``block``
            codes along ``axis``. Its dtype is that of the real numbers.
        zero_point: likewise, of the codes' dtype; None where the code of 0 is 0.
    """

    name: str
    dtype: np.dtype[Any]
    scale: Array
    zero_point: Array | None = None
    axis: int = 0
    block: int = 0

    @property
    def limits(self) -> tuple[int, int] | None:
        """The least and the largest code; None where codes are no whole numbers."""
        return limits(self.dtype)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest code, which need not be whole."""
        if self.limits is not None:
            return self.limits
        info = ml_dtypes.finfo(self.dtype)  # type: ignore[no-untyped-call]
        return float(info.min), float(info.max)

    @property
    def per_tensor(self) -> bool:
        """Whether there is one scale for all."""
        return self.scale.size == 1

    def decoded_from(self, numbers: Array) -> list[Array]:
        """Return what a node reads that decodes codes as these are."""
        return [numbers, self.scale, *([] if self.zero_point is None else [self.zero_point])]

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Whether there is a scale for each place along the axis of a tensor of a shape."""
        return self.per_tensor or (not self.block and self.axis < len(shape) and shape[self.axis] == self.scale.size)

    def spread(self, array: Array, shape: tuple[int, ...]) -> Array:
        """Return a scale or a zero point so that it broadcasts against a tensor of a shape."""
        if array.size == 1:
            return array.reshape((1,) * len(shape))
        if self.block:
            return np.repeat(array, self.block, axis=self.axis).take(range(shape[self.axis]), axis=self.axis)
        return array.reshape((1,) * self.axis + (-1,) + (1,) * (len(shape) - self.axis - 1))

    def zeros(self, shape: tuple[int, ...]) -> Floats:
        """Return the codes of 0, so that they broadcast against a tensor of a shape; float64."""
        zero = np.zeros((1,) * len(shape)) if self.zero_point is None else self.spread(self.zero_point, shape)
        return zero.astype(np.float64)

    def decoded(self, codes: Array) -> Array:
        """Return the real numbers, rounded as a runtime does: once, since differences of codes are exact."""
        scale = self.spread(self.scale, codes.shape)
        with np.errstate(all="ignore"):
            real = (codes.astype(np.float64) - self.zeros(codes.shape)) * scale.astype(np.float64)
            return np.asarray(real.astype(self.scale.dtype))

    def rounded(self, steps: Floats) -> Floats:
        """Return the codes of numbers of steps from 0, half to even, the last one for what lies beyond it."""
        if self.limits is not None:
            return np.asarray(np.clip(np.rint(steps) + self.zeros(steps.shape), *self.limits))
        codes = np.clip(steps, *self.ends).astype(np.float32).astype(self.dtype)
        return np.asarray(codes.astype(np.float64))

    def nearest(self, real: Array) -> Array:
        """Return the codes of whole numbers that are nearest to real numbers."""
        assert self.limits is not None
        scale = self.spread(self.scale, real.shape).astype(np.float64)
        steps = real.astype(np.float64) / np.where(scale == 0, 1.0, scale)
        return np.asarray(np.clip(np.rint(steps) + self.zeros(real.shape), *self.limits).astype(self.dtype))

    def encoded(self, real: Array) -> Array | None:
        """Return the codes of real numbers, None where some are not exactly what a code stands for."""
        scale = self.spread(self.scale, real.shape).astype(np.float64)
        with np.errstate(all="ignore"):
            places = np.where(scale == 0, 0.0, real.astype(np.float64) / np.where(scale == 0, 1.0, scale))
            whole = self.limits is not None
            places = (np.rint(places) if whole else places) + self.zeros(real.shape)
            codes = self.fitting(places) if whole else places.astype(self.dtype)
        if codes is None:
            return None
        again = self.decoded(codes)
        return codes if again.dtype == real.dtype and np.array_equal(again, real) else None

    def fitting(self, numbers: Floats) -> Array | None:
        """Return whole numbers as codes, None where some do not fit."""
        if self.limits is not None and not ((numbers >= self.limits[0]) & (numbers <= self.limits[1])).all():
            return None
        codes = numbers.astype(self.dtype)
        return codes if np.array_equal(codes.astype(np.float64), numbers) else None

    def increased(self, codes: Array, by: Floats, magnitude: Floats) -> Array | None:
        """Return codes of what is larger by an amount, None where that is no whole number of steps or does not fit.

        Args:
            codes: the codes before. by: the real amounts, float64.
            magnitude: the sum of the sizes of what was added up to them, which says how far off rounding may be.
        """
        scale = self.spread(self.scale, codes.shape).astype(np.float64)
        with np.errstate(all="ignore"):
            steps, doubt = by / scale, magnitude / np.abs(scale) * _ROUNDING + _LEAST
            whole = np.rint(steps)
            if not (np.isfinite(steps).all() and (np.abs(steps - whole) <= doubt).all() and (doubt < _SURE).all()):
                return None
        return self.fitting(codes.astype(np.float64) + whole)

    def part(self, kept: Kept) -> Codes | None:
        """Return how what is kept of the tensor is stored; None where a block would lose some of its codes."""
        if self.per_tensor or all(chosen is None for chosen in kept):
            return self
        along = self.kept_scales(kept)
        if along is None:
            return None
        zero = None if self.zero_point is None else part_of(self.zero_point, along)
        return replace(self, scale=part_of(self.scale, along), zero_point=zero)

    def kept_scales(self, kept: Kept) -> Kept | None:
        """Return what is kept of the scales where that much is kept of the tensor; None as for `part`."""
        if self.per_tensor:
            return (None,) * self.scale.ndim
        chosen = kept[self.axis]
        if not self.block:
            return (chosen,)
        if chosen is None:
            return kept
        blocks = np.add.reduceat(chosen.astype(np.int64), range(0, len(chosen), self.block))
        sizes = np.minimum(self.block, len(chosen) - self.block * np.arange(len(blocks)))
        whole = (blocks == 0) | (blocks == sizes)
        return (
            tuple(blocks > 0 if axis == self.axis else other for axis, other in enumerate(kept))
            if whole.all()
            else None
        )


_ROUNDING = 1e-6  # relative, of scales that are products of two and of sums in float32
_LEAST = 1e-3  # steps


def limits(dtype: np.dtype[Any]) -> tuple[int, int] | None:
    """Return the least and the largest number of an integer type; None for any other type."""
    try:
        info = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    except ValueError:
        return None
    return int(info.min), int(info.max)


def first_of_block(length: int, size: int) -> npt.NDArray[np.int64]:
    """Return for each place along an axis the first one of its block."""
    return np.arange(length) // size * size
