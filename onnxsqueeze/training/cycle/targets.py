"""Decide how much the next cycle removes, and from which network it starts; a pure function of the state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxsqueeze.training.cycle.settings import SMALLEST_SHARE
from onnxsqueeze.training.cycle.state import Record, State


@dataclass(frozen=True)
class Attempt:
    """What the next cycle tries.

    Attributes:
        cycle: its number. base: the cycle whose network it starts from.
        share: the part of the base's elements to remove. target: the weight elements that its file shall have.
    """

    cycle: int
    base: int
    share: float
    target: int


def next_attempt(state: State) -> Attempt | str:
    """Return what the next cycle tries, or why there is none.

    With a ratio R to reach in n cycles, cycle k aims at R**(k/n), that is, each removes the same share of what the one
    before has left. What counts is the weight elements of the file to deploy, in which criteria of single weights leave
    zeros. With an allowed drop, a network that falls below it is given up: the last one within it is tried again with
    half the share.
    """
    last, goal = state.records[-1], state.goal
    base = last if goal.max_drop is None else [record for record in state.records if state.within(record)][-1]
    if goal.target_ratio is not None and base.ratio >= goal.target_ratio:
        return "the target is reached"
    if last.cycle >= goal.cycles:
        return "all cycles are done"
    if state.exhausted == base.cycle or (last.cycle and last is base and not _smaller(last, state.record(last.base))):
        return "nothing more could be removed"
    limit = _limit(state)
    if limit < SMALLEST_SHARE:
        return "smaller steps would not be worth their training"
    share = min(limit, _share_for_ratio(state, base))
    return Attempt(last.cycle + 1, base.cycle, share, max(1, round(base.elements * (1 - share))))


def _smaller(record: Record, base: Record) -> bool:
    """Whether something is gone: elements of the file, or, where nothing was released, zeros more inside of it."""
    return record.elements < base.elements or record.left < base.left


def missed(state: State, ratio: float, why: str) -> str:
    """Return a line on a ratio that was wanted and not reached, "" if it was or none was."""
    wanted = state.goal.target_ratio
    if wanted is None or ratio >= wanted:
        return ""
    hint = "; single weights leave units whole: criterion='units' removes them" if state.settings.single else ""
    return f"missed: {ratio:.2f}x of the {wanted:g}x wanted: {why}{hint}"


def _limit(state: State) -> float:
    """Return the largest share to remove: half of the last one that was too much."""
    failed = [record.share for record in state.records if not state.within(record)]
    if failed:
        return failed[-1] / 2
    return state.settings.share if state.goal.target_ratio is None else 1.0


def _share_for_ratio(state: State, base: Record) -> float:
    """Return the share that, removed in each of the remaining cycles, reaches the ratio wanted."""
    if state.goal.target_ratio is None:
        return 1.0
    remaining = state.goal.cycles - state.records[-1].cycle
    wanted = state.dense_elements / state.goal.target_ratio
    return max(0.0, 1 - math.pow(wanted / base.elements, 1 / remaining))
