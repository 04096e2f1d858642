"""Masks of weights, a bit for each element: what analysis remembers of every weight must be small beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, any_along

_BITS = 8


@dataclass(frozen=True)
class BitMatrix:
    """A mask [groups, rows, columns] that answers which rows and columns hold anything.

    Attributes:
        bits: uint8 [groups, lines, bytes]. A line is a row, or where ``by_columns`` a column, eight entries to a byte.
        shape: (groups, rows, columns). by_columns: whether it is stored column by column, as some weights are.
    """

    bits: npt.NDArray[np.uint8]
    shape: tuple[int, int, int]
    by_columns: bool

    @staticmethod
    def none(shape: tuple[int, int, int], by_columns: bool) -> BitMatrix:
        """Return a mask that holds nothing yet."""
        groups, rows, columns = shape
        lines, along = (columns, rows) if by_columns else (rows, columns)
        return BitMatrix(np.zeros((groups, lines, -(-along // _BITS)), np.uint8), shape, by_columns)

    @staticmethod
    def of(mask: Bools, by_columns: bool = False) -> BitMatrix:
        """Pack a mask [groups, rows, columns]."""
        groups, rows, columns = mask.shape
        lines = mask.transpose(0, 2, 1) if by_columns else mask
        return BitMatrix(np.packbits(lines, axis=2), (groups, rows, columns), by_columns)

    def put(self, groups: slice, rows: slice, part: BitMatrix) -> None:
        """Write a part: some rows of some groups. The first row's number is a multiple of 8."""
        if self.by_columns:
            self.bits[groups, :, rows.start // _BITS : -(-rows.stop // _BITS)] = part.bits
        else:
            self.bits[groups, rows] = part.bits

    def __or__(self, other: BitMatrix) -> BitMatrix:
        return BitMatrix(self.bits | other.bits, self.shape, self.by_columns)

    def rows(self, columns: Bools | None = None) -> Bools:
        """Return which rows hold anything, [groups, rows]; with ``columns`` [groups, columns] in some of these."""
        return self._joined(columns, self.shape[1]) if self.by_columns else self._lines(columns)

    def columns(self, rows: Bools | None = None) -> Bools:
        """Return which columns hold anything, [groups, columns]; with ``rows`` [groups, rows] in some of these."""
        return self._lines(rows) if self.by_columns else self._joined(rows, self.shape[2])

    def unpacked(self) -> Bools:
        """Return the mask [groups, rows, columns], a byte for each entry."""
        lines = np.unpackbits(self.bits, axis=2, count=self.shape[1 if self.by_columns else 2]).view(np.bool_)
        return lines.transpose(0, 2, 1) if self.by_columns else lines

    def _lines(self, chosen: Bools | None) -> Bools:
        """Return which lines hold anything, or anything of what is chosen along them, [groups, lines]."""
        bits = self.bits if chosen is None else self.bits & np.packbits(chosen, axis=1)[:, None]
        return any_along(bits != 0, 2)

    def _joined(self, chosen: Bools | None, along: int) -> Bools:
        """Return what lines hold together, or those that are chosen, [groups, along]."""
        bits = self.bits
        if chosen is not None and not chosen.all():
            bits = bits[:, chosen[0]] if len(bits) == 1 else bits * chosen[:, :, None]
        return np.unpackbits(np.bitwise_or.reduce(bits, axis=1), axis=1, count=along).view(np.bool_)
