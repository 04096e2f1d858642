"""What was measured, as plain data."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from onnxsqueeze.bench.intervals import Ratio
from onnxsqueeze.runtimes.isolated.machine import Machine


@dataclass(frozen=True)
class BenchedModel:
    """A model that was measured.

    Attributes:
        name: the path, as it was given.
        weights: weight elements.
        macs: multiply-accumulates of the layers with stored weights, for one sample; None where there are none.
        bytes, gzip_bytes: of the file and its external data, as they are and compressed.
    """

    name: str
    weights: int
    macs: int | None
    bytes: int
    gzip_bytes: int


@dataclass(frozen=True)
class BenchedRuntime:
    """A runtime that was to be measured in.

    Attributes:
        name: what it is called on the command line.
        title: what it is called elsewhere.
        versions: of the runtime and its converters by name; empty where it is not installed.
        problem: why it was not measured in, or not to the end; "" if it was.
    """

    name: str
    title: str
    versions: Mapping[str, str]
    problem: str = ""


@dataclass(frozen=True)
class Measurement:
    """One model in one runtime. What was not measured is None.

    Attributes:
        runtime, model: by name.
        problem: why the runtime does not take the model, or why its outputs cannot be compared; "" if neither.
        latency: the median seconds of a run, from arrays to arrays.
        rounds: how often that was measured, each time as the median of a few runs.
        ratio: of this latency to that of the first model in this runtime; None for the first model.
        convert_seconds, load_seconds, first_seconds: of the conversion, of loading in a fresh process, and of the first
            run after that.
        peak_bytes: the largest resident memory of a process that loads and runs nothing but this model.
        idle_bytes: what of that was there before the model was loaded: Python, and the runtime itself.
        bytes, gzip_bytes: of the files that the runtime loads, as they are and compressed.
        deviation: the largest difference to the first model in onnxruntime, in units of the output's scale.
    """

    runtime: str
    model: str
    problem: str = ""
    latency: float | None = None
    rounds: int = 0
    ratio: Ratio | None = None
    convert_seconds: float | None = None
    load_seconds: float | None = None
    first_seconds: float | None = None
    peak_bytes: int | None = None
    idle_bytes: int | None = None
    bytes: int | None = None
    gzip_bytes: int | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class BenchReport:
    """The outcome of a benchmark.

    Attributes:
        machine: where it was run.
        threads: how many threads a runtime computed in.
        sizes: of dynamic dimensions by name.
        seconds: how long the models were run in each runtime, all together.
        models: in the order in which they were given; ratios are to the first one.
        runtimes: in the order in which they were measured in.
        measurements: of each runtime that is installed, one for each model.
        warnings: what a reader should know, one line each.
        interrupted: whether it was stopped before its end.
    """

    machine: Machine
    threads: int
    sizes: Mapping[str, int]
    seconds: float
    models: tuple[BenchedModel, ...]
    runtimes: tuple[BenchedRuntime, ...]
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...] = ()
    interrupted: bool = field(default=False)

    @property
    def measured(self) -> bool:
        """Whether there is any latency."""
        return any(entry.latency is not None for entry in self.measurements)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        return asdict(self)

    def to_csv(self) -> str:
        """Return the measurements as a table of comma-separated values, a line for each model in each runtime.

        A runtime that was not measured in has one line, without a model.
        """
        versions = {entry.name: entry.versions.get(entry.name, "") for entry in self.runtimes}
        measured = {entry.runtime for entry in self.measurements}
        text = io.StringIO()
        writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for entry in self.measurements:
            row = asdict(entry) | {"version": versions[entry.runtime], "ratio": None}
            if entry.ratio is not None:
                row |= {"ratio": entry.ratio.median, "ratio_low": entry.ratio.low, "ratio_high": entry.ratio.high}
            writer.writerow(row)
        for runtime in self.runtimes:
            if runtime.name not in measured:
                writer.writerow({"runtime": runtime.name, "problem": runtime.problem})
        return text.getvalue()


def _columns() -> tuple[str, ...]:
    names = [entry.name for entry in fields(Measurement)]
    names.insert(1, "version")
    place = names.index("ratio") + 1
    return (*names[:place], "ratio_low", "ratio_high", *names[place:])


CSV_COLUMNS = _columns()
"""The columns of `BenchReport.to_csv`; seconds and bytes, and empty where nothing was measured."""
