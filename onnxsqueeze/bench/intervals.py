"""Ratios of interleaved timings, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_REPLICATES = 2000
_SEED = 0  # the same timings give the same interval
_LIMITS = (2.5, 97.5)  # percentiles
_WIDEST = 0.2
_WIDEST_AROUND_ONE = 0.05


@dataclass(frozen=True)
class Ratio:
    """The median ratio of two timings and its 95 % interval.

    Attributes:
        median: over all rounds.
        low: the lower end of the interval.
        high: its upper end.
    """

    median: float
    low: float
    high: float

    @property
    def doubt(self) -> str:
        """Why the interval says too little: it is wide, or it leaves open which of the two is faster; "" if neither.

        An interval around 1 that is narrow does say something: both are equally fast.
        """
        width = (self.high - self.low) / self.median
        if width > _WIDEST:
            return f"its interval is {width:.0%} wide"
        if self.low <= 1 <= self.high and width > _WIDEST_AROUND_ONE:
            return "its interval leaves open which of the two is faster"
        return ""


def ratio(times: Sequence[Array], reference: Sequence[Array]) -> Ratio | None:
    """Compare two interleaved timings round by round.

    The interval is a bootstrap over two levels: processes are drawn with replacement, and rounds within each of them
    (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). Rounds alone would make it too
    narrow, since what one process has in common, such as where its weights lie in memory, would not count as chance.

    Args:
        times: for each process, float64[rounds] seconds.
        reference: the same, for what they are divided by.

    Returns:
        None where no round was measured.
    """
    launches = [ours / theirs for ours, theirs in zip(times, reference, strict=True) if len(ours)]
    if not launches:
        return None
    random = np.random.default_rng(_SEED)
    rounds = min(map(len, launches))  # equally many of each, so that every process counts the same
    chosen = random.integers(len(launches), size=(_REPLICATES, len(launches)))
    drawn = np.empty((_REPLICATES, len(launches), rounds))
    for index, launch in enumerate(launches):
        places = chosen == index
        drawn[places] = launch[random.integers(len(launch), size=(int(places.sum()), rounds))]
    low, high = np.percentile(np.median(drawn.reshape(_REPLICATES, -1), axis=1), _LIMITS)
    median = float(np.median(np.concatenate(launches)))
    return Ratio(median, min(float(low), median), max(float(high), median))
