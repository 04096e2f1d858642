"""Whether others work on the machine when a benchmark begins."""

from pathlib import Path

import pytest

from onnxsqueeze.bench import benchmark
from onnxsqueeze.runtimes.isolated.machine import this_machine


@pytest.mark.parametrize(
    ("said", "busy"),
    [("9.00 9.00 9.00 1/81 5605", False), ("0.00 0.00 0.00 {many}/81 5605", True)],
    ids=["what ran before has ended", "others run now"],
)
def test_what_runs_now_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, busy: bool) -> None:
    told = tmp_path / "loadavg"
    told.write_text(said.format(many=this_machine().cores + 1))
    monkeypatch.setattr(benchmark, "_RUNNING", told)
    assert [f"(load {this_machine().cores:.1f} " in line for line in benchmark._busy()] == [True] * busy


def test_elsewhere_the_average_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_RUNNING", tmp_path / "none")
    monkeypatch.setattr(benchmark.os, "getloadavg", lambda: (this_machine().cores * 3.0, 0.0, 0.0), raising=False)
    assert "busy" in "".join(benchmark._busy())
