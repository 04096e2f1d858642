"""`onnxsqueeze doctor` tells what is here, and fails when the minimizer does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

import onnxsqueeze
from onnxsqueeze.cli.main import main
from onnxsqueeze.runtimes import RUNTIMES


def test_it_names_versions_extras_and_runtimes() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert f"✓ onnxsqueeze          {onnxsqueeze.__version__}" in result.output
    lines = [line.split() for line in result.output.splitlines() if line.startswith("  ")]
    assert {name for _, name, *_ in lines} >= {*RUNTIMES, "train", "report", "plot", "minimize"}
    assert all(mark in "✓·" and rest for mark, _, *rest in lines)


def test_a_broken_minimizer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise KeyError("broken")

    monkeypatch.setattr("onnxsqueeze.pipeline.minimize.minimize", fail)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1 and "the self-test failed: KeyError: 'broken'" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str) -> None:
    environment = os.environ | {"_ONNXSQUEEZE_COMPLETE": f"{shell}_source"}
    command = [sys.executable, "-m", "onnxsqueeze"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "_ONNXSQUEEZE_COMPLETE" in done.stdout
