"""Ratios of timings whose true ratio is known."""

from __future__ import annotations

import numpy as np
import pytest

from onnxsqueeze.bench.intervals import Ratio, ratio


def noisy(random: np.random.Generator, seconds: float, launches: int, rounds: int) -> list[np.ndarray]:
    """Return timings with noise in each round, and a little that the rounds of a process have in common."""
    common = 1 + 0.002 * random.standard_normal((launches, 1))
    return list(seconds * common * random.lognormal(0, 0.1, (launches, rounds)))


def test_timings_in_proportion_have_an_interval_of_no_width() -> None:
    reference = noisy(np.random.default_rng(0), 2e-3, 3, 20)
    found = ratio([0.25 * launch for launch in reference], reference)
    assert found is not None
    assert (found.median, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


@pytest.mark.parametrize("launches", [1, 3])
def test_the_interval_covers_the_true_ratio(launches: int) -> None:
    random = np.random.default_rng(1)
    intervals = [ratio(noisy(random, 0.7, launches, 40), noisy(random, 1.0, launches, 40)) for _ in range(200)]
    covered = sum(found is not None and found.low <= 0.7 <= found.high for found in intervals)
    assert covered >= 180  # of 200; 190 are expected
    widths = [found.high - found.low for found in intervals if found is not None]
    assert np.median(widths) < 0.15  # so that it does not cover by being wide


def test_what_the_rounds_of_a_process_have_in_common_widens_the_interval() -> None:
    random = np.random.default_rng(2)
    reference = [random.lognormal(0, 0.01, 50) for _ in range(3)]
    alike = ratio([1.0 * launch for launch in reference], reference)
    placed = ratio([place * launch for place, launch in zip((0.9, 1.0, 1.1), reference, strict=True)], reference)
    assert alike is not None and placed is not None
    assert alike.high - alike.low < 0.01
    assert placed.low == pytest.approx(0.9)
    assert placed.high == pytest.approx(1.1)


def test_processes_count_equally_however_many_rounds_they_made() -> None:
    reference = [np.ones(1000), np.ones(10), np.ones(10)]
    found = ratio([1.0 * reference[0], 2.0 * reference[1], 2.0 * reference[2]], reference)
    assert found is not None
    assert (found.low, found.high) == (1.0, 2.0)


def test_a_process_without_rounds_is_left_out() -> None:
    found = ratio([np.array([2.0, 2.0]), np.empty(0)], [np.array([1.0, 1.0]), np.empty(0)])
    assert found == Ratio(2.0, 2.0, 2.0)
    assert ratio([np.empty(0)], [np.empty(0)]) is None
    assert ratio([], []) is None


@pytest.mark.parametrize(
    ("low", "high", "doubt"),
    [
        (0.5, 0.55, ""),
        (0.99, 1.02, ""),  # equally fast, and that is certain
        (0.5, 0.7, "its interval is 33% wide"),
        (0.94, 1.04, "its interval leaves open which of the two is faster"),
    ],
)
def test_doubts(low: float, high: float, doubt: str) -> None:
    assert Ratio(0.6 if high < 0.9 else 1.0, low, high).doubt == doubt
