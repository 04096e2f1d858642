"""Models side by side in several runtimes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxsqueeze.bench.lane import Lane
from onnxsqueeze.bench.report import BenchedModel, BenchReport
from onnxsqueeze.bench.settings import Settings
from onnxsqueeze.bench.subjects import Subjects, prepare
from onnxsqueeze.errors import UsageError
from onnxsqueeze.runtimes import RUNTIMES, Runtime
from onnxsqueeze.runtimes.isolated.machine import this_machine
from onnxsqueeze.runtimes.providers import provider_runtimes
from onnxsqueeze.verification.difference import largest_plausible

ALL = "all"
_DEFAULT = Settings()
_RUNNING = Path("/proc/loadavg")  # three averages, and how many threads want a processor, of how many

Progress = Callable[[str, float | None], None]
"""Is told what is being done, and which fraction of that lies behind where it is known."""


class Benchmark:
    """A benchmark under way: what it has measured so far can be had at any time."""

    def __init__(
        self,
        models: Sequence[str | os.PathLike[str]],
        runtimes: Sequence[str | Runtime] = (ALL,),
        settings: Settings = _DEFAULT,
        progress: Progress | None = None,
    ) -> None:
        """Read the models.

        Args:
            models: ONNX files that take the same inputs; ratios are to the first one.
            runtimes: names, ``all``, or records of runtimes that this package does not know.
            settings: how to measure.
            progress: is told how far the work is.

        Raises:
            UsageError: for an argument that cannot be followed.
            InvalidModelError: when a model cannot be read or is not valid.
            DeploymentError: when onnxruntime, which everything is compared with, does not take the first model.
        """
        if not models:
            raise UsageError("there is no model to measure")
        self._runtimes = _chosen(runtimes)
        self._settings = settings
        self._tell = progress or (lambda step, fraction: None)
        self._busy = _busy()
        self._tell("reading the models", None)
        self._subjects = prepare(models, settings)
        self._lanes: list[Lane] = []
        self._finished = False

    def run(self) -> None:
        """Measure in one runtime after the other. What goes wrong in one of them is noted in the report."""
        with TemporaryDirectory(prefix="onnxsqueeze-", ignore_cleanup_errors=True) as name:
            for index, runtime in enumerate(self._runtimes):
                folder = Path(name) / f"runtime-{index}"
                folder.mkdir()
                lane = Lane(runtime, self._subjects, self._settings, folder)
                self._lanes.append(lane)
                lane.measure(partial(self._tell_at, index / len(self._runtimes)))
        self._finished = True

    def _tell_at(self, fraction: float, step: str) -> None:
        self._tell(step, fraction)

    def report(self) -> BenchReport:
        """Return what was measured so far."""
        measured = BenchReport(
            machine=this_machine(),
            threads=self._settings.threads,
            sizes=self._subjects.sizes,
            seconds=self._settings.seconds,
            models=tuple(_described(self._subjects)),
            runtimes=tuple(lane.runtime() for lane in self._lanes),
            measurements=tuple(entry for lane in self._lanes for entry in lane.measurements()),
            interrupted=not self._finished,
        )
        return replace(measured, warnings=(*self._busy, *_warnings(measured, self._subjects)))


def bench(
    models: Sequence[str | os.PathLike[str]],
    runtimes: Sequence[str | Runtime] = (ALL,),
    settings: Settings = _DEFAULT,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure models side by side in several runtimes; see `Benchmark` for the arguments and errors."""
    benchmark = Benchmark(models, runtimes, settings, progress)
    benchmark.run()
    return benchmark.report()


def _chosen(runtimes: Sequence[str | Runtime]) -> list[Runtime]:
    """Return the runtimes that are meant, each once, in the order in which they were named."""
    known = {**RUNTIMES, **{runtime.name: runtime for runtime in provider_runtimes()}}
    chosen: dict[str, Runtime] = {}
    for entry in runtimes:
        if isinstance(entry, Runtime):
            chosen[entry.name] = entry
        elif entry == ALL:
            chosen.update(known)
        elif entry in known:
            chosen[entry] = known[entry]
        else:
            raise UsageError(f"there is no runtime '{entry}'; give {ALL} or some of {', '.join(known)}")
    return list(chosen.values())


def _described(subjects: Subjects) -> Iterator[BenchedModel]:
    for subject in subjects.models:
        values = asdict(subject)
        del values["path"]
        yield BenchedModel(**values)


def _busy() -> list[str]:
    """Warn of a machine that has other things to do, where the system tells."""
    load, cores = _others(), this_machine().cores
    if load <= cores / 4:
        return []
    return [f"the machine was busy before this began (load {load:.1f} on {cores} cores), and timings suffer from that"]


def _others(samples: int = 25, interval: float = 0.01) -> float:
    """Return how many threads beside this one want a processor now, 0 where nothing tells.

    Linux counts them. Its average over a minute, which is all that other systems have, still counts what ended.
    """
    if not _RUNNING.is_file():
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    counts = []
    for _ in range(samples):
        counts.append(int(_RUNNING.read_text().split()[3].partition("/")[0]) - 1)
        time.sleep(interval)
    return sum(counts) / samples


def _warnings(report: BenchReport, subjects: Subjects) -> Iterator[str]:
    if subjects.expected is None:
        yield "the first model draws random numbers, so that no outputs were compared"
    allowed = largest_plausible(subjects.float_types)
    for entry in report.measurements:
        where = f"{entry.runtime}, {entry.model}"
        if entry.deviation is not None and entry.deviation > allowed:
            yield f"{where}: the outputs deviate by {entry.deviation:.2g} of their scale, which is no rounding"
        if entry.ratio is not None and entry.ratio.doubt:
            yield f"{where}: the ratio says little, {entry.ratio.doubt}; give --seconds more, or the machine less to do"
