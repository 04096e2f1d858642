"""Reports as text: tables by rich, in colours on a terminal, plain elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxsqueeze.cli.bars import Bars
from onnxsqueeze.cli.rendering import (
    AT,
    BECAUSE,
    STAYED,
    WHY,
    change,
    duration,
    named_sizes,
    printable,
    rendered,
    sentence,
    short,
    shown_name,
    size,
    table,
    times,
)

if TYPE_CHECKING:
    from onnxsqueeze.reporting.layers import Layer
    from onnxsqueeze.reporting.report import Report
    from onnxsqueeze.squeezing.report import SqueezeReport
    from onnxsqueeze.verification import VerifyReport

_UNKNOWN = "?"  # of a layer without a rule
_USUAL = ("float32", "float64")


def several(columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str], str]]) -> str:
    """Render a line for each of several files: its name, cells under ``columns``, and why it failed, if it did."""
    rows = table("file", *columns, "", left=1)
    for name, cells, error in lines:
        padded = [*cells, *[""] * (len(columns) - len(cells))]
        rows.add_row(printable(name), *map(printable, padded), printable(error), style="red" if error else "")
    rows.columns[-1].justify = "left"
    return rendered([rows])


def summary(report: Report) -> tuple[str, ...]:
    """Return the cells of a report in a table of several files: weights left, bytes, MACs, and the deviation."""
    share = f"{report.weights_after / report.weights_before:.1%}".replace("%", " %") if report.weights_before else ""
    deviation = "" if report.verification is None else f"{report.verification.deviation:.2g}"
    weights = change(f"{report.weights_before:,}", f"{report.weights_after:,}")
    macs = change(short(report.macs_before), short(report.macs_after))
    return share, weights, change(size(report.bytes_before), size(report.bytes_after)), macs, deviation


SUMMARY = ("left", "weights", "size", "MACs", "deviation")
"""The columns of `summary`."""


def minimized(report: Report, output: str, verbose: bool) -> str:
    """Render what `minimize` did: a row for each layer, the totals, the verification, the time."""
    parts: list[RenderableType] = []
    if report.layers:
        parts.append(_layers(report.layers))
    parts.extend(_totals(report))
    if report.why_nothing:
        parts.append(sentence("nothing could go", report.why_nothing, "yellow"))
    parts.extend(_advice(report))
    parts.append(_verification_line(report))
    if verbose:
        parts.extend([*_reasons(report), *_remedies(report.stayed)])
    parts.append(sentence("time", times(report.seconds)))
    parts.append(sentence("written", output, "green"))
    return rendered(parts)


def inspected(report: Report, verbose: bool) -> str:
    """Render what a mask is worth: a row for each layer, the totals, and why the rest stays."""
    parts: list[RenderableType] = []
    if report.layers:
        parts.append(_findings(report.layers, verbose))
    parts.extend(_totals(report))
    if report.why_nothing:
        parts.append(sentence("nothing can go", report.why_nothing, "yellow"))
    parts.extend(_advice(report))
    if report.layers:
        parts.append(sentence("bars", Bars.of_stdout().legend))
    parts.extend(_stayed(report.layers, verbose))
    if verbose:
        parts.extend(_reasons(report))
    shown = [text for layer in report.layers for text in layer.stayed]
    parts.extend(_remedies([*shown, *(report.stayed if verbose else ())]))
    parts.append(sentence("time", times(report.seconds)))
    return rendered(parts)


def squeezed(report: SqueezeReport, output: str) -> str:
    """Render what `squeeze` did: the networks that were made, what each layer lost, and what it is not."""
    timed = any(point.latency is not None for point in report.points)
    latency = ["latency"] if timed else []
    points = table("weights", "ratio", "MACs", "MACs ratio", "size", *latency, report.metric, "drop", "deviation")
    dense = (f"{report.weights:,}", "1", short(report.macs), "1", size(report.bytes), *["1"] * timed)
    points.add_row(*dense, f"{100 * report.dense:.2f} %")
    for point in report.points:
        name = f"{point.weights:,}" + (" *" if point is report.chosen and len(report.points) > 1 else "")
        name += " trained" if point.trained else ""
        time = [] if not timed else ["" if point.latency is None else f"{point.latency:.2f}"]
        sizes = (f"{point.ratio:.2f}", short(point.macs), f"{point.macs_ratio:.2f}", size(point.bytes), *time)
        points.add_row(name, *sizes, f"{100 * point.metric:.2f} %", f"{point.drop:.2f}", f"{point.deviation:.2g}")
    layers = table("layer", "units", "left", left=2)
    for taken in report.chosen.taken:
        layers.add_row(printable(taken.name), taken.kind, change(f"{taken.before:,}", f"{taken.after:,}"))
    parts: list[RenderableType] = [layers, points]
    if len(report.points) > 1:
        parts.append(sentence("*", "written"))
    from onnxsqueeze.squeezing.report import NOT_THE_SAME

    counts = f"{report.calibration:,} samples for choices, {report.held_out:,} held out for these figures"
    if report.compared:
        counts += f"; as the model takes long, sizes were compared by {report.compared:,}"
    parts.append(sentence("samples", counts))
    parts.append(sentence("note", NOT_THE_SAME, "yellow"))
    if report.why:
        parts.append(sentence("goal not reached", report.why, "red"))
    parts.append(sentence("time", times(report.seconds)))
    parts.append(sentence("written", output, "green"))
    return rendered(parts)


def verified(report: VerifyReport, verbose: bool) -> str:
    """Render the outcome of a comparison."""
    verdict = ("equivalent", "green") if report.passed else ("not equivalent", "bold red")
    parts: list[RenderableType] = [Text(verdict[0], style=verdict[1])]
    parts.append(sentence("largest deviation", _deviation(report)))
    if report.float64_deviation is not None:
        parts.append(sentence("in float64", f"{report.float64_deviation:.2g} of the output's scale"))
    if report.first_deviating:
        parts.append(sentence("first deviating layer", report.first_deviating, "red"))
    if report.sizes and any(report.sizes):
        parts.append(sentence("sizes", "; ".join(map(named_sizes, report.sizes))))
    parts.extend(sentence("note", note) for note in report.notes)
    if verbose and report.outputs:
        parts.append(_outputs(report))
    parts.append(sentence("time", duration(report.seconds)))
    return rendered(parts)


def _layers(layers: Sequence[Layer]) -> Table:
    stored = _narrower(layers)
    rows = table("layer", "operator", "shape", "weights", *(("type", "size") if stored else ()), "MACs", left=3)
    for layer in layers:
        rows.add_row(
            shown_name(layer.name),
            printable(layer.operator),
            change(_shape(layer.shape_before), _shape(layer.shape_after)),
            change(f"{layer.weights_before:,}", f"{layer.weights_after:,}"),
            *(_stored(layer) if stored else ()),
            _macs(layer),
            style=_style(layer),
        )
    return rows


def _narrower(layers: Sequence[Layer]) -> bool:
    """Whether some layers are stored in another type than the others: their bytes say more than their elements."""
    return len({layer.dtype for layer in layers}) > 1 or any(layer.dtype not in _USUAL for layer in layers)


def _stored(layer: Layer) -> tuple[str, str]:
    return layer.dtype, change(size(layer.bytes_before), size(layer.bytes_after))


def _macs(layer: Layer) -> str:
    return change(short(layer.macs_before), short(layer.macs_after)) if layer.counted else _UNKNOWN


def _findings(layers: Sequence[Layer], verbose: bool) -> Table:
    names = ("layer", "output tensor") if verbose else ("layer",)
    numbers: tuple[str, ...] = ("zeros", "channels", "dead", "constant", "removable", "weights", "MACs")
    bars = Bars.of_stdout()
    stored = _narrower(layers)
    if stored:
        numbers = (*numbers[:-1], "type", "size", numbers[-1])
    rows = table(*names, "operator", bars.title, *numbers, left=len(names) + 2)
    for layer in layers:
        rows.add_row(
            *(shown_name(name) for name in (layer.name, layer.output)[: len(names)]),
            printable(layer.operator),
            bars.drawn(layer),
            f"{math.floor(1000 * layer.sparsity) / 10:.1f} %",  # rounded down: 100 % means all
            *(f"{number:,}" if layer.channels else _UNKNOWN for number in _channels(layer)),
            change(f"{layer.weights_before:,}", f"{layer.weights_after:,}"),
            *(_stored(layer) if stored else ()),
            _macs(layer),
            style=_style(layer),
        )
    return rows


def _channels(layer: Layer) -> tuple[int, int, int, int]:
    return layer.channels, layer.dead, layer.constant, layer.removed


def _style(layer: Layer) -> str:
    return "dim" if layer.weights_after == layer.weights_before else ""


def _totals(report: Report) -> list[RenderableType]:
    rows = table("total", "before", "after", "smaller")
    for name, shown, before, after in (
        ("weight elements", "{:,}".format, report.weights_before, report.weights_after),
        ("file size", size, report.bytes_before, report.bytes_after),
        ("MACs", "{:,}".format, report.macs_before, report.macs_after),
        ("nodes", "{:,}".format, report.nodes_before, report.nodes_after),
    ):
        rows.add_row(name, shown(before), shown(after), f"{before / after:.2f}x" if after else "")
    parts: list[RenderableType] = [rows]
    if report.sizes:
        parts.append(sentence("MACs for one sample at", named_sizes(report.sizes)))
    if uncounted := sum(not layer.counted for layer in report.layers):
        parts.append(sentence("MACs are not counted of", f"{uncounted} layers without a rule"))
    return parts


def _advice(report: Report) -> list[Text]:
    from onnxsqueeze.reporting.advice import advice, disagreement

    disagreeing = disagreement(report)
    found = [sentence("more could go", disagreeing, "yellow")] if disagreeing else []
    return [*found, *(sentence("next", line.replace("`", ""), "yellow") for line in advice(report))]


def _verification_line(report: Report) -> Text:
    if report.verification is not None:
        return sentence("largest deviation", _deviation(report.verification))
    if report.why_nothing:
        return sentence("verified", "not needed, the output is a copy")
    return sentence("verified", "no, on request", "yellow")


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

    rows = table(STAYED, AT, "layers", "channels", left=2)
    for reason, number, count, at in joined([(layer.stayed, layer.nodes) for layer in layers]):
        rows.add_row(printable(reason), printable(at), f"{number:,}", f"{count:,}")
    by_layer = table("stayed in layer", BECAUSE, AT, "channels", left=3)
    for layer in layers if verbose else ():
        for reason, count in layer.stayed.items():
            names = (layer.name, reason, ", ".join(layer.nodes.get(reason, ())))
            by_layer.add_row(*map(printable, names), f"{count:,}")
    return [each for each in (rows, by_layer) if each.row_count]


def _reasons(report: Report) -> list[Table]:
    rows = table(WHY, AT, "elements", left=2)
    for reason, count in report.stayed.items():
        rows.add_row(printable(reason), printable(", ".join(report.nodes.get(reason, ()))), f"{count:,}")
    return [rows] if rows.row_count else []


def _remedies(texts: Iterable[str]) -> list[Text]:
    """Return what can be done about the reasons, each once, and where it is explained."""
    from onnxsqueeze.reporting.advice import remedies

    return [sentence(words, f"{remedy.replace('`', '')} ({address})") for words, remedy, address in remedies(texts)]


def _outputs(report: VerifyReport) -> Table:
    rows = table("output", "deviation", "allowed", "scale", "rounding")
    for output in report.outputs:
        numbers = (output.deviation, output.tolerance, output.scale, output.yardstick)
        rows.add_row(printable(output.name), *(f"{number:.2g}" for number in numbers))
    return rows


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "gone"
