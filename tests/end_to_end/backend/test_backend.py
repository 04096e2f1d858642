"""Every backend test of the onnx package, as shipped and masked, comes back right."""

from __future__ import annotations

import sys

import pytest

from tests.support.extent import LONG

from .masking import COLUMNS, CONSTANTS, FIXED, ROWS, SHIPPED, VARIANTS
from .pool import Task, judge_chosen
from .survey import Survey

FEWEST_SHIPPED = 1700
FEWEST_MASKED = 2000
"""Models whose outputs must have been compared; the newest packages have some hundred more than the oldest ones."""

JUDGED = 0.97
"""The part of the cases as shipped that onnxruntime or the reference evaluator gets right without us."""


LIGHT = ((ROWS,), (COLUMNS, FIXED), (CONSTANTS,))
"""Variants of light models in turn."""

HALVES = 2
"""Tests, each of every other case: two workers of pytest share them."""


@pytest.mark.parametrize("half", range(HALVES))
def test_backend_cases_come_back_right(half: int, capsys: pytest.CaptureFixture[str]) -> None:
    """No output is wrong, nothing crashes, is invalid, refused or larger, and every signature stays."""
    cases: list[str] = []

    def choose(keys: list[str]) -> list[Task]:
        cases.extend(keys[half::HALVES])
        return [(key, variant) for key in cases for variant in variants_of(key, keys.index(key))]

    survey = Survey(judge_chosen(choose))
    with capsys.disabled():
        print(f"\n{survey.summary()}", file=sys.stderr)  # pytest-xdist shows what its processes write there alone
    assert not survey.failures, "\n".join(survey.failures)
    shipped = sum(outcome.variant == SHIPPED for outcome in survey.compared)
    assert shipped >= max(FEWEST_SHIPPED / HALVES, JUDGED * len(cases))
    assert len(survey.compared) - shipped >= FEWEST_MASKED / HALVES


def variants_of(key: str, place: int) -> tuple[str, ...]:
    """Return the variants of a case; of a light model, a whole network whose masks take long, all in the long run."""
    return VARIANTS if LONG or not key.startswith("light/") else (SHIPPED, *LIGHT[place % len(LIGHT)])
