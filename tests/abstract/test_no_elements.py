"""Compact arrays of tensors without elements: there is nothing to be said, and nothing fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxsqueeze.abstract.compact import any_along, compacted, fit_all, fit_any
from onnxsqueeze.abstract.interval import collapse, compact, constant_interval, hull, top
from onnxsqueeze.abstract.reshaping import blocks, reshape
from onnxsqueeze.abstract.symbolic import symbol

N = symbol("n")


def never(array: Any, axes: tuple[int, ...]) -> Any:
    raise AssertionError("nothing is scrambled where there is nothing")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((0, 3, 4), (3, 4, 0)),
        ((0, 3, 4), (0, 12)),
        ((0, 12), (0, 3, 4)),
        ((3, 0), (0,)),
        ((0,), (0, 0, 7)),
        ((2, 0, 5), (5, 0)),
        ((N, 0, 4), (0, 4, N)),
        ((4, 0), (N, 0)),
    ],
)
@pytest.mark.parametrize("varies", [False, True])
def test_reshape(source: tuple[Any, ...], target: tuple[Any, ...], varies: bool) -> None:
    array = np.zeros([size if varies and isinstance(size, int) else 1 for size in source])
    found = reshape(array, source, target, never)
    assert found.size == 0 and found.ndim == len(target)
    np.broadcast_to(found, [size if isinstance(size, int) else 5 for size in target])
    assert all(len(pair) == 2 for pair in blocks(source, target))


def test_collapsing_nothing_says_nothing() -> None:
    interval = collapse(constant_interval(np.zeros((2, 0, 3))), (1,))
    assert interval.lower.shape == (2, 1, 3)
    assert np.isneginf(interval.lower).all() and np.isposinf(interval.upper).all()
    assert collapse(constant_interval(np.zeros((2, 0))), (0,)).lower.shape == (1, 0)


def test_intervals_of_nothing() -> None:
    interval = constant_interval(np.zeros((0, 3)))
    assert compact(interval).lower.size == 0
    assert hull([interval, top(2)]).lower.shape == (0, 3)
    assert interval.wholly_constant


def test_masks_of_nothing() -> None:
    mask = np.zeros((0, 3), bool)
    assert not fit_any(mask, (1, 3)).any() and fit_any(mask, (1, 3)).shape == (1, 3)
    assert fit_all(mask, (1, 3)).all()
    assert not any_along(mask, (0,)).any()
    assert compacted(mask).size == 0
