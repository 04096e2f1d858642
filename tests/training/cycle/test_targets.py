"""How much each cycle removes, and from which network it starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.cycle.settings import Goal, Settings, goal_of
from onnxsqueeze.training.cycle.state import Record, State, from_json
from onnxsqueeze.training.cycle.targets import Attempt, missed, next_attempt

DENSE = 10_000


def record(cycle: int, elements: int, metric: float, *, base: int = 0, share: float = 0.4) -> Record:
    return Record(
        cycle=cycle,
        base=base,
        share=share,
        target=elements,
        elements=elements,
        network_elements=elements,
        left=elements,
        ratio=DENSE / elements,
        metric=metric,
    )


def state(goal: Goal, *records: Record, share: float = 0.4) -> State:
    return State(Settings(share=share), goal, DENSE, records=(record(0, DENSE, 0.98), *records))


def carried_out(found: State, metric: float) -> State:
    """Return the state after a cycle that reaches its target to the element."""
    attempt = next_attempt(found)
    assert isinstance(attempt, Attempt)
    made = record(attempt.cycle, attempt.target, metric, base=attempt.base, share=attempt.share)
    return replace(found, records=(*found.records, made))


def test_a_ratio_is_reached_in_equal_steps() -> None:
    found = state(Goal(cycles=4, max_drop=None, target_ratio=16.0))
    for cycle in range(1, 5):
        found = carried_out(found, metric=0.1)
        assert found.records[-1].ratio == pytest.approx(16 ** (cycle / 4), rel=1e-3)
        assert found.records[-1].base == cycle - 1
    assert next_attempt(found) == "the target is reached"


def test_without_a_ratio_each_cycle_removes_the_share() -> None:
    found = state(Goal(cycles=3, max_drop=0.005), share=0.4)
    for cycle in range(1, 4):
        found = carried_out(found, metric=0.98)
        assert found.records[-1].elements == pytest.approx(DENSE * 0.6**cycle, abs=2)
    assert next_attempt(found) == "all cycles are done"


def test_a_network_that_drops_too_much_is_given_up_and_half_the_share_tried() -> None:
    found = carried_out(state(Goal(cycles=20, max_drop=0.005)), metric=0.979)
    found = carried_out(found, metric=0.9)
    attempt = next_attempt(found)
    assert attempt == Attempt(cycle=3, base=1, share=0.2, target=4800)
    found = carried_out(found, metric=0.98)  # the share does not grow again
    attempt = next_attempt(found)
    assert isinstance(attempt, Attempt)
    assert (attempt.base, attempt.share) == (3, 0.2)
    for share in (0.2, 0.1, 0.05, 0.025):
        attempt = next_attempt(found)
        assert isinstance(attempt, Attempt)
        assert (attempt.base, attempt.share) == (3, pytest.approx(share))
        found = carried_out(found, metric=0.9)
    assert next_attempt(found) == "smaller steps would not be worth their training"


def test_a_ratio_with_a_drop_goes_back_too() -> None:
    found = state(Goal(cycles=4, max_drop=0.01, target_ratio=16.0))
    found = carried_out(found, metric=0.98)
    assert found.records[-1].share == pytest.approx(0.5)
    found = carried_out(found, metric=0.5)
    attempt = next_attempt(found)
    assert isinstance(attempt, Attempt)
    assert (attempt.base, attempt.share) == (1, pytest.approx(0.25))


def test_the_drop_allowed_includes_its_end() -> None:
    found = state(Goal(max_drop=0.005), record(1, 6000, 0.975))
    assert 0.98 - 0.975 > 0.005, "the example is one in which rounding decides"
    assert found.within(found.records[-1])
    assert not found.within(replace(found.records[-1], metric=0.97499))


def test_a_cycle_that_removes_nothing_is_the_last() -> None:
    assert next_attempt(state(Goal(), record(1, DENSE, 0.98))) == "nothing more could be removed"


def test_weights_held_at_zero_count_as_long_as_they_are_in_the_file() -> None:
    """Single weights that went are zeros in the file: what is still missing is spread over the cycles that are left."""
    held = replace(record(1, DENSE, 0.98), left=2000)
    attempt = next_attempt(state(Goal(cycles=3, max_drop=None, target_ratio=4.0), held))
    assert isinstance(attempt, Attempt)
    assert (attempt.share, attempt.target) == (0.5, DENSE // 2)


def test_a_network_from_which_nothing_can_go_is_not_tried_again() -> None:
    found = state(Goal(cycles=3, max_drop=None, target_ratio=4.0), record(1, DENSE // 2, 0.98))
    assert isinstance(next_attempt(found), Attempt)
    assert next_attempt(replace(found, exhausted=1)) == "nothing more could be removed"
    assert isinstance(next_attempt(replace(found, exhausted=0)), Attempt)


def test_a_ratio_that_is_missed_is_said() -> None:
    found = state(Goal(cycles=1, max_drop=None, target_ratio=6.0), record(1, DENSE // 2, 0.98))
    assert missed(found, 6.0, "all cycles are done") == ""
    assert missed(found, 2.0, "all cycles are done") == "missed: 2.00x of the 6x wanted: all cycles are done"
    single = replace(found, settings=Settings(criterion="magnitude"))
    assert "single weights leave units whole: criterion='units'" in missed(single, 2.0, "all cycles are done")
    assert missed(replace(found, goal=Goal()), 2.0, "all cycles are done") == ""


@pytest.mark.parametrize("given", [{"ratio": 3.0}, 4.0, [4.0]])
def test_goals_of_other_forms_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match="goals: .* is not a mapping of cycles, max_drop, target_ratio"):
        goal_of(given)  # type: ignore[arg-type]


def test_the_goal_changes_only_where_it_is_given() -> None:
    goal = Goal(cycles=3, max_drop=0.01)
    assert goal.changed(None, None, None) == goal
    assert goal.changed(5, None, None) == Goal(cycles=5, max_drop=0.01)
    assert goal.changed(None, None, 8.0) == Goal(cycles=3, max_drop=None, target_ratio=8.0)
    assert goal.changed(None, 0.02, 8.0) == Goal(cycles=3, max_drop=0.02, target_ratio=8.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Goal(cycles=-1), "cycles=-1"),
        (lambda: Goal(max_drop=-0.1), "max_drop=-0.1"),
        (lambda: Goal(max_drop=float("nan")), "max_drop=nan"),
        (lambda: Goal(target_ratio=0.5), "target_ratio=0.5"),
        (lambda: Settings(share=1.5), "share=1.5"),
        (lambda: Settings(release="sometimes"), "release='sometimes'"),
        (lambda: Settings(teacher="other"), "teacher='other'"),
        (lambda: Settings(seed=-1), "seed=-1"),
        (lambda: Settings(cost="money"), "cost='money': give one of parameters, macs, latency"),
        (lambda: Settings(likelihood="poisson"), "likelihood='poisson'"),
        (lambda: Settings(change=0.0), "change=0.0"),
    ],
)
def test_goals_and_settings_that_cannot_be_followed(wrong: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        wrong()  # type: ignore[operator]


def test_releases_in_every_cycle_in_none_or_in_every_second() -> None:
    cycles = range(1, 5)
    assert [Settings(release=True).releases(cycle) for cycle in cycles] == [True] * 4
    assert [Settings(release=False).releases(cycle) for cycle in cycles] == [False] * 4
    assert [Settings(release="alternate").releases(cycle) for cycle in cycles] == [False, True, False, True]


def test_a_state_is_read_back_as_it_was_written() -> None:
    settings = Settings(cost="macs", options={"weights": 0.25}, round_to=8)
    found = replace(state(Goal(target_ratio=39.0), record(1, 6000, 0.9783)), settings=settings, calibration="a.pt")
    found = replace(found, later=(Goal(cycles=9), Goal(cycles=12, target_ratio=50.0)), pinned=("a",), exhausted=1)
    assert from_json(found.to_json(), "state.json") == found


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format": 1}', b'{"format": 99}', b"\x00\xff"])
def test_a_file_that_is_no_state_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match="state.json: "):
        from_json(content, "state.json")
