"""Calls that are timed in turn, so that their times can be compared on a machine that does other things as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_TRIED, _FEWEST = 4, 3


def interleaved_times(
    runs: Sequence[Callable[[], object]], rounds: int, seconds: float = 0.005
) -> npt.NDArray[np.float64]:
    """Time several calls in turn, so that a busy moment of the machine hits all of them alike.

    In each round each call is repeated, and its fastest repeat counts: what other processes take is no part of it.

    Args:
        runs: the calls.
        rounds: how often each is timed.
        seconds: how long the repeats of one call should take together; at least three are made.

    Returns:
        float64[rounds, len(runs)] seconds per call.
    """
    repeats = [max(_FEWEST, round(seconds / _fastest(run, _TRIED))) for run in runs]
    times = np.empty((rounds, len(runs)))
    for row in range(rounds):
        for column in np.random.default_rng(row).permutation(len(runs)):
            times[row, column] = _fastest(runs[column], repeats[column])
    return times


def _fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of several calls."""
    moments = [time.perf_counter()]
    for _ in range(repeats):
        run()
        moments.append(time.perf_counter())
    return float(np.diff(moments).min())
