"""Once the model is written, the run has succeeded."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxsqueeze.pipeline.minimize as way
from onnxsqueeze.rules.guard import STRICT
from tests.support.perceptrons import LIVE, refused, run, width


def fails(*arguments: object) -> None:
    raise ValueError("math domain error")


@pytest.mark.parametrize("broken", ["make_report", "agreement"])
def test_a_report_that_fails_is_a_warning(pruned: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    monkeypatch.setenv(STRICT, "0")
    monkeypatch.setattr(way, broken, fails)
    result = run("minimize", pruned, "--round-to", 1)
    assert result.exit_code == 0
    cause = "onnxsqueeze: warning: internal error while making the report: ValueError: math domain error"
    assert result.stderr.startswith(f"{cause}; the model is written")
    assert width(pruned.with_name("net.min.onnx")) == LIVE


def test_in_tests_it_is_an_error(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "make_report", fails)
    assert "ValueError" in refused(run("minimize", pruned), 1)
