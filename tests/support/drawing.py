"""Random operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Draw:
    """Random arrays from one seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def floats(self, *shape: int) -> Array:
        """Normal float32."""
        return self._random.standard_normal(shape).astype(np.float32)

    def positive(self, *shape: int) -> Array:
        """Float32 between 0.5 and 1.5."""
        return (0.5 + self._random.random(shape)).astype(np.float32)

    def integers(self, low: int, high: int, *shape: int) -> Array:
        """int64 from low to high, which is not among them."""
        return self._random.integers(low, high, shape)

    def bools(self, *shape: int) -> Array:
        """True or False."""
        return self._random.random(shape) < 0.6

    def distinct(self, *shape: int) -> Array:
        """Float32 far enough apart that no small step changes their order."""
        count = int(np.prod(shape))
        return (self._random.permutation(count) / 4 - count / 8 + 0.1).astype(np.float32).reshape(shape)


def ints(*values: int) -> Array:
    """An int64 vector."""
    return np.array(values, dtype=np.int64)


def scalar(value: Any, dtype: Any = np.int64) -> Array:
    """An array of rank 0."""
    return np.array(value, dtype=dtype)
