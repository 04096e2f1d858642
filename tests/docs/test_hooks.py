"""The script of the action and of the pre-commit hook."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools/hooks/inspect_changed.sh"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    program = tools / "onnxsqueeze"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxsqueeze "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run([SCRIPT, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "models/mlp.onnx", tmp_path / "first.onnx")
    git(tmp_path, "init")
    git(tmp_path, "add", "first.onnx")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_files_that_changed_are_inspected(repository: Path) -> None:
    shutil.copy(ROOT / "models/mlp.onnx", repository / "second model.onnx")
    git(repository, "add", "second model.onnx")
    git(repository, "commit", "-m", "second")
    done = run(repository, "--since", "HEAD^")
    assert done.returncode == 0, done.stderr
    assert "second model.onnx" in done.stdout and "first.onnx" not in done.stdout
    assert "removable" in done.stdout


def test_files_that_are_given_are_inspected(repository: Path) -> None:
    assert "removable" in run(repository, "first.onnx").stdout


def test_nothing_changed(repository: Path) -> None:
    done = run(repository, "--since", "HEAD")
    assert (done.returncode, done.stdout) == (0, "no ONNX file was changed\n")


def test_a_broken_model_fails(repository: Path) -> None:
    (repository / "broken.onnx").write_bytes(b"no model")
    assert run(repository, "broken.onnx").returncode != 0
