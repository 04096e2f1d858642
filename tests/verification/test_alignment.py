"""What was selected in a narrower tensor stands in its place among the original's own choices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsqueeze.verification.alignment import NotFoundError, aligned

CLOSE = 1e-9


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    narrow=st.sets(st.integers(0, 3), min_size=1, max_size=2),
)
def test_any_part_along_any_axes(seed: int, shape: list[int], narrow: set[int]) -> None:
    """Scores that rounding in float64 has moved are found again, along any axes, and choices put there."""
    random = np.random.default_rng(seed)
    ours = random.standard_normal(shape)
    made = np.rint(ours * 3).astype(np.int8)
    kept = [random.random(size) < 0.6 if axis in narrow else np.full(size, True) for axis, size in enumerate(shape)]
    part = np.ix_(*kept)
    chosen = made[part] + (random.random(made[part].shape) < 0.3).astype(np.int8)
    theirs = ours[part] + random.uniform(-1, 1, made[part].shape) * CLOSE / 2
    found = aligned(ours, theirs, made, chosen, CLOSE)
    expected = made.copy()
    expected[part] = chosen
    assert found is not None
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("heads", [(1, 3), (0, 1, 2, 3)])
def test_heads_of_other_lengths_stand_in_one_tensor(heads: tuple[int, ...]) -> None:
    """Each head keeps other places of its own, whether heads have gone as well or not."""
    random = np.random.default_rng(0)
    ours = random.standard_normal((3, 4, 6, 5))  # batch, heads, places, lengths
    made = np.zeros(ours.shape, np.int8)
    kept = {head: np.sort(random.permutation(6)[:3]) for head in heads}
    theirs = np.stack([ours[:, head][:, places] for head, places in kept.items()], axis=1)
    chosen = random.integers(1, 9, theirs.shape).astype(np.int8)
    found = aligned(ours, theirs, made, chosen, CLOSE)
    assert found is not None
    for index, (head, places) in enumerate(kept.items()):
        np.testing.assert_array_equal(found[:, head][:, places], chosen[:, index])
        made[:, head, places] = 1
    assert not found[made == 0].any()


def test_places_that_look_alike_are_told_apart() -> None:
    """Of thousands of places, some have the same random sum to within what is allowed of equal ones."""
    random = np.random.default_rng(0)
    ours = random.standard_normal((3000, 16))
    kept = random.random(3000) < 0.5
    made, chosen = np.zeros(ours.shape, np.int8), np.ones((int(kept.sum()), 16), np.int8)
    found = aligned(ours, ours[kept], made, chosen, 1e-3)
    assert found is not None
    np.testing.assert_array_equal(found.all(axis=1), kept)


def test_one_of_two_equal_units_stands_for_both() -> None:
    ours = np.array([[1.0, 2.0, 1.0, 3.0]])
    found = aligned(ours, ours[:, [0, 3]], np.array([[1, 2, 1, 3]]), np.array([[0, 4]]), CLOSE)
    np.testing.assert_array_equal(found, [[0, 2, 0, 4]])


def test_what_is_not_found_is_an_error() -> None:
    """A place whose scores are others, for an error in a constant, say, is no place of the original."""
    ours = np.array([[1.0, 2.0, 3.0]])
    with pytest.raises(NotFoundError):
        aligned(ours, np.array([[1.0, 2.1]]), np.array([[1, 2, 3]]), np.array([[0, 9]]), CLOSE)


@pytest.mark.parametrize("shape", [(2, 3), (4, 9, 9), (4, 5)])
def test_tensors_that_do_not_belong_together(shape: tuple[int, ...]) -> None:
    ours, theirs = np.zeros((4, 3, 9)), np.zeros(shape)
    assert aligned(ours, theirs, ours, theirs, CLOSE) is None


def test_many_places_take_no_time() -> None:
    random = np.random.default_rng(0)
    ours = random.standard_normal((2, 30_000))
    kept = np.nonzero(random.random(30_000) < 0.5)[0]
    found = aligned(ours, ours[:, kept], np.zeros(ours.shape, np.int8), np.ones((2, len(kept)), np.int8), CLOSE)
    assert found is not None
    np.testing.assert_array_equal(np.nonzero(found[0])[0], kept)
