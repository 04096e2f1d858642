"""The constant channels that leave a normalised axis, and the ones that stay to represent them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, Floats

_FLOAT32 = 1e-6  # sums that were stored as float32 attributes agree to this
_SMALLEST_SPREAD = 1 / 4
"""Two constants that are this much closer to each other than to the removed ones do not stand for those: their own
rounding would be magnified, and in float16 the square of what they give could overflow."""


@dataclass(frozen=True)
class Earlier:
    """Constant channels that an earlier run removed from the same normalisation.

    How many, their sum, and the sum of their squared deviations from their mean. (With the sum of their squares
    instead, the variance of constants that are large and close to each other would be lost to rounding.)
    """

    count: int = 0
    total: float = 0.0
    deviations: float = 0.0


@dataclass(frozen=True)
class Removed:
    """How a normalised axis of N channels is narrowed.

    Attributes:
        kept: the channels that stay [N].
        constants: the value of each channel that is one constant everywhere, NaN elsewhere; float64 [N].
        earlier: what left before, which the width of the normalisation still counts.
    """

    kept: Bools
    constants: Floats
    earlier: Earlier = field(default_factory=Earlier)

    @cached_property
    def values(self) -> Floats:
        """The constants that leave now."""
        return self.constants[~self.kept]

    @property
    def present(self) -> int:
        """How many channels are left."""
        return int(self.kept.sum())

    @property
    def count(self) -> int:
        """How many channels have left, now or earlier."""
        return len(self.values) + self.earlier.count

    @property
    def width(self) -> int:
        """Over how many channels the normalisation is defined."""
        return len(self.kept) + self.earlier.count

    @property
    def share(self) -> float:
        """The fraction of the width that is left."""
        return self.present / self.width

    @property
    def total(self) -> float:
        """The sum of all constants that have left."""
        return float(self.values.sum()) + self.earlier.total

    @property
    def mean(self) -> float:
        """The mean of all constants that have left."""
        return float(self.values[0]) if self.equal and len(self.values) else self.total / max(1, self.count)

    @property
    def deviations(self) -> float:
        """The sum of the squared deviations of all constants that have left from their mean."""
        if self.equal or not self.count:
            return 0.0
        now, before = len(self.values), self.earlier.count
        apart = 0.0
        if now and before:
            apart = (float(self.values.mean()) - self.earlier.total / before) ** 2 * now * before / self.count
        return (float(self.values.var()) * now if now else 0.0) + self.earlier.deviations + apart

    @property
    def variance(self) -> float:
        """The variance of all constants that have left."""
        return self.deviations / max(1, self.count)

    @cached_property
    def equal(self) -> bool:
        """Whether all constants that have left are the same number, those earlier as far as float32 can tell."""
        count = self.earlier.count
        if not self.count or (len(self.values) and (self.values != self.values[0]).any()):
            return False
        value = float(self.values[0]) if len(self.values) else self.earlier.total / count
        alike = np.isclose(self.earlier.total, value * count, rtol=_FLOAT32, atol=0)
        return bool(alike and self.earlier.deviations == 0)

    def representatives(self) -> npt.NDArray[np.int64] | None:
        """Return the kept channels that the removed ones follow from: one equal to all of them, else two apart.

        None if nothing left, or if there are no such channels.
        """
        standing = np.nonzero(self.kept & ~np.isnan(self.constants))[0]
        if not self.count or not len(standing):
            return None
        found = self.constants[standing]
        same = np.isclose(found, self.mean, rtol=_FLOAT32, atol=0)
        if self.equal and same.any():
            return np.asarray(standing[same][:1])
        low, high = standing[found.argmin()], standing[found.argmax()]
        gap = self.constants[high] - self.constants[low]
        wanted = np.append(self.values, self.mean)
        reach = max(float(np.ptp(wanted)), float(np.abs(wanted - self.constants[low]).max()))
        return np.array([low, high]) if gap > 0 and gap >= reach * _SMALLEST_SPREAD else None
