"""The second door of the README: its command runs as it stands there, and prints what is shown."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxsqueeze.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def shown() -> tuple[list[str], list[str]]:
    """Return the words of the command, and the lines that it prints."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    number = next(place for place, block in enumerate(blocks) if block.startswith("onnxsqueeze squeeze models/"))
    return shlex.split(blocks[number])[1:], blocks[number + 1].splitlines()


def _settled(lines: list[str]) -> list[list[str]]:
    """Return the words of the lines without sizes, losses or times."""
    return [line.split() for line in lines if not re.search(r"->|\d\.\d\d|\b81,002\b|^time: |─", line)]


def test_the_command_prints_the_table_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which units go is a matter of rounding at the margin; what the table says of sizes and losses is not."""
    words, lines = shown()
    (tmp_path / "models").mkdir()
    for name in ("digits.onnx", "digits.npz"):
        shutil.copy(ROOT / "models" / name, tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*words, "--json", "report.json"])
    assert done.exit_code == 0, done.output
    printed = done.output.splitlines()
    assert len(printed) == len(lines)
    assert _settled(lines) == _settled(printed)
    assert [line.split("->")[0] for line in lines if "->" in line] == [
        line.split("->")[0] for line in printed if "->" in line
    ]
    report = json.loads((tmp_path / "report.json").read_text())
    figures = next(line for line in lines if line.startswith("20,")).split()
    assert report["chosen"]["ratio"] == pytest.approx(float(figures[1]), abs=0.1)
    assert report["chosen"]["drop"] <= float(figures[-2]) + 0.6, "three of the 500 that are held out"
    assert report["bytes"] == (ROOT / "models/digits.onnx").stat().st_size
    assert (tmp_path / "models/digits.small.onnx").stat().st_size == report["chosen"]["bytes"]
