"""The search ends: an attempt that teaches what was known before is an error, not another round."""

from __future__ import annotations

from typing import Any

import pytest

import onnxsqueeze as sq
from onnxsqueeze.pipeline import search
from onnxsqueeze.rules.lessons import KeepOne

MLP = "models/mlp.onnx"


def test_a_lesson_without_news_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def fail(*args: Any) -> None:
        attempts.append(args)
        raise KeepOne("a tensor that no pin helps")

    monkeypatch.setattr(search, "apply", fail)
    with pytest.raises(RuntimeError, match="learned nothing new from KeepOne"):
        sq.minimize(MLP, verify=False)
    assert len(attempts) == 2


def test_each_lesson_is_learned_and_the_search_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an attempt teaches, the next one is made with it, until one comes to an outcome."""
    lessons, known = [KeepOne("a"), KeepOne("b")], []
    real = search.make_plan

    def plan(analysis: Any, policy: Any, pins: Any, *rest: Any) -> Any:
        known.append([pin.tensor for pin in pins])
        return real(analysis, policy, pins, *rest)

    def apply(*args: Any) -> Any:
        if lessons:
            raise lessons.pop(0)
        return original(*args)

    original = search.apply
    monkeypatch.setattr(search, "make_plan", plan)
    monkeypatch.setattr(search, "apply", apply)
    assert sq.minimize(MLP, verify=False).report.ratio > 2
    assert known[:3] == [[], ["a"], ["a", "b"]]
