"""What becomes of runtimes that do not behave, and of those beside them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from onnxsqueeze.bench import Benchmark, BenchReport, Settings, bench
from onnxsqueeze.bench.report import Measurement
from onnxsqueeze.runtimes import Runtime
from tests.bench import fakes
from tests.bench.networks import image_classifier, pair

QUICK = Settings(seconds=0.01, launches=1)


def measured(models: list[Path], *runtimes: Runtime, settings: Settings = QUICK) -> BenchReport:
    return bench(models, runtimes, settings)


def only(report: BenchReport) -> Measurement:
    (entry,) = report.measurements
    return entry


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return pair(tmp_path)[0]


def test_models_side_by_side(tmp_path: Path) -> None:
    models = pair(tmp_path)
    report = measured(models, fakes.HONEST, settings=Settings(seconds=0.05, launches=2))
    large, small = report.measurements
    assert [large.model, small.model] == list(map(str, models))
    assert large.ratio is None and small.ratio is not None
    assert small.ratio.low <= small.ratio.median <= small.ratio.high
    assert large.rounds == small.rounds >= 10  # 5 at the least in each of the two processes
    assert large.deviation is not None and large.deviation < 1e-6
    assert small.deviation is not None and small.deviation < 1e-6
    assert small.bytes is not None and large.bytes is not None and small.bytes < large.bytes
    assert [model.macs for model in report.models] == [4 * 8 + 8 * 5, 4 * 4 + 4 * 5]
    assert not report.interrupted


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a single process is known on Linux")
def test_memory_is_that_of_a_process_that_has_only_this_model(model: Path) -> None:
    ballast = bytearray(300_000_000)
    ballast[::4096] = bytes([1]) * len(ballast[::4096])  # touched, so that this process has them in memory
    entry = only(measured([model], fakes.HONEST))
    assert entry.idle_bytes is not None and entry.peak_bytes is not None
    assert 10e6 < entry.idle_bytes <= entry.peak_bytes < 300e6


def test_a_session_elsewhere_measures_itself(model: Path) -> None:
    entry = only(measured([model], fakes.ELSEWHERE))
    assert (entry.latency, entry.peak_bytes, entry.idle_bytes) == (0.25, 12_000_000, None)


def test_wrong_outputs_are_told(model: Path) -> None:
    report = measured([model], fakes.WRONG)
    assert only(report).deviation == pytest.approx(1)
    assert f"wrong, {model}: the outputs deviate by 1 of their scale, which is no rounding" in report.warnings


def test_missing_outputs_are_told(model: Path) -> None:
    entry = only(measured([model], fakes.FORGETFUL))
    assert entry.problem == "it has no output 'y'"
    assert entry.deviation is None
    assert entry.latency is not None


@pytest.mark.parametrize(
    ("runtime", "problem"),
    [
        (fakes.RAISING, "KeyError: 'no such\\n operator'"),
        (fakes.LEAVING, "it ended with code 3: for libleaving"),
        (fakes.FADING, "it ended with code 0"),
        (fakes.CRASHING, "it crashed: SIGSEGV"),
    ],
)
def test_a_runtime_that_fails_is_a_line_with_the_reason(model: Path, runtime: Runtime, problem: str) -> None:
    report = measured([model], runtime, fakes.HONEST)
    failed, honest = report.measurements
    assert failed.problem == problem
    assert failed.latency is None
    assert honest.problem == "" and honest.latency is not None


def test_an_absent_runtime_is_a_line_that_says_what_to_install(model: Path) -> None:
    report = measured([model], fakes.ABSENT)
    assert report.runtimes[0].problem == "not installed: pip install absent (libabsent.so is missing)"
    assert report.measurements == ()
    assert not report.measured


def test_a_model_that_a_runtime_does_not_take_leaves_the_others(tmp_path: Path) -> None:
    large, small = measured(pair(tmp_path), fakes.PICKY).measurements
    assert small.problem == "it is too small"
    assert small.latency is None and small.ratio is None
    assert large.latency is not None


def test_without_the_first_model_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    small, large = measured(pair(tmp_path)[::-1], fakes.PICKY).measurements
    assert small.problem and large.problem == ""
    assert large.latency is not None and large.ratio is None


def gone(number: int) -> bool:
    """Whether a process has ended, or is about to be forgotten by the system."""
    for _ in range(100):
        try:
            os.kill(number, 0)
            with open(f"/proc/{number}/stat", encoding="ascii") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_hanging_runtime_is_ended_with_all_that_it_started(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    monkeypatch.setenv(fakes.MARKER, str(marker))
    entry = only(measured([model], fakes.HANGING, settings=Settings(timeout=8)))
    assert entry.problem == "its time is up; allow more with --timeout"
    assert all(gone(int(number)) for number in marker.read_text(encoding="ascii").split())


def test_what_was_measured_before_a_crash_counts(tmp_path: Path) -> None:
    report = measured(pair(tmp_path), fakes.MORTAL, settings=Settings(seconds=60, launches=1))
    assert report.runtimes[0].problem.startswith("it ended with code 9")
    for entry in report.measurements:
        assert entry.latency is not None and entry.latency > 0.01
        assert 0 < entry.rounds < 30


def test_what_a_runtime_prints_is_no_event(model: Path) -> None:
    entry = only(measured([model], fakes.TALKING))
    assert entry.problem == "" and entry.latency is not None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes")
@pytest.mark.parametrize(("runtime", "processors"), [(fakes.COUNTING, 1), (fakes.HELPED, 2)])
def test_a_runtime_has_as_many_processors_as_threads(model: Path, runtime: Runtime, processors: int) -> None:
    there = min(processors, len(os.sched_getaffinity(0)))
    assert only(measured([model], runtime)).problem == f"{there} processors"


def test_shapes_are_for_runtimes_that_take_one_only(tmp_path: Path) -> None:
    model = image_classifier(tmp_path / "net.onnx")
    one, every = measured([model], fakes.ONE_SHAPE, fakes.ANY_SHAPE, settings=Settings(batch=3)).measurements
    assert one.problem == "shapes {'image': (3, 3, 8, 8)}"
    assert every.problem == "shapes {}"


def test_after_an_interrupt_the_report_has_what_was_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(step: str, fraction: float | None) -> None:
        if step.startswith("Talking: measuring"):
            raise KeyboardInterrupt

    benchmark = Benchmark([model], [fakes.HONEST, fakes.TALKING, fakes.PICKY], QUICK, stopped)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run()
    report = benchmark.report()
    assert report.interrupted
    assert [runtime.name for runtime in report.runtimes] == ["honest", "talking"]
    honest, talking = report.measurements
    assert honest.latency is not None
    assert talking.latency is None and talking.load_seconds is not None
