"""What was measured in runtimes and what was written for them, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from onnxsqueeze.cli.rendering import duration, named_sizes, printable, rendered, sentence, short, size, table

if TYPE_CHECKING:
    from onnxsqueeze.bench import BenchReport
    from onnxsqueeze.bench.report import Measurement as Measured
    from onnxsqueeze.deployment import Manifest


def deployed(manifest: Manifest, output: str) -> str:
    """Render what `deploy` wrote: its files, and how far each of the models among them deviates."""
    files = table("file", "size")
    for file in (*manifest.source, *manifest.files):
        files.add_row(printable(file.path), size(file.bytes))
    deviations = table("model", "runs in", "on", "deviation", left=3)
    for found in manifest.deviations:
        words = (found.file, found.runtime, f"{found.inputs}, {found.runs} {'run' if found.runs == 1 else 'runs'}")
        deviations.add_row(*map(printable, words), f"{found.relative:.2g}")
    parts: list[RenderableType] = [files, deviations]
    if manifest.exact:
        parts.append(sentence("exact", "yes, up to rounding", "green"))
    else:
        parts.append(sentence("exact", f"no, it is {manifest.precision}", "yellow"))
    if (found_accuracy := manifest.accuracy) is not None:
        change = f"{found_accuracy.before:.2%} -> {found_accuracy.after:.2%} of {found_accuracy.labels:,} labels"
        parts.append(sentence("accuracy", change))
    parts.extend(sentence("note", note) for note in manifest.notes)
    parts.append(sentence("written", output, "green"))
    return rendered(parts)


def benched(report: BenchReport) -> str:
    """Render what `bench` measured: the models, each of them in each runtime, and what could not be measured."""
    models = table("model", "weights", "MACs", "size", "compressed")
    for model in report.models:
        macs = "" if model.macs is None else short(model.macs)
        models.add_row(printable(model.name), f"{model.weights:,}", macs, size(model.bytes), size(model.gzip_bytes))
    several = len(report.models) > 1
    compared = ("ratio", "95 % interval") if several else ()
    sizes = ("load", "peak memory", "size", "compressed", "deviation")
    rows = table("runtime", "model", "latency", *compared, *sizes, left=2)
    previous = ""
    for entry in (entry for entry in report.measurements if entry.load_seconds is not None):
        runtime = "" if entry.runtime == previous else entry.runtime
        rows.add_row(runtime, printable(entry.model), *_measured(entry, several))
        previous = entry.runtime
    parts: list[RenderableType] = [models]
    if rows.row_count:
        parts.append(rows)
    parts.extend(sentence(entry.name, entry.problem, "yellow") for entry in report.runtimes if entry.problem)
    parts.extend(
        sentence(f"{entry.runtime}, {printable(entry.model)}", entry.problem, "yellow")
        for entry in report.measurements
        if entry.problem
    )
    parts.append(sentence("sizes", named_sizes(report.sizes) or "fixed by the models"))
    threads = f"{report.threads} {'thread' if report.threads == 1 else 'threads'}"
    machine = report.machine
    parts.append(sentence("machine", f"{machine.processor}, {machine.cores} cores, {machine.system}; {threads}"))
    return rendered(parts)


def _measured(entry: Measured, several: bool) -> list[str]:
    cells = [duration(entry.latency)]
    if several and entry.ratio is None:
        cells += ["", ""]
    elif several and entry.ratio is not None:
        found = entry.ratio
        cells += [f"{found.median:.3f}", f"{found.low:.3f} to {found.high:.3f}"]
    sizes = map(size, (entry.peak_bytes, entry.bytes, entry.gzip_bytes))
    deviation = "" if entry.deviation is None else f"{entry.deviation:.2g}"
    return [*cells, duration(entry.load_seconds), *sizes, deviation]
