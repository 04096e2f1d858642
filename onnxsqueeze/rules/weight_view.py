"""One view of the weight of a linear node: [groups, out, in, taps]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.bit_matrix import BitMatrix
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
        together: for each channel that is read, [in], the first of those that leave together with it, as they share
            what they are stored with; None where each leaves alone. Of one group only.
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
    together: npt.NDArray[np.int64] | None = None

    def with_others(self, columns: Bools) -> Bools:
        """Return columns [in], and all that leave only together with one of them."""
        if self.together is None:
            return columns
        found = np.zeros(columns.shape, bool)
        found[self.together[columns]] = True
        return found[self.together]

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

    @property
    def _by_columns(self) -> bool:
        """Whether the weight is stored column by column."""
        return bool(self.matrix.strides[1] < self.matrix.strides[2])

    def signs(self) -> Iterator[Signs]:
        """Yield part by part where some tap is positive and where some is negative; `reads` is then known, too."""
        by_columns = self._by_columns
        reads = BitMatrix.none(self.matrix.shape[:3], by_columns)
        for chosen, lines in _parts(self.matrix.shape):
            positive, negative = _signs(self.matrix[chosen, lines])
            signs = Signs(chosen, lines, BitMatrix.of(positive, by_columns), BitMatrix.of(negative, by_columns))
            reads.put(chosen, lines, signs.positive | signs.negative)
            yield signs
        self.__dict__["reads"] = reads

    @cached_property
    def reads(self) -> BitMatrix:
        """Which channels each output reads, [groups, out, in]."""
        reads = BitMatrix.none(self.matrix.shape[:3], self._by_columns)
        for chosen, lines in _parts(self.matrix.shape):
            part = self.matrix[chosen, lines]
            read = part[..., 0] != 0 if part.shape[3] == 1 else (part != 0).any(axis=3)
            reads.put(chosen, lines, BitMatrix.of(read, self._by_columns))
        return reads

    @property
    def stored_rank(self) -> int:
        """The rank of the weight as it is stored."""
        return len(self._probes[0])

    def stored_axis(self, place: int) -> int:
        """Return the axis of the weight as it is stored along which axis 1 or 2 of ``matrix`` lies (of one group)."""
        pairs = zip(self._probes[0], self._probes[place], strict=True)
        return next(axis for axis, (short, long) in enumerate(pairs) if short != long)

    @cached_property
    def _probes(self) -> list[tuple[int, ...]]:
        """How small weights would be stored: one of one row and column, one of two rows, and one of two columns."""
        taps = self.matrix.shape[3]
        shapes = ((1, 1, 1, taps), (1, 2, 1, taps), (1, 1, 2, taps))
        return [self.restore(np.empty(shape, dtype=bool)).shape for shape in shapes]

    def per_group(self, channels: npt.NDArray[Any], outputs: bool) -> npt.NDArray[Any]:
        """Return a vector over channels as [groups, per group]."""
        groups, out, inner, _ = self.matrix.shape
        size = groups * (out if outputs else inner)
        return (channels if channels.shape == (size,) else np.broadcast_to(channels, (size,))).reshape(groups, -1)


class Signs(NamedTuple):
    """The signs in a part of a weight: which groups and rows it has, and masks [groups, out, in] of these."""

    groups: slice
    rows: slice
    positive: BitMatrix
    negative: BitMatrix


_CACHED = 1 << 18  # weight elements that stay in a processor's cache while they are looked at


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Yield parts of a weight that are small: several groups, or rows of one, as many as fill whole bytes of bits."""
    groups, rows = shape[:2]
    per_row = max(1, shape[2] * shape[3])
    whole = _CACHED // max(1, rows * per_row)
    if whole:
        yield from ((slice(start, min(start + whole, groups)), slice(0, rows)) for start in range(0, groups, whole))
        return
    step = max(8, _CACHED // per_row // 8 * 8)
    for group in range(groups):
        chosen = slice(group, group + 1)
        yield from ((chosen, slice(start, min(start + step, rows))) for start in range(0, rows, step))


def _signs(part: Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return where some tap is positive and where some is negative, [groups, out, in]."""
    if part.shape[3] == 1:
        return part[..., 0] > 0, part[..., 0] < 0
    most, least = part[..., 0].copy(), part[..., 0].copy()
    for tap in range(1, part.shape[3]):
        np.maximum(most, part[..., tap], out=most)
        np.minimum(least, part[..., tap], out=least)
    return most > 0, least < 0
