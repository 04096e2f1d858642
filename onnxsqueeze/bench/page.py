"""What the page shows of a benchmark: latencies by runtime, sizes, the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

from onnxsqueeze.bench.report import BenchReport, Measurement
from onnxsqueeze.reporting.page.content import Content, LatencyPart, LatencyRow, TablePart, Total
from onnxsqueeze.reporting.page.render import render
from onnxsqueeze.reporting.page.words import duration, readable, times


def page(report: BenchReport, title: str, command: str = "onnxsqueeze.bench") -> str:
    """Return a report as one HTML page, which loads nothing from anywhere.

    Args:
        report: what it shows. title: its heading. command: what the page says that it was made by.

    Raises:
        UsageError: when Jinja2 is not installed (the extra ``report``).
    """
    return render(content(report, title, command))


def content(report: BenchReport, title: str, command: str) -> Content:
    """Return the content of the page."""
    report = _named(report)
    machine = report.machine
    runtimes = [_runtime(report, entry.name, entry.title, entry.problem) for entry in report.runtimes]
    threads = f"{report.threads} thread{'' if report.threads == 1 else 's'}"
    sizes = ", ".join(f"{name}={size}" for name, size in report.sizes.items())
    rows = [
        (
            model.name,
            f"{model.weights:,}",
            "" if model.macs is None else readable(model.macs),
            f"{model.bytes:,}",
            f"{model.gzip_bytes:,}",
        )
        for model in report.models
    ]
    versions = [
        (entry.title, ", ".join(f"{name} {version}" for name, version in entry.versions.items()))
        for entry in report.runtimes
        if entry.versions
    ]
    return Content(
        title=title,
        verdict=f"{machine.processor}, {machine.cores} cores, {machine.system}; {threads}.",
        command=command,
        totals=_totals(report),
        notes=[*([f"Sizes: {sizes}."] if sizes else []), *report.warnings],
        latency=LatencyPart(runtimes, ("load", "peak memory", "size", "deviation")),
        tables=(
            TablePart("Models", ("model", "weights", "MACs", "bytes", "gzip bytes"), rows),
            TablePart("Versions", ("runtime", "versions"), versions, left=2),
        ),
    )


def _named(report: BenchReport) -> BenchReport:
    """Return a report that names models by their files alone, where these differ: folders say little and take room."""
    short = {model.name: PurePath(model.name).name for model in report.models}
    if len(set(short.values())) < len(short):
        return report
    warnings = report.warnings
    for long, name in short.items():
        warnings = tuple(warning.replace(long, name) for warning in warnings)
    return replace(
        report,
        warnings=warnings,
        models=tuple(replace(model, name=short[model.name]) for model in report.models),
        measurements=tuple(replace(entry, model=short[entry.model]) for entry in report.measurements),
    )


def _totals(report: BenchReport) -> tuple[Total, ...]:
    """Return for each runtime how many times faster the last model is, where there are several."""
    last = report.models[-1].name
    titles = {entry.name: entry.title for entry in report.runtimes}
    found = []
    for entry in report.measurements:
        if entry.model != last:
            continue
        if entry.ratio is not None:
            detail = f"ratio {entry.ratio.low:.3f} to {entry.ratio.high:.3f}"
            share = min(100.0, round(100 * entry.ratio.median, 1))
            found.append(Total(f"faster in {titles[entry.runtime]}", times(1, entry.ratio.median), detail, share))
        elif entry.latency is not None and len(report.models) == 1:
            found.append(Total(titles[entry.runtime], duration(entry.latency), "median of a run"))
    return tuple(found)


def _runtime(report: BenchReport, name: str, title: str, problem: str) -> tuple[str, list[LatencyRow]]:
    entries = [entry for entry in report.measurements if entry.runtime == name]
    rows = [_row(entry) for entry in entries]
    return title, rows or [LatencyRow("not measured", None, problem=problem)]


def _row(entry: Measurement) -> LatencyRow:
    ratio = entry.ratio
    cells = (
        duration(entry.load_seconds),
        "" if entry.peak_bytes is None else readable(entry.peak_bytes, "B"),
        "" if entry.bytes is None else readable(entry.bytes, "B"),
        "" if entry.deviation is None else f"{entry.deviation:.2g}",
    )
    if ratio is None:
        return LatencyRow(entry.model, entry.latency, cells=cells, problem=entry.problem)
    return LatencyRow(entry.model, entry.latency, ratio.median, ratio.low, ratio.high, cells, entry.problem)
