"""A few constants do what all did, in whole numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsqueeze.coupling.constraint import Kept
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.operators.linear.stand_ins import Constants, StandIns, solved, stand_in

STEPS = st.lists(st.integers(-255, 255).filter(bool), min_size=1, max_size=8)


@given(steps=STEPS, seed=st.integers(0, 1 << 16), most=st.sampled_from([7, 90, 127]), size=st.integers(0, 20000))
def test_what_is_found_is_right(steps: list[int], seed: int, most: int, size: int) -> None:
    """Whatever is asked for: weights within the bounds that add up to it, or none."""
    totals = np.random.default_rng(seed).integers(-size, size + 1, (3, 4))
    found = solved(totals, np.array(steps), -most - 1, most)
    if found is not None:
        assert np.array_equal(found @ np.array(steps), totals)
        assert found.min() >= -most - 1 and found.max() <= most


@given(one=st.integers(1, 255), two=st.integers(1, 255), seed=st.integers(0, 1 << 16), sign=st.sampled_from([-1, 1]))
def test_two_steps_reach_every_multiple_of_their_factor(one: int, two: int, seed: int, sign: int) -> None:
    """Up to half of what both could add up to at most."""
    factor = int(np.gcd(one, two))
    reach = 60 * (one + two) // factor
    totals = np.random.default_rng(seed).integers(-reach, reach + 1, 50) * factor
    assert solved(totals, np.array([one, sign * two]), -255, 255) is not None


def test_one_step_reaches_its_multiples() -> None:
    assert solved(np.array([[15, -381], [0, 3]]), np.array([3]), -127, 127) is not None
    assert solved(np.array([384]), np.array([3]), -127, 127) is None  # too much
    assert solved(np.array([4]), np.array([3]), -127, 127) is None  # no multiple
    assert solved(np.array([0]), np.array([], int), -127, 127) is not None
    assert solved(np.array([1]), np.array([], int), -127, 127) is None


def kept(count: int, stays: tuple[int, ...] = ()) -> Kept:
    mask = np.zeros(count, bool)
    mask[list(stays)] = True
    return Kept(mask, np.full(count, None, object), np.zeros(count), {"x": np.full((1, count, 1, 1), True)})


def constraint(steps: list[int], weights: np.ndarray, most: int = 127) -> StandIns:  # type: ignore[type-arg]
    found = Constants(np.array([steps]), weights[None], np.ones((1, 1, 1, 1)), -most, most)
    return StandIns("x", np.arange(len(steps))[None], found)


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([5, 5, 5, 5], 1),
        ([6, 10, 15, 0], 3),  # no two reach what is no multiple of their factor
        ([8, 0, 9, 0], 2),
        ([4, 8, 12, 16], 2),
    ],
)
def test_as_many_stay_as_are_needed(steps: list[int], left: int) -> None:
    weights = np.random.default_rng(0).integers(-9, 10, (3, 4, 9))
    weights[0, :, 0] = 1, 2, 2, 1
    stays = kept(4)
    constraint(steps, weights).enforce(stays)
    assert stays.mask.sum() == left
    totals = np.einsum("oit,i->ot", weights, np.array(steps))
    assert solved(totals, np.array(steps)[stays.mask], -127, 127) is not None
    assert all(reason.reason is Reason.REPRESENTATIVE for reason in stays.reasons[stays.mask])
    assert not stays.mask[np.array(steps) == 0].any()


def test_what_stays_anyway_stands_in() -> None:
    weights, stays = np.ones((2, 3, 1), np.int64), kept(3, (1,))
    constraint([7, 7, 7], weights).enforce(stays)
    assert stays.mask.tolist() == [False, True, False]


def test_weights_that_hold_less_need_more() -> None:
    """Of 4 bits, of which each holds 7 steps."""
    stays = kept(6)
    constraint([3] * 6, np.full((1, 6, 1), 4), 7).enforce(stays)
    assert stays.mask.sum() == 4  # 24 steps


def test_nothing_is_asked_where_nothing_left() -> None:
    stays = kept(2, (0, 1))
    constraint([7, 3], np.ones((2, 2, 1), np.int64)).enforce(stays)
    assert stays.additions == 0


def test_rows_that_lose_nothing_stay_as_they_are() -> None:
    """Those of zeros above all, which may share one afterwards."""
    weights = np.array([[[3], [4], [5]], [[0], [0], [0]], [[23], [-11], [0]]])
    found = constraint([4, 7, 9], weights).constants
    linear: Any = SimpleNamespace(groups=1, matrix=np.zeros((1, 3, 3, 1), np.float32))
    made = stand_in(linear, found, np.array([[True, True, False]]), np.full((1, 3), True))
    assert made is not None
    np.testing.assert_array_equal(made[0, 1:, :2], weights[1:, :2])
    np.testing.assert_array_equal(made[0, :, :2, 0] @ [4, 7], weights[..., 0] @ [4, 7, 9])
