"""How many channels of a family minimizing would keep: sizes that are raised afterwards are not worth trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from onnxsqueeze.coupling.constraints import RoundUp
from onnxsqueeze.planning.policy import rounding
from onnxsqueeze.squeezing.families import Family
from onnxsqueeze.units.units import Units

Rounded = Callable[[int], int]
_MULTIPLE = 4  # of other layers' units, which kernels like and which costs nothing


def as_it_is(size: int) -> int:
    """Return a size that nothing raises."""
    return size


def raised(family: Family, units: Units, round_to: str | int) -> Rounded:
    """Return what says how many units of a family stay when so many should.

    Args:
        family: the family. units: of the network. round_to: see `onnxsqueeze.minimize`.
    """
    multiple = _MULTIPLE if round_to == "auto" else int(round_to)
    targets = list(_targets(family, units, round_to))

    def found(size: int) -> int:
        if multiple > 1 and size > multiple:
            size = min(-(-size // multiple) * multiple, family.size)
        return max([size, *(target(size, family.size) for target in targets)]) if size else 0

    return found


def _targets(family: Family, units: Units, round_to: str | int) -> Iterator[Callable[[int, int], int]]:
    """Yield the targets of tensors whose channels are the family's units, one each."""
    if family.rows is not None:
        return
    own = np.zeros(units.classes + 1, dtype=bool)
    own[units.members[1][np.isin(units.members[0], family.units)]] = True
    for constraint in rounding(units.analysis, round_to):
        if not isinstance(constraint, RoundUp) or constraint.ids.shape != (1, family.size):
            continue
        if own[units.analysis.labels[constraint.ids]].all():
            yield constraint.target
