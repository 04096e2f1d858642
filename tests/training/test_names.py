"""What the package offers is there when it is asked for, and not before; without PyTorch it says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

from onnxsqueeze import training


@pytest.mark.parametrize("name", training.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(training, name).__name__ == name
    assert name in dir(training)


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Squeezer'"):
        training.Squeezer  # noqa: B018


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_torch_is_imported_when_something_is_used() -> None:
    assert run("import sys, onnxsqueeze.training; sys.exit('torch' in sys.modules)").returncode == 0


@pytest.mark.parametrize("statement", ["import onnxsqueeze.training", "from onnxsqueeze.training import Phase"])
def test_without_torch_one_line_says_what_to_install(statement: str) -> None:
    done = run(f"import sys; sys.modules['torch'] = None; {statement}")
    assert done.stderr.splitlines()[-1].endswith("needs PyTorch: pip install 'onnxsqueeze[train]'")
