"""Reports as text: tables by rich, in colours on a terminal, plain elsewhere."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from onnxsqueeze.bench import BenchReport
    from onnxsqueeze.bench.report import Measurement as Measured
    from onnxsqueeze.deployment import Manifest
    from onnxsqueeze.reporting.layers import Layer
    from onnxsqueeze.reporting.report import Report
    from onnxsqueeze.squeezing.report import SqueezeReport
    from onnxsqueeze.verification import VerifyReport

_UNLIMITED = 10_000  # columns where no terminal sets a limit, so that no name is cut
_WHY, _STAYED, _BECAUSE, _AT = _SENTENCES = ("why elements stayed, over all tensors", "stayed because", "because", "at")
_UNKNOWN = "?"  # of a layer without a rule
_USUAL = ("float32", "float64")
_CELLS = 10  # of a bar
_BESIDE, _SHORTEST = 100, 24  # columns that a row takes beside a name, and the shortest name that is cut
_UNITS = ("", "k", "M", "G", "T", "P")


def several(columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str], str]]) -> str:
    """Render a line for each of several files: its name, cells under ``columns``, and why it failed, if it did."""
    table = _table("file", *columns, "", left=1)
    for name, cells, error in lines:
        padded = [*cells, *[""] * (len(columns) - len(cells))]
        table.add_row(printable(name), *map(printable, padded), printable(error), style="red" if error else "")
    table.columns[-1].justify = "left"
    return _text([table])


def summary(report: Report) -> tuple[str, ...]:
    """Return the cells of a report in a table of several files: weights left, bytes, MACs, and the deviation."""
    share = f"{report.weights_after / report.weights_before:.1%}".replace("%", " %") if report.weights_before else ""
    deviation = "" if report.verification is None else f"{report.verification.deviation:.2g}"
    weights = _change(f"{report.weights_before:,}", f"{report.weights_after:,}")
    macs = _change(_short(report.macs_before), _short(report.macs_after))
    return share, weights, _change(f"{report.bytes_before:,}", f"{report.bytes_after:,}"), macs, deviation


SUMMARY = ("left", "weights", "bytes", "MACs", "deviation")
"""The columns of `summary`."""


def minimized(report: Report, output: str, verbose: bool) -> str:
    """Render what `minimize` did: a row for each layer, the totals, the verification, the time."""
    parts: list[RenderableType] = []
    if report.layers:
        parts.append(_layers(report.layers))
    parts.extend(_totals(report))
    if report.why_nothing:
        parts.append(_sentence("nothing could go", report.why_nothing, "yellow"))
    parts.extend(_advice(report))
    parts.append(_verification_line(report))
    if verbose:
        parts.extend([*_reasons(report), *_remedies(report.stayed)])
    parts.append(_sentence("seconds", _seconds(report.seconds)))
    parts.append(_sentence("written", output, "green"))
    return _text(parts)


def inspected(report: Report, verbose: bool) -> str:
    """Render what a mask is worth: a row for each layer, the totals, and why the rest stays."""
    parts: list[RenderableType] = []
    if report.layers:
        parts.append(_findings(report.layers, verbose))
    parts.extend(_totals(report))
    if report.why_nothing:
        parts.append(_sentence("nothing can go", report.why_nothing, "yellow"))
    parts.extend(_advice(report))
    if report.layers:
        parts.append(_sentence("bars", Bars.of_stdout().legend))
    parts.extend(_stayed(report.layers, verbose))
    if verbose:
        parts.extend(_reasons(report))
    shown = [text for layer in report.layers for text in layer.stayed]
    parts.extend(_remedies([*shown, *(report.stayed if verbose else ())]))
    parts.append(_sentence("seconds", _seconds(report.seconds)))
    return _text(parts)


def squeezed(report: SqueezeReport, output: str) -> str:
    """Render what `squeeze` did: the networks that were made, what each layer lost, and what it is not."""
    timed = any(point.latency is not None for point in report.points)
    latency = ["latency"] if timed else []
    points = _table("weights", "ratio", "MACs", "MACs ratio", "bytes", *latency, report.metric, "drop", "deviation")
    dense = (f"{report.weights:,}", "1", _short(report.macs), "1", f"{report.bytes:,}", *["1"] * timed)
    points.add_row(*dense, f"{100 * report.dense:.2f} %")
    for point in report.points:
        name = f"{point.weights:,}" + (" *" if point is report.chosen and len(report.points) > 1 else "")
        name += " trained" if point.trained else ""
        time = [] if not timed else ["" if point.latency is None else f"{point.latency:.2f}"]
        sizes = (f"{point.ratio:.2f}", _short(point.macs), f"{point.macs_ratio:.2f}", f"{point.bytes:,}", *time)
        points.add_row(name, *sizes, f"{100 * point.metric:.2f} %", f"{point.drop:.2f}", f"{point.deviation:.2g}")
    layers = _table("layer", "units", "left", left=2)
    for taken in report.chosen.taken:
        layers.add_row(printable(taken.name), taken.kind, _change(f"{taken.before:,}", f"{taken.after:,}"))
    parts: list[RenderableType] = [layers, points]
    if len(report.points) > 1:
        parts.append(_sentence("*", "written"))
    from onnxsqueeze.squeezing.report import NOT_THE_SAME

    counts = f"{report.calibration:,} samples for choices, {report.held_out:,} held out for these figures"
    parts.append(_sentence("samples", counts))
    parts.append(_sentence("note", NOT_THE_SAME, "yellow"))
    if report.why:
        parts.append(_sentence("goal not reached", report.why, "red"))
    parts.append(_sentence("seconds", _seconds(report.seconds)))
    parts.append(_sentence("written", output, "green"))
    return _text(parts)


def verified(report: VerifyReport, verbose: bool) -> str:
    """Render the outcome of a comparison."""
    verdict = ("equivalent", "green") if report.passed else ("not equivalent", "bold red")
    parts: list[RenderableType] = [Text(verdict[0], style=verdict[1])]
    parts.append(_sentence("largest deviation", _deviation(report)))
    if report.float64_deviation is not None:
        parts.append(_sentence("in float64", f"{report.float64_deviation:.2g} of the output's scale"))
    if report.first_deviating:
        parts.append(_sentence("first deviating layer", report.first_deviating, "red"))
    if report.sizes and any(report.sizes):
        parts.append(_sentence("sizes", "; ".join(map(_named, report.sizes))))
    parts.extend(_sentence("note", note) for note in report.notes)
    if verbose and report.outputs:
        parts.append(_outputs(report))
    parts.append(_sentence("seconds", f"{report.seconds:.2f}"))
    return _text(parts)


def deployed(manifest: Manifest, output: str) -> str:
    """Render what `deploy` wrote: its files, and how far each of the models among them deviates."""
    files = _table("file", "bytes")
    for file in (*manifest.source, *manifest.files):
        files.add_row(printable(file.path), f"{file.bytes:,}")
    deviations = _table("model", "runs in", "on", "deviation", left=3)
    for found in manifest.deviations:
        words = (found.file, found.runtime, f"{found.inputs}, {found.runs} {'run' if found.runs == 1 else 'runs'}")
        deviations.add_row(*map(printable, words), f"{found.relative:.2g}")
    parts: list[RenderableType] = [files, deviations]
    if manifest.exact:
        parts.append(_sentence("exact", "yes, up to rounding", "green"))
    else:
        parts.append(_sentence("exact", f"no, it is {manifest.precision}", "yellow"))
    if (found_accuracy := manifest.accuracy) is not None:
        change = f"{found_accuracy.before:.2%} -> {found_accuracy.after:.2%} of {found_accuracy.labels:,} labels"
        parts.append(_sentence("accuracy", change))
    parts.extend(_sentence("note", note) for note in manifest.notes)
    parts.append(_sentence("written", output, "green"))
    return _text(parts)


def benched(report: BenchReport) -> str:
    """Render what `bench` measured: the models, each of them in each runtime, and what could not be measured."""
    models = _table("model", "weights", "MACs", "bytes", "gzip bytes")
    for model in report.models:
        macs = "" if model.macs is None else _short(model.macs)
        models.add_row(printable(model.name), f"{model.weights:,}", macs, f"{model.bytes:,}", f"{model.gzip_bytes:,}")
    several = len(report.models) > 1
    compared = ("ratio", "95 % interval") if several else ()
    sizes = ("load", "peak memory", "bytes", "gzip bytes", "deviation")
    rows = _table("runtime", "model", "latency", *compared, *sizes, left=2)
    previous = ""
    for entry in (entry for entry in report.measurements if entry.load_seconds is not None):
        runtime = "" if entry.runtime == previous else entry.runtime
        rows.add_row(runtime, printable(entry.model), *_measured(entry, several))
        previous = entry.runtime
    parts: list[RenderableType] = [models]
    if rows.row_count:
        parts.append(rows)
    parts.extend(_sentence(entry.name, entry.problem, "yellow") for entry in report.runtimes if entry.problem)
    parts.extend(
        _sentence(f"{entry.runtime}, {printable(entry.model)}", entry.problem, "yellow")
        for entry in report.measurements
        if entry.problem
    )
    parts.append(_sentence("sizes", _named(report.sizes) or "fixed by the models"))
    threads = f"{report.threads} {'thread' if report.threads == 1 else 'threads'}"
    machine = report.machine
    parts.append(_sentence("machine", f"{machine.processor}, {machine.cores} cores, {machine.system}; {threads}"))
    return _text(parts)


def _measured(entry: Measured, several: bool) -> list[str]:
    cells = [_duration(entry.latency)]
    if several and entry.ratio is None:
        cells += ["", ""]
    elif several and entry.ratio is not None:
        found = entry.ratio
        cells += [f"{found.median:.3f}", f"{found.low:.3f} to {found.high:.3f}"]
    peak = "" if entry.peak_bytes is None else f"{entry.peak_bytes / 1e6:.0f} MB"
    sizes = ("" if size is None else f"{size:,}" for size in (entry.bytes, entry.gzip_bytes))
    deviation = "" if entry.deviation is None else f"{entry.deviation:.2g}"
    return [*cells, _duration(entry.load_seconds), peak, *sizes, deviation]


def _duration(seconds: float | None) -> str:
    """Return a time in three digits and a unit, as 1.25 ms; "" for none."""
    if seconds is None:
        return ""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _name(name: str) -> str:
    """Return a layer's name, on a narrow terminal without its middle: what differs stands at the ends."""
    console, name = Console(), printable(name)
    most = max(_SHORTEST, console.width - _BESIDE) if console.is_terminal else _UNLIMITED
    if len(name) <= most:
        return name
    ends = most - 1
    return f"{name[: ends // 2]}…{name[len(name) - (ends - ends // 2) :]}"


@dataclass(frozen=True)
class Bars:
    """A bar for each layer: what is needed, what could go but stays, what goes; in letters that stdout can show."""

    needed: str
    held: str
    gone: str

    @classmethod
    def of_stdout(cls) -> Bars:
        """Return bars of blocks where stdout can show these, else of plain signs."""
        try:
            "█▒·".encode(sys.stdout.encoding or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return cls("#", "+", ".")
        return cls("█", "▒", "·")

    @property
    def title(self) -> str:
        """The head of the column."""
        return "kept"

    @property
    def legend(self) -> str:
        """What the signs say."""
        return f"{self.needed} needed, {self.held} could go but stays, {self.gone} goes"

    def drawn(self, layer: Layer) -> str:
        """Return the bar of a layer, in tenths; what there is of anything is seen."""
        if not layer.channels:
            return _UNKNOWN
        idle = min(layer.channels, max(layer.removed, layer.dead + layer.constant))
        gone, held = _tenths(layer.removed, layer.channels), _tenths(idle - layer.removed, layer.channels)
        held = min(held, _CELLS - gone)
        return self.needed * (_CELLS - gone - held) + self.held * held + self.gone * gone


def _tenths(part: int, whole: int) -> int:
    if part <= 0:
        return 0
    return _CELLS if part >= whole else min(_CELLS - 1, max(1, round(_CELLS * part / whole)))


def _text(parts: Sequence[RenderableType]) -> str:
    """Render for stdout, which is not touched: its width and encoding count, and colours if it is a terminal."""
    terminal = Console().is_terminal
    encoding = sys.stdout.encoding or "utf-8"
    file = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace", newline="")
    console = Console(file=file, force_terminal=terminal, markup=False, emoji=False, highlight=False)
    console.width = max(console.width, *(_narrowest(console, part) for part in parts)) if terminal else _UNLIMITED
    for part in parts:
        console.print(part)
        if isinstance(part, Table):
            console.print()
    file.seek(0)
    return "".join(f"{line.rstrip()}\n" for line in file)


def _narrowest(console: Console, part: RenderableType) -> int:
    """Return how wide a table must be so that no name or number is broken; other parts may be broken."""
    if not isinstance(part, Table):
        return 0
    for column in part.columns:
        if column.no_wrap:  # else rich takes a cell to be as narrow as its longest word
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    return Measurement.get(console, console.options.update(max_width=_UNLIMITED), part).minimum


def _table(*columns: str, left: int = 1) -> Table:
    """Return an empty table whose first columns are text, and the others numbers. Only reasons may be wrapped."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=column not in _SENTENCES)
    return table


def _layers(layers: Sequence[Layer]) -> Table:
    stored = _narrower(layers)
    table = _table("layer", "operator", "shape", "weights", *(("type", "bytes") if stored else ()), "MACs", left=3)
    for layer in layers:
        table.add_row(
            _name(layer.name),
            printable(layer.operator),
            _change(_shape(layer.shape_before), _shape(layer.shape_after)),
            _change(f"{layer.weights_before:,}", f"{layer.weights_after:,}"),
            *(_stored(layer) if stored else ()),
            _macs(layer),
            style=_style(layer),
        )
    return table


def _narrower(layers: Sequence[Layer]) -> bool:
    """Whether some layers are stored in another type than the others: their bytes say more than their elements."""
    return len({layer.dtype for layer in layers}) > 1 or any(layer.dtype not in _USUAL for layer in layers)


def _stored(layer: Layer) -> tuple[str, str]:
    return layer.dtype, _change(f"{layer.bytes_before:,}", f"{layer.bytes_after:,}")


def _macs(layer: Layer) -> str:
    return _change(_short(layer.macs_before), _short(layer.macs_after)) if layer.counted else _UNKNOWN


def _findings(layers: Sequence[Layer], verbose: bool) -> Table:
    names = ("layer", "output tensor") if verbose else ("layer",)
    numbers: tuple[str, ...] = ("zeros", "channels", "dead", "constant", "removable", "weights", "MACs")
    bars = Bars.of_stdout()
    stored = _narrower(layers)
    if stored:
        numbers = (*numbers[:-1], "type", "bytes", numbers[-1])
    table = _table(*names, "operator", bars.title, *numbers, left=len(names) + 2)
    for layer in layers:
        table.add_row(
            *(_name(name) for name in (layer.name, layer.output)[: len(names)]),
            printable(layer.operator),
            bars.drawn(layer),
            f"{math.floor(1000 * layer.sparsity) / 10:.1f} %",  # rounded down: 100 % means all
            *(f"{number:,}" if layer.channels else _UNKNOWN for number in _channels(layer)),
            _change(f"{layer.weights_before:,}", f"{layer.weights_after:,}"),
            *(_stored(layer) if stored else ()),
            _macs(layer),
            style=_style(layer),
        )
    return table


def _channels(layer: Layer) -> tuple[int, int, int, int]:
    return layer.channels, layer.dead, layer.constant, layer.removed


def _style(layer: Layer) -> str:
    return "dim" if layer.weights_after == layer.weights_before else ""


def _totals(report: Report) -> list[RenderableType]:
    table = _table("total", "before", "after", "smaller")
    for name, before, after in (
        ("weight elements", report.weights_before, report.weights_after),
        ("file bytes", report.bytes_before, report.bytes_after),
        ("MACs", report.macs_before, report.macs_after),
        ("nodes", report.nodes_before, report.nodes_after),
    ):
        table.add_row(name, f"{before:,}", f"{after:,}", f"{before / after:.2f}x" if after else "")
    parts: list[RenderableType] = [table]
    if report.sizes:
        parts.append(_sentence("MACs for one sample at", _named(report.sizes)))
    if uncounted := sum(not layer.counted for layer in report.layers):
        parts.append(_sentence("MACs are not counted of", f"{uncounted} layers without a rule"))
    return parts


def _advice(report: Report) -> list[Text]:
    from onnxsqueeze.reporting.advice import advice, disagreement

    disagreeing = disagreement(report)
    found = [_sentence("more could go", disagreeing, "yellow")] if disagreeing else []
    return [*found, *(_sentence("next", line.replace("`", ""), "yellow") for line in advice(report))]


def _verification_line(report: Report) -> Text:
    if report.verification is not None:
        return _sentence("largest deviation", _deviation(report.verification))
    if report.why_nothing:
        return _sentence("verified", "not needed, the output is a copy")
    return _sentence("verified", "no, on request", "yellow")


def _deviation(report: VerifyReport) -> str:
    runs = f"{report.runs} {'run' if report.runs == 1 else 'runs'}"
    if not math.isfinite(report.deviation) and report.settled_in_float64:
        return f"integers differ where scores tie; in float64 it is the same, given what each run selected ({runs})"
    if not math.isfinite(report.deviation):
        return f"cannot be told, the outputs are not comparable ({runs})"
    settled = "; in float64 it is the same, given what each run selected" if report.settled_in_float64 else ""
    return f"{report.deviation:.2g} of the output's scale (allowed {report.tolerance:.2g}; {runs}{settled})"


def _stayed(layers: Sequence[Layer], verbose: bool) -> list[Table]:
    """Return why channels stayed, each reason once; ``verbose`` adds a table with a line for each layer."""
    from onnxsqueeze.reporting.stayed import joined

    table = _table(_STAYED, _AT, "layers", "channels", left=2)
    for reason, number, count, at in joined([(layer.stayed, layer.nodes) for layer in layers]):
        table.add_row(printable(reason), printable(at), f"{number:,}", f"{count:,}")
    by_layer = _table("stayed in layer", _BECAUSE, _AT, "channels", left=3)
    for layer in layers if verbose else ():
        for reason, count in layer.stayed.items():
            names = (layer.name, reason, ", ".join(layer.nodes.get(reason, ())))
            by_layer.add_row(*map(printable, names), f"{count:,}")
    return [each for each in (table, by_layer) if each.row_count]


def _reasons(report: Report) -> list[Table]:
    table = _table(_WHY, _AT, "elements", left=2)
    for reason, count in report.stayed.items():
        table.add_row(printable(reason), printable(", ".join(report.nodes.get(reason, ()))), f"{count:,}")
    return [table] if table.row_count else []


def _remedies(texts: Iterable[str]) -> list[Text]:
    """Return what can be done about the reasons, each once, and where it is explained."""
    from onnxsqueeze.reporting.advice import remedies

    return [_sentence(words, f"{remedy.replace('`', '')} ({address})") for words, remedy, address in remedies(texts)]


def _outputs(report: VerifyReport) -> Table:
    table = _table("output", "deviation", "allowed", "scale", "rounding")
    for output in report.outputs:
        numbers = (output.deviation, output.tolerance, output.scale, output.yardstick)
        table.add_row(printable(output.name), *(f"{number:.2g}" for number in numbers))
    return table


def _seconds(seconds: Mapping[str, float]) -> str:
    phases = ", ".join(f"{phase} {duration:.2f}" for phase, duration in seconds.items())
    return f"{sum(seconds.values()):.2f} ({phases})"


def _sentence(label: str, words: str, style: str = "") -> Text:
    return Text.assemble((f"{label}: ", "bold"), (printable(words), style))


def _named(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "gone"


def _short(number: int) -> str:
    """Return a count in three digits and a unit, as 7.39M."""
    power = min(max(0, (len(str(number)) - 1) // 3), len(_UNITS) - 1)
    if power == 0:
        return str(number)
    scaled = number / 1000**power
    digits = max(0, 2 - int(math.log10(scaled)))
    return f"{scaled:.{digits}f}{_UNITS[power]}"


def printable(text: str) -> str:
    """Return a text that can be shown on a terminal, whatever a model's author put into its names."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
