"""What DynamicQuantizeLSTM reads: features once, and the states of each direction at each step, by measured scales.

What is encoded so keeps its sign, and 0 stays 0. Any other constant is rounded by what stands beside it, so that it is
none afterwards; and what may be the largest element sets the scale for all others, whether or not a weight reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.coupling.constraint import Classes, Constraint, Kept
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.operators.quantization.dynamic import measured
from onnxsqueeze.rules.contract import Demand


@dataclass(frozen=True)
class Extremes(Constraint):
    """While any unit of a direction stays, those do that could set the scale of all.

    ``units`` are the classes of one direction's units [H], ``extreme`` says which of them could [H].
    """

    units: Classes
    extreme: Bools
    detail: str
    by_value: ClassVar[bool] = True

    def enforce(self, kept: Kept) -> None:
        """Add those units."""
        if kept.mask[self.units].any():
            kept.add(self.units[self.extreme], Reason.MEASURED, self.detail)


def signs(interval: Interval) -> Interval:
    """Return what is known of numbers that were encoded by a scale that nobody knows beforehand."""
    return Interval(np.where(interval.lower >= 0, 0.0, -np.inf), np.where(interval.upper <= 0, 0.0, np.inf))


def setting_scale(interval: Interval) -> Bools:
    """Return which elements could set the scale, or are what keeps others from it."""
    extreme, ends = measured(interval)
    return extreme | ends


def demand(interval: Interval, live: Bools, detail: str) -> Demand:
    """Ask for what sets the scale, and for what is read, constants as well; 0 is read as 0 whatever the scale is.

    Args:
        interval: of all that is encoded together. live: which of that a weight reads. detail: what encodes it.
    """
    lost = live & ((interval.lower != 0) | (interval.upper != 0))
    return Demand(live, setting_scale(interval) | lost, Reason.MEASURED, detail)
