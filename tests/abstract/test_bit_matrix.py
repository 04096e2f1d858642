"""Masks of a bit for each element answer as masks of a byte do."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxsqueeze.abstract.bit_matrix import BitMatrix

MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)))


@given(MASKS, st.booleans(), st.randoms(use_true_random=False))
def test_rows_and_columns_are_those_of_the_mask(mask: np.ndarray, by_columns: bool, random: object) -> None:
    bits, (groups, rows, columns) = BitMatrix.of(mask, by_columns), mask.shape
    draw = np.random.default_rng(random.getrandbits(32)).integers  # type: ignore[attr-defined]
    chosen_rows, chosen_columns = draw(2, size=(groups, rows)) > 0, draw(2, size=(groups, columns)) > 0
    assert np.array_equal(bits.unpacked(), mask)
    assert np.array_equal(bits.rows(), mask.any(axis=2))
    assert np.array_equal(bits.columns(), mask.any(axis=1))
    assert np.array_equal(bits.rows(chosen_columns), (mask & chosen_columns[:, None]).any(axis=2))
    assert np.array_equal(bits.columns(chosen_rows), (mask & chosen_rows[:, :, None]).any(axis=1))


@given(MASKS, st.booleans(), st.integers(1, 3))
def test_parts_make_the_whole(mask: np.ndarray, by_columns: bool, step: int) -> None:
    groups, rows, _ = mask.shape
    whole = BitMatrix.none(mask.shape, by_columns)
    for group in range(groups):
        for start in range(0, rows, 8 * step):
            chosen, lines = slice(group, group + 1), slice(start, min(start + 8 * step, rows))
            whole.put(chosen, lines, BitMatrix.of(mask[chosen, lines], by_columns))
    assert np.array_equal(whole.unpacked(), mask)


def test_a_bit_for_each_element() -> None:
    mask = np.ones((2, 64, 128), dtype=bool)
    assert BitMatrix.of(mask).bits.nbytes == mask.nbytes // 8
