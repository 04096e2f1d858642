"""What a weight's view says of its zeros, whatever its size and layout."""

from __future__ import annotations

import numpy as np
import pytest

from onnxsqueeze.rules import weight_view
from onnxsqueeze.rules.weight_view import Linear


def _linear(matrix: np.ndarray) -> Linear:
    return Linear("x", "w", "", 1, 1, 1, matrix, zero_padded=False, restore=lambda array: array)


@pytest.mark.parametrize("cached", [1, 50, 1 << 18])
@pytest.mark.parametrize("shape", [(1, 40, 7, 1), (1, 9, 30, 4), (12, 3, 2, 9), (5, 1, 1, 4)])
@pytest.mark.parametrize("turned", [False, True])
def test_reads_and_signs_are_those_of_the_taps(
    shape: tuple[int, ...], cached: int, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_view, "_CACHED", cached)
    random = np.random.default_rng(0)
    matrix = random.standard_normal(shape) * (random.random(shape) < 0.3)
    if turned:
        matrix = np.ascontiguousarray(matrix.swapaxes(1, 2)).swapaxes(1, 2)
    positive, negative = np.zeros(shape[:3], dtype=bool), np.zeros(shape[:3], dtype=bool)
    seen = np.zeros(shape[:2], dtype=int)
    for part in _linear(matrix).signs():
        positive[part.groups, part.rows] = part.positive.unpacked()
        negative[part.groups, part.rows] = part.negative.unpacked()
        seen[part.groups, part.rows] += 1
    assert (seen == 1).all()
    assert np.array_equal(positive, (matrix > 0).any(axis=3))
    assert np.array_equal(negative, (matrix < 0).any(axis=3))
    assert np.array_equal(_linear(matrix).reads.unpacked(), (matrix != 0).any(axis=3))
