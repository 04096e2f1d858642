"""Reports as data: JSON, CSV, pictures."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onnxsqueeze.bench.intervals import Ratio
from onnxsqueeze.bench.page import content
from onnxsqueeze.bench.plotting import check_plot, plot
from onnxsqueeze.bench.report import BenchedModel, BenchedRuntime, BenchReport, Measurement
from onnxsqueeze.cli.runtime_tables import benched
from onnxsqueeze.errors import UsageError
from onnxsqueeze.runtimes.isolated.machine import this_machine

LARGE = Measurement("ort", "a.onnx", latency=2e-3, rounds=9, load_seconds=1.5, peak_bytes=10**8, bytes=10, deviation=0)
SMALL = replace(LARGE, model="b.onnx", latency=1e-3, ratio=Ratio(0.5, 0.25, 0.75), gzip_bytes=5, deviation=2e-7)
REPORT = BenchReport(
    machine=this_machine(),
    threads=2,
    sizes={"batch": 1},
    seconds=3.0,
    models=(BenchedModel("a.onnx", 20, 7_390_000, 100, 50), BenchedModel("b.onnx", 10, None, 90, 45)),
    runtimes=(BenchedRuntime("ort", "ORT", {"ort": "1.2"}), BenchedRuntime("tract", "tract", {}, "not installed: x")),
    measurements=(LARGE, SMALL),
)
SINGLE = replace(REPORT, models=REPORT.models[:1], measurements=(LARGE,))


def test_json() -> None:
    data = json.loads(json.dumps(REPORT.to_dict(), allow_nan=False))
    assert set(data) == {
        *("machine", "threads", "sizes", "seconds", "models", "runtimes", "measurements", "warnings", "interrupted"),
    }
    assert set(data["machine"]) == {"processor", "cores", "memory_bytes", "system", "python"}
    assert data["machine"]["cores"] >= 1
    assert data["models"][0] == {"name": "a.onnx", "weights": 20, "macs": 7390000, "bytes": 100, "gzip_bytes": 50}
    assert data["runtimes"][1] == {"name": "tract", "title": "tract", "versions": {}, "problem": "not installed: x"}
    assert data["measurements"][1]["ratio"] == {"median": 0.5, "low": 0.25, "high": 0.75}
    assert data["measurements"][0]["ratio"] is None


def test_csv() -> None:
    lines = list(csv.DictReader(io.StringIO(REPORT.to_csv())))
    assert list(lines[0]) == [
        *("runtime", "version", "model", "problem", "latency", "rounds", "ratio", "ratio_low", "ratio_high"),
        *("convert_seconds", "load_seconds", "first_seconds", "peak_bytes", "idle_bytes", "bytes", "gzip_bytes"),
        "deviation",
    ]
    assert [(line["runtime"], line["version"], line["model"]) for line in lines] == [
        ("ort", "1.2", "a.onnx"),
        ("ort", "1.2", "b.onnx"),
        ("tract", "", ""),
    ]
    assert [line["ratio"] for line in lines] == ["", "0.5", ""]
    assert (lines[1]["ratio_low"], lines[1]["ratio_high"], lines[1]["latency"]) == ("0.25", "0.75", "0.001")
    assert lines[2]["problem"] == "not installed: x"


def test_the_table() -> None:
    lines = [line.split() for line in benched(REPORT).splitlines()]
    assert ["a.onnx", "20", "7.39M", "100", "B", "50", "B"] in lines
    assert ["b.onnx", "10", "90", "B", "45", "B"] in lines
    assert ["ort", "a.onnx", "2", "ms", "1.5", "s", "100", "MB", "10", "B", "0"] in lines
    compared = ["b.onnx", "1", "ms", "0.500", "0.250", "to", "0.750", "1.5", "s", "100", "MB"]
    assert [*compared, "10", "B", "5", "B", "2e-07"] in lines
    assert ["tract:", "not", "installed:", "x"] in lines
    assert "ratio" not in benched(SINGLE)


@pytest.mark.parametrize("report", [REPORT, SINGLE, replace(REPORT, measurements=())])
@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_plots(report: BenchReport, suffix: str, start: bytes, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install onnxsqueeze[plot]")
    path = tmp_path / f"plot{suffix}"
    check_plot(path)
    plot(report, path)
    assert path.read_bytes().startswith(start)


def test_a_plot_shows_the_ratio_with_its_interval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    axes = pytest.importorskip("matplotlib.axes", reason="pip install onnxsqueeze[plot]")
    drawn: list[tuple[object, ...]] = []
    draw = axes.Axes.barh

    def noted(self: object, place: float, width: float, **options: object) -> object:
        drawn.append((width, options["xerr"]))
        return draw(self, place, width, **options)

    monkeypatch.setattr(axes.Axes, "barh", noted)
    plot(REPORT, tmp_path / "plot.svg")
    plot(SINGLE, tmp_path / "plot.svg")
    assert drawn == [(0.5, [[0.25], [0.25]]), (2.0, None)]


def test_a_plot_that_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install onnxsqueeze[plot]")
    with pytest.raises(UsageError, match="the output folder .* does not exist"):
        plot(REPORT, tmp_path / "missing" / "plot.svg")


def test_a_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"--plot needs matplotlib: pip install onnxsqueeze\[plot\]"):
        check_plot(Path("plot.svg"))


@pytest.mark.parametrize(
    ("second", "shown"),
    [("/there/b.onnx", ["a.onnx", "b.onnx"]), ("/there/a.onnx", ["/here/a.onnx", "/there/a.onnx"])],
)
def test_the_page_names_models_by_their_files_where_these_differ(second: str, shown: list[str]) -> None:
    named = {"a.onnx": "/here/a.onnx", "b.onnx": second}
    report = replace(
        REPORT,
        models=tuple(replace(model, name=named[model.name]) for model in REPORT.models),
        measurements=tuple(replace(entry, model=named[entry.model]) for entry in REPORT.measurements),
    )
    report = replace(report, warnings=(f"the outputs of {second} deviate",))
    page = content(report, "a title", "a command")
    assert page.notes[-1] == f"the outputs of {shown[1]} deviate"
    assert page.latency is not None
    assert [row.model for row in page.latency.runtimes[0][1]] == shown
    assert [row[0] for row in page.tables[0].rows] == shown
    assert [row[0] for row in page.tables[1].rows] == ["ORT"], "what is not installed has no version"
    assert len(page.totals) == 1
