"""One view of the weight of a linear node: [groups, out, in, taps]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools


@dataclass(frozen=True)
class Linear:
    """One linear node with a constant weight.

    Attributes:
        data, weight, bias: names of the tensors ("" without a bias). position: the weight's input position.
        data_axis, output_axis: the contracted axis of the data and the one that the weight makes.
        matrix: the weight as a view [groups, out, in, taps].
        zero_padded: positions may see fewer taps than others, so that no bias can stand for a constant input.
        scale: factor on the product (Gemm's alpha). bias_scale: factor on the bias (Gemm's beta).
        bias_position: the input that a bias may be added at, -1 where the operator has none.
        zero_bias: whether zeros that the graph computes stand there, as exporters write them; they count as no bias.
        is_table: whether rows are read by their numbers, so that nothing is multiplied.
        restore: brings an array [groups, out, in, taps] back to the weight's layout.
    """

    data: str
    weight: str
    bias: str
    position: int
    data_axis: int
    output_axis: int
    matrix: Array
    zero_padded: bool
    restore: Callable[[Array], Array]
    scale: float = 1.0
    bias_scale: float = 1.0
    bias_position: int = 2
    zero_bias: bool = False
    is_table: bool = False

    @property
    def groups(self) -> int:
        """The number of groups."""
        return int(self.matrix.shape[0])

    @property
    def depthwise(self) -> bool:
        """Whether each channel is mapped to itself."""
        return self.groups > 1 and self.matrix.shape[1:3] == (1, 1)

    @property
    def one_matrix(self) -> bool:
        """Whether one matrix reads all channels, the same at all positions."""
        return self.groups == 1 and not self.zero_padded

    def signs(self) -> tuple[Bools, Bools]:
        """Return where some tap is positive and where some is negative, [groups, out, in]."""
        found = _signs(self.matrix)
        self.__dict__.setdefault("reads", found[0] | found[1])  # costs nothing beside the signs
        return found

    @cached_property
    def reads(self) -> Bools:
        """Which channels each output reads, [groups, out, in]."""
        positive, negative = _signs(self.matrix)
        return np.logical_or(positive, negative, out=positive)

    def stored_axis(self, place: int) -> int:
        """Return the axis of the weight as it is stored along which an axis of ``matrix`` lies (of one group)."""
        shapes = [(1, 1 + (place == 1) * more, 1 + (place == 2) * more, self.matrix.shape[3]) for more in (0, 1)]
        before, after = (self.restore(np.empty(shape, dtype=bool)).shape for shape in shapes)
        return next(axis for axis, (short, long) in enumerate(zip(before, after, strict=True)) if short != long)

    def per_group(self, channels: npt.NDArray[Any], outputs: bool) -> npt.NDArray[Any]:
        """Return a vector over channels as [groups, per group]."""
        return np.broadcast_to(channels, (self.groups * self.matrix.shape[1 if outputs else 2],)).reshape(
            self.groups, -1
        )


_CACHED = 1 << 16  # weight elements that stay in a processor's cache while they are read tap by tap


def _signs(matrix: Array) -> tuple[Bools, Bools]:
    """Return where some tap is positive and where some is negative, [groups, out, in]."""
    if matrix.shape[3] == 1:
        return matrix[..., 0] > 0, matrix[..., 0] < 0
    positive, negative = np.empty(matrix.shape[:3], dtype=bool), np.empty(matrix.shape[:3], dtype=bool)
    step = max(1, _CACHED // max(1, matrix.shape[2] * matrix.shape[3]))
    for group in range(matrix.shape[0]):
        for start in range(0, matrix.shape[1], step):
            part = matrix[group, start : start + step]
            most, least = part[..., 0].copy(), part[..., 0].copy()
            for tap in range(1, part.shape[2]):
                np.maximum(most, part[..., tap], out=most)
                np.minimum(least, part[..., tap], out=least)
            np.greater(most, 0, out=positive[group, start : start + step])
            np.less(least, 0, out=negative[group, start : start + step])
    return positive, negative
