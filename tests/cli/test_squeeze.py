"""`onnxsqueeze squeeze`: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import onnxsqueeze.squeezing.squeeze
from onnxsqueeze.cli.main import main
from onnxsqueeze.squeezing.points import Maker
from tests.squeezing.networks import dependent


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with a dense network and samples."""
    onnx.save(dependent(np.random.default_rng(0)), tmp_path / "net.onnx")
    x = np.random.default_rng(1).uniform(-1, 1, size=(300, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    return tmp_path


def squeeze(folder: Path, *arguments: str) -> Result:
    given = [str(folder / "net.onnx"), "--data", str(folder / "samples.npz"), "--metric", "deviation", *arguments]
    return CliRunner().invoke(main, ["squeeze", *given])


def test_it_writes_the_small_model_and_says_what_it_is_not(files: Path) -> None:
    pytest.importorskip("jinja2", reason="pip install onnxsqueeze[report]")
    said = ("--json", str(files / "report.json"), "--report", str(files / "page.html"))
    done = squeeze(files, "--ratio", "2", *said)
    assert done.exit_code == 0, done.output
    page = (files / "page.html").read_text()
    assert "drop, points" in page and 'class="number">latency' not in page, "no latency was measured"
    assert "not the same function: this is pruning; the step after it was exact" in done.output
    report = json.loads((files / "report.json").read_text())
    assert report["chosen"]["ratio"] >= 2 and report["reached"] and report["note"].startswith("not the same")
    assert (files / "net.small.onnx").stat().st_size == report["chosen"]["bytes"]


def test_a_goal_out_of_reach_is_exit_code_6_with_the_best(files: Path) -> None:
    done = squeeze(files, "--ratio", "50", "--max-drop", "0.5")
    assert done.exit_code == 6
    assert (files / "net.small.onnx").exists()
    assert "the goal cannot be reached" in done.output


def test_the_front_is_kept(files: Path) -> None:
    done = squeeze(files, "--ratio", "3", "--front", str(files / "front"))
    assert done.exit_code == 0, done.output
    listed = json.loads((files / "front" / "front.json").read_text())
    assert len(listed) >= 3 and all((files / "front" / entry["file"]).exists() for entry in listed)
    assert squeeze(files, "--ratio", "3", "--front", str(files / "front")).exit_code == 2


def test_an_interruption_keeps_the_best_so_far(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker.make

    def once(self: Maker, *arguments: Any) -> Any:
        if hasattr(self, "made"):
            raise KeyboardInterrupt
        self.made = True  # type: ignore[attr-defined]
        return make(self, *arguments)

    monkeypatch.setattr(onnxsqueeze.squeezing.squeeze.Maker, "make", once)
    done = squeeze(files, "--max-drop", "20")
    assert done.exit_code == 130 and "is the best so far" in done.output
    assert (files / "net.small.onnx").exists()


@pytest.mark.parametrize("arguments", [(), ("--ratio", "0.3"), ("--ratio", "2", "--labels", "none")])
def test_usage(files: Path, arguments: tuple[str, ...]) -> None:
    done = squeeze(files, *arguments)
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1 and not (files / "net.small.onnx").exists()
