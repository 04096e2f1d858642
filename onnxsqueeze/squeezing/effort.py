"""How many samples measuring takes, by the work that is to be done, never by a clock: a seed gives the same twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxsqueeze.squeezing.families import Family
from onnxsqueeze.squeezing.reader import Reader
from onnxsqueeze.units.units import Units

WORK = 4e12
"""Multiply-accumulates from which on there are fewer samples: a few minutes on one core."""
_EVALUATED, _MEASURED, _GATHERED = (64, 512), (16, 128), (192, 1 << 40)
_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True)
class Effort:
    """What is run.

    Attributes:
        evaluated: samples by which the sizes of families are compared. measured: those by which single units are.
        gathered: those from which layers are repaired, at most. apart: one size in so many is tried.
        sizes, singles: networks that run on these.
    """

    evaluated: int
    measured: int
    gathered: int
    apart: int
    sizes: int
    singles: int

    def fewer(self, given: int) -> int:
        """Return by how many of the samples sizes are compared, 0 where those are as many as ever."""
        return self.evaluated if self.evaluated < min(given, _EVALUATED[1]) else 0

    def seconds(self, few: float, many: float) -> float:
        """Return how long measuring takes at most: later layers do not run the whole network.

        Args:
            few, many: seconds of one network, loaded and run on the samples for single units, and on those for sizes.
        """
        return self.singles * few + self.sizes * many


def effort_of(units: Units, families: Sequence[Family], readers: Sequence[Reader], sizes: int) -> Effort:
    """Return how much to run for a network.

    Args:
        units, families, readers: of it. sizes: how many are tried of each family.
    """
    macs = max(1.0, units.macs_left(np.zeros(len(units), dtype=bool)))
    singles = sum(family.units.size for family in families if not family.exact)
    networks = sizes * len(families)
    apart = 2 if networks * macs * _EVALUATED[0] > WORK else 1
    networks = -(-networks // apart)
    return Effort(
        evaluated=_within(_EVALUATED, WORK / (networks * macs)),
        measured=_within(_MEASURED, WORK / (max(1, singles) * macs)),
        gathered=_within(_GATHERED, WORK / (2 * max(1, len(readers)) * macs)),
        apart=apart,
        sizes=networks,
        singles=singles,
    )


def _within(limits: tuple[int, int], wanted: float) -> int:
    return int(min(max(wanted, limits[0]), limits[1]))


def duration(seconds: float) -> str:
    """Return a time as it is told beforehand."""
    if seconds < _MINUTE:
        return "less than a minute"
    if seconds < _HOUR:
        return f"at most {round(seconds / _MINUTE)} minutes"
    return f"at most {seconds / _HOUR:.1f} hours"
