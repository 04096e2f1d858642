"""All models in one runtime."""

from __future__ import annotations

import itertools
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.bench.intervals import ratio
from onnxsqueeze.bench.report import BenchedRuntime, Measurement
from onnxsqueeze.bench.settings import Settings
from onnxsqueeze.bench.subjects import Subject, Subjects, total_bytes
from onnxsqueeze.bench.tasks import Convert, Load, Rounds
from onnxsqueeze.runtimes.base import Conversion, Runtime
from onnxsqueeze.runtimes.isolated.process import AbsentError, Event, FailedError, Limits, perform
from onnxsqueeze.runtimes.isolated.task import Task
from onnxsqueeze.verification.difference import difference

Array = npt.NDArray[Any]
Tell = Callable[[str], None]


@dataclass
class _Progress:
    """How far one model got.

    Attributes:
        subject: the model.
        measurement: what is known of it.
        files: what the runtime loads; empty before it was converted.
        usable: whether it was loaded and run.
        times: for each process, the seconds of each round.
    """

    subject: Subject
    measurement: Measurement
    files: tuple[Path, ...] = ()
    usable: bool = False
    times: list[list[float]] = field(default_factory=list)

    def note(self, **values: Any) -> None:
        self.measurement = replace(self.measurement, **values)


class Lane:
    """Measures all models in one runtime. What it has found so far can be had at any time."""

    def __init__(self, runtime: Runtime, subjects: Subjects, settings: Settings, folder: Path) -> None:
        """Prepare.

        Args:
            runtime: the runtime.
            subjects: the models, and what they run on.
            settings: how to measure.
            folder: an empty one for converted models and for processes to run in.
        """
        self._runtime, self._subjects, self._settings, self._folder = runtime, subjects, settings, folder
        self._versions: Mapping[str, str] = {}
        self._problem = ""
        self._models = [_Progress(model, Measurement(runtime.name, model.name)) for model in subjects.models]
        self._names = (f"process-{number}" for number in itertools.count())
        self._deadline = math.inf

    def measure(self, tell: Tell) -> None:
        """Convert, load and run; what goes wrong is noted, not raised."""
        self._deadline = time.monotonic() + self._settings.timeout
        try:
            for index, model in enumerate(self._models):
                tell(f"{self._runtime.title}: converting and loading {model.subject.name}")
                self._prepare(model, self._folder / f"model-{index}")
            tell(f"{self._runtime.title}: measuring")
            self._run()
        except AbsentError as error:
            self._problem = f"not installed: {self._runtime.install} ({error})"
            self._models = []
        except FailedError as error:
            self._problem = str(error)

    def runtime(self) -> BenchedRuntime:
        """Return what is known of the runtime."""
        return BenchedRuntime(self._runtime.name, self._runtime.title, self._versions, self._problem)

    def measurements(self) -> Iterator[Measurement]:
        """Yield what is known of each model."""
        reference = self._models[0].times if self._models else []
        for model in self._models:
            times = [np.array(launch) for launch in model.times]
            rounds = np.concatenate([np.empty(0), *times])
            if not len(rounds):
                yield model.measurement
                continue
            compared = model is not self._models[0] and len(reference) == len(times)
            found = ratio(times, [np.array(launch) for launch in reference]) if compared else None
            yield replace(model.measurement, latency=float(np.median(rounds)), rounds=len(rounds), ratio=found)

    def _prepare(self, model: _Progress, folder: Path) -> None:
        try:
            self._convert(model, folder)
            self._load(model)
        except FailedError as error:
            model.note(problem=str(error))

    def _convert(self, model: _Progress, folder: Path) -> None:
        folder.mkdir()
        shapes = self._subjects.shapes if self._runtime.one_shape else {}

        def hear(event: Event) -> None:
            if "versions" in event:
                self._versions = event["versions"]
            else:
                model.files = tuple(map(Path, event["files"]))
                model.note(convert_seconds=event["seconds"])

        self._perform(Convert(self._runtime, Conversion(model.subject.path, folder, shapes)), hear)
        size, packed = total_bytes(model.files)
        model.note(bytes=size, gzip_bytes=packed)

    def _load(self, model: _Progress) -> None:
        outputs = self._folder / "outputs"
        task = Load(self._runtime, model.files, self._settings.threads, self._subjects.inputs, outputs)
        self._perform(task, lambda event: model.note(**event))
        model.usable = True
        if self._subjects.expected is not None:
            deviation, problem = _deviation(self._subjects.expected, pickle.loads(outputs.read_bytes()))
            model.note(deviation=deviation, problem=problem)

    def _run(self) -> None:
        models = [model for model in self._models if model.usable]
        if not models:
            return

        def hear(event: Event) -> None:
            for model, seconds in zip(models, event["times"], strict=True):
                model.times[-1].append(seconds)

        launches = self._settings.launches
        for number in range(launches):
            for model in models:
                model.times.append([])
            files = tuple(model.files for model in models)
            share = self._settings.seconds / launches
            task = Rounds(self._runtime, files, self._settings.threads, self._subjects.inputs, share, number)
            self._perform(task, hear)

    def _perform(self, task: Task, hear: Callable[[Event], None]) -> None:
        folder = self._folder / next(self._names)
        folder.mkdir()
        limits = Limits(self._settings.threads, self._runtime.helpers, self._deadline)
        perform(task, folder, limits, hear)


def _deviation(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> tuple[float | None, str]:
    """Return how far outputs lie from what was expected, or why that cannot be told."""
    worst = 0.0
    for name, value in expected.items():
        if name not in actual:
            return None, f"it has no output '{name}'"
        found = difference(value, actual[name])
        if found.problem:
            return None, f"of its output '{name}' {found.problem}"
        # An output of zeros alone has no scale; what is not zero there is told as it is.
        worst = max(worst, found.absolute / found.scale if found.scale else found.absolute)
    return worst, ""
