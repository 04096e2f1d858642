"""The order in which the units of a family leave: those first whose readers lose least after their repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from onnxsqueeze.squeezing.families import Family
from onnxsqueeze.squeezing.gathering import Problems
from onnxsqueeze.squeezing.least_squares import Elimination, Floats, Numbers
from onnxsqueeze.units.units import Units

Bools = npt.NDArray[np.bool_]
_SHARE = 24  # one in so many of those that are left goes before all are scored again


class Removal:
    """A family on its way down.

    Attributes:
        left: which of its units are still there. gone_at: by unit the size at which it has left, -1 while it is there.
    """

    def __init__(
        self, family: Family, units: Units, problems: Mapping[str, Problems], scores: Floats | None = None
    ) -> None:
        """Begin with all units.

        Args:
            family: the family. units: of the network. problems: of its readers. scores: what each unit is worth,
                measured, for a family that is not exact.
        """
        self.family = family
        self.left = np.ones(family.units.size, dtype=bool)
        self.gone_at = np.full(family.units.size, -1)
        self._scores = scores
        self._parts = [
            (reader, group, Elimination(problem), columns)
            for reader in family.readers
            for group, (problem, columns) in enumerate(
                zip(problems[reader.name].joined(), family.columns(reader, units), strict=True)
            )
        ]

    def without(self, gone: Bools) -> None:
        """Take out units that have left before."""
        if gone.any():
            self._remove(np.flatnonzero(gone))

    def down_to(self, size: int) -> None:
        """Let units leave until so many are left, or so many of each row."""
        while (count := self._count()) > size:
            several = max(1, min(count - size, count // _SHARE))
            chosen, places = self._next(several)
            self.gone_at[chosen] = count - 1 - places
            self._remove(chosen)

    def _count(self) -> int:
        rows = self.family.rows
        return int(self.left.sum()) if rows is None else int(np.bincount(rows, self.left).max())

    def _next(self, count: int) -> tuple[Numbers, Numbers]:
        """Return the units that leave next, so many, or so many of each row that has them, and the turn of each."""
        scores = np.where(self.left, self._costs(), np.inf)
        if self.family.rows is None:
            return np.argsort(scores, kind="stable")[:count], np.arange(count)
        order = np.lexsort((scores, self.family.rows))
        rows = self.family.rows[order]
        place = np.arange(rows.size) - np.searchsorted(rows, rows)
        chosen = (place < count) & self.left[order]
        return order[chosen], place[chosen]

    def _costs(self) -> Floats:
        if self._scores is not None:
            return self._scores
        total = np.zeros(self.left.size)
        for _, _, elimination, columns in self._parts:
            total += elimination.costs(columns)
        return total

    def _remove(self, chosen: Numbers) -> None:
        self.left[chosen] = False
        for _, _, elimination, columns in self._parts:
            gone = np.concatenate([columns[number] for number in chosen])
            if gone.size:
                elimination.remove(gone)

    def removed(self, count: int) -> Bools:
        """Return which units of the network have left, of so many."""
        found = np.zeros(count, dtype=bool)
        found[self.family.units[~self.left]] = True
        return found

    def weights(self) -> Iterator[tuple[str, int, Floats]]:
        """Yield for each matrix of each reader its name, the group, and the best weights on what is left."""
        for reader, group, elimination, _ in self._parts:
            yield reader.name, group, elimination.best()


def measured_scores(family: Family, units: int, error: Callable[[Bools], float]) -> Floats:
    """Return for each unit the error at the outputs when it leaves alone.

    Args:
        family: the family. units: how many the network has. error: of the network without some units.
    """
    found = np.zeros(family.units.size)
    for place, unit in enumerate(family.units):
        removed = np.zeros(units, dtype=bool)
        removed[unit] = True
        found[place] = error(removed)
    return found
