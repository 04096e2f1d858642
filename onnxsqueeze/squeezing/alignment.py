"""How many channels of a family minimizing would keep: sizes that are raised afterwards are not worth trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from onnxsqueeze.coupling.constraints import RoundUp
from onnxsqueeze.planning.policy import next_multiple, rounding
from onnxsqueeze.squeezing.families import Family
from onnxsqueeze.units.units import Units

Rounded = Callable[[int], int]
_MULTIPLE = 4  # of other layers' units, which kernels like and which costs nothing


def as_it_is(size: int) -> int:
    """Return a size that nothing raises."""
    return size


@dataclass(frozen=True, eq=False)
class Alignment:
    """What raises the counts of a network's channels.

    Attributes:
        units: of the network. multiple: of which every count is that is larger. rounded: tensors and their targets.
    """

    units: Units
    multiple: int
    rounded: tuple[RoundUp, ...]

    @staticmethod
    def of(units: Units, round_to: str | int) -> Alignment:
        """Return what minimizing a network does with the same wish; see `onnxsqueeze.minimize`."""
        multiple = _MULTIPLE if round_to == "auto" else int(round_to)
        found = rounding(units.analysis, round_to)
        return Alignment(units, multiple, tuple(each for each in found if isinstance(each, RoundUp)))

    def raised(self, family: Family) -> Rounded:
        """Return what says how many units of a family stay when so many should."""
        targets = list(self._targets(family))

        def found(size: int) -> int:
            if size > self.multiple:
                size = next_multiple(self.multiple, size, family.size)
            return max([size, *(target(size, family.size) for target in targets)]) if size else 0

        return found

    def _targets(self, family: Family) -> Iterator[Callable[[int, int], int]]:
        """Yield the targets of tensors whose channels are the family's units, one each."""
        if family.rows is not None:
            return
        units = self.units
        own = np.zeros(units.classes + 1, dtype=bool)
        own[units.members[1][np.isin(units.members[0], family.units)]] = True
        for each in self.rounded:
            if each.ids.shape == (1, family.size) and own[units.analysis.labels[each.ids]].all():
                yield each.target
