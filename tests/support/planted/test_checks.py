"""The measure that other tests use."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.planted.checks import deviation


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_never_close(number: float) -> None:
    fine, broken = np.array([1.0, 2.0], np.float32), np.array([1.0, number], np.float32)
    assert deviation([fine, fine], [fine, broken]) == np.inf
    assert deviation([broken], [broken]) == np.inf


def test_a_share_of_the_largest_of_each_output() -> None:
    expected = [np.array([1.0, -4.0], np.float32), np.zeros(3, np.int64)]
    assert deviation(expected, expected) == 0
    assert deviation(expected, [np.array([2.0, -4.0], np.float32), np.zeros(3, np.int64)]) == 0.25
    assert deviation(expected, [expected[0], np.ones(3, np.int64)]) > 1
    assert deviation(expected, [expected[0].astype(np.float64), expected[1]]) == np.inf
