"""The cubic schedule: its ends, its middle, its slope."""

from __future__ import annotations

import pytest

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.squeezing.schedule import cubic_sparsity, cubic_targets


def test_it_begins_at_the_initial_sparsity_and_ends_at_the_final_one() -> None:
    assert cubic_sparsity(0, 7, 0.9, 0.2) == pytest.approx(0.2)
    assert cubic_sparsity(7, 7, 0.9, 0.2) == pytest.approx(0.9)
    assert cubic_sparsity(9, 7, 0.9, 0.2) == pytest.approx(0.9)


def test_half_way_an_eighth_of_what_is_to_go_is_still_there() -> None:
    assert cubic_sparsity(5, 10, 0.8) == pytest.approx(0.8 * 7 / 8)


def test_targets_fall_fast_first_and_end_exactly() -> None:
    targets = cubic_targets(1000, 123, 5)
    steps = [before - after for before, after in zip([1000, *targets], targets, strict=False)]
    assert targets[-1] == 123
    assert all(first > second > 0 for first, second in zip(steps, steps[1:], strict=False))
    assert cubic_targets(1000, 123, 1) == [123]


@pytest.mark.parametrize("arguments", [(0, 0, 0.5), (-1, 3, 0.5), (1, 3, 1.5), (1, 3, 0.5, -0.1)])
def test_what_is_no_schedule_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="no cubic schedule"):
        cubic_sparsity(*arguments)  # type: ignore[arg-type]


def test_more_than_there_is_cannot_be_left() -> None:
    with pytest.raises(UsageError, match="cannot be left"):
        cubic_targets(10, 11, 2)
