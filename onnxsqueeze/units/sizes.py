"""How many weight elements are left when some classes have gone, and how many hang on each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxsqueeze.units.class_uses import Classes, Use

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StoredWeight:
    """One initializer and how it is read.

    Attributes:
        shape: as it is stored. uses: by the nodes that read it, with at least one.
    """

    name: str
    shape: tuple[int, ...]
    uses: tuple[Use, ...]

    def left(self, kept: Bools) -> float:
        """Return how many elements stay if only classes in ``kept`` do; those that any node reads."""
        if len(self.uses) == 1 and (axes := separate_axes(self.uses[0].arrays)) is not None:
            return float(np.prod(self._lengths(axes, self.uses[0].arrays, kept)))
        return float(self.mask(kept, erased=False).sum()) * self._repeats()

    def mask(self, kept: Bools, erased: bool = True) -> Bools:
        """Return which elements stay, compact: what several nodes read stays if it stays for one of them.

        With ``erased`` only the readers count whose elements must become zero, and nothing goes for the others.
        """
        found = np.zeros((1,) * len(self.shape), dtype=bool)
        for use in self.uses:
            own = np.ones((1,) * len(self.shape), dtype=bool)
            for array in use.arrays if use.erase or not erased else ():
                own = own & kept[array]
            found = found | own
        return np.broadcast_to(found, np.broadcast_shapes(found.shape, self._compact_shape()))

    def _compact_shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(*(array.shape for use in self.uses for array in use.arrays))

    def _repeats(self) -> float:
        return float(np.prod(self.shape)) / float(np.prod(self._compact_shape()))

    def hanging(self, kept: Bools, count: int) -> Floats:
        """Return by class how many elements leave with it, beside those that have left already."""
        cost = np.zeros(count)
        for use in self.uses:
            axes = separate_axes(use.arrays)
            if axes is None:
                whole = self.mask(kept, erased=False)
                for array in use.arrays:
                    np.add.at(cost, np.broadcast_to(array, whole.shape)[whole], self._repeats() / len(self.uses))
                continue
            lengths = self._lengths(axes, use.arrays, kept)
            for axis, array in zip(axes, use.arrays, strict=True):
                others = np.prod(np.delete(lengths, axis)) * self.shape[axis] / array.size
                np.add.at(cost, array.ravel()[_along(axis, axes, use.arrays, kept)], others / len(self.uses))
        return np.where(kept[:count], cost, 0.0)

    def _lengths(self, axes: Sequence[int], arrays: Sequence[Classes], kept: Bools) -> Floats:
        """Return how long each axis is of what stays."""
        lengths = np.array(self.shape, dtype=np.float64)
        for axis in set(axes):
            there = _along(axis, axes, arrays, kept)
            lengths[axis] = there.sum() * self.shape[axis] / there.size
        return lengths


def separate_axes(arrays: Sequence[Classes]) -> list[int] | None:
    """Return the axis along which each array of classes varies; None if one has several, or two differ along one."""
    axes = []
    for array in arrays:
        varying = [axis for axis, length in enumerate(array.shape) if length > 1]
        if len(varying) > 1:
            return None
        axes.append(varying[0] if varying else 0)
    lengths = {(axis, array.size) for axis, array in zip(axes, arrays, strict=True)}
    return axes if len(lengths) == len(set(axes)) else None


def _along(axis: int, axes: Sequence[int], arrays: Sequence[Classes], kept: Bools) -> Bools:
    """Return what stays along one axis: what stays in each of its arrays of classes."""
    own = [kept[array.ravel()] for place, array in zip(axes, arrays, strict=True) if place == axis]
    return np.asarray(np.logical_and.reduce(own))


def stored_weights(uses: Sequence[Use], shapes: Mapping[str, tuple[int, ...]]) -> list[StoredWeight]:
    """Gather the uses of each initializer."""
    found: dict[str, list[Use]] = {}
    for use in uses:
        found.setdefault(use.name, []).append(use)
    return [StoredWeight(name, shapes[name], tuple(own)) for name, own in found.items()]
