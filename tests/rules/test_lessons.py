"""What was learned only grows, and a lesson that says what is known is told from one that does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.rules.lessons import (
    ConstantWhereKept,
    FoldOverflow,
    KeepOne,
    KeepWhole,
    Learned,
    Lesson,
    NonzeroPart,
    NotNarrowed,
    PassBeside,
    SliceOnce,
    TooLarge,
)

NAMES = st.sampled_from("abc")


def masks(length: int) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.booleans(), min_size=length, max_size=length).map(lambda flags: np.array(flags, dtype=bool))


LESSONS: st.SearchStrategy[Lesson] = st.one_of(
    st.sets(NAMES, min_size=1).map(ConstantWhereKept),
    NAMES.map(KeepWhole),
    st.sets(NAMES, min_size=1).map(SliceOnce),
    st.builds(FoldOverflow, NAMES, st.none() | st.tuples(st.just(1), st.integers(0, 2))),
    NAMES.map(KeepOne),
    st.sets(NAMES, min_size=1).map(TooLarge),
    st.dictionaries(st.integers(0, 2), st.tuples(masks(3), masks(2)), min_size=1).map(NonzeroPart),
    st.sets(st.integers(0, 2), min_size=1).map(PassBeside),
    st.builds(NotNarrowed),
)


def learned(lessons: list[Lesson]) -> Learned:
    found = Learned()
    for lesson in lessons:
        found = lesson.join(found)
    return found


@given(st.lists(LESSONS, max_size=6), LESSONS)
def test_a_lesson_teaches_once(lessons: list[Lesson], lesson: Lesson) -> None:
    once = lesson.join(learned(lessons))
    assert not lesson.join(once).adds_to(once)


@given(st.lists(LESSONS, max_size=6), LESSONS)
def test_what_was_learned_is_never_lost(lessons: list[Lesson], lesson: Lesson) -> None:
    """Joining what was known into what is known adds nothing."""
    before = learned(lessons)
    after = lesson.join(before)
    assert before.constant <= after.constant and before.tied <= after.tied and before.whole <= after.whole
    assert set(before.pins) <= set(after.pins) and before.narrows >= after.narrows
    for index, (columns, rows) in before.used.items():
        assert (columns <= after.used[index][0]).all() and (rows <= after.used[index][1]).all()


@given(st.permutations(range(4)), st.lists(LESSONS, min_size=4, max_size=4))
def test_the_order_of_lessons_does_not_matter(order: list[int], lessons: list[Lesson]) -> None:
    one, other = learned(lessons), learned([lessons[place] for place in order])
    assert not one.with_pins(other.pins).adds_to(one.with_pins(other.pins))
    assert set(one.pins) == set(other.pins)
    assert (one.constant, one.tied, one.whole, one.narrows) == (
        other.constant,
        other.tied,
        other.whole,
        other.narrows,
    )
    assert not other.with_used(one.used).adds_to(other) or set(one.pins) != set(other.pins)


@pytest.mark.parametrize(
    ("lesson", "reason"),
    [
        (FoldOverflow("t", (1, 2)), Reason.OVERFLOW),
        (KeepOne("t"), Reason.NOT_EMPTY),
        (TooLarge(["t"]), Reason.LARGER),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pins_carry_their_reason(lesson: Lesson, reason: Reason) -> None:
    (pin,) = lesson.join(Learned()).pins
    assert (pin.tensor, pin.reason) == ("t", reason)


@pytest.mark.parametrize("change", [lambda a: a, lambda a: a | np.array([False, True, False])])
def test_more_of_a_weight_is_news(change: Callable[[np.ndarray], np.ndarray]) -> None:
    rows = np.array([True, False])
    columns = np.array([True, False, False])
    before = NonzeroPart({0: (columns, rows)}).join(Learned())
    after = NonzeroPart({0: (change(columns), rows)}).join(before)
    assert after.adds_to(before) == bool((change(columns) != columns).any())
