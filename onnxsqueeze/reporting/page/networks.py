"""What the page says of networks that were minimized or inspected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxsqueeze.reporting.advice import advice, disagreement, remedy
from onnxsqueeze.reporting.layers import Layer
from onnxsqueeze.reporting.page.content import Content, NetworkPart, Total
from onnxsqueeze.reporting.page.words import duration, readable, share, times
from onnxsqueeze.reporting.report import Report
from onnxsqueeze.reporting.stayed import named

_MOST_ROWS = 1000  # of layers in the table; a browser is slow with more
_LARGEST = 8  # layers that are named beside the drawing


def network_content(networks: Sequence[NetworkPart], title: str, command: str) -> Content:
    """Return the content of a page about one or several networks."""
    if len(networks) == 1:
        report = networks[0].report
        return Content(title, verdict(report), command, totals(report), notes(report), networks)
    reports = [part.report for part in networks]
    before, after = sum(each.weights_before for each in reports), sum(each.weights_after for each in reports)
    stored, left = sum(each.bytes_before for each in reports), sum(each.bytes_after for each in reports)
    summed = (
        Total("files", str(len(networks)), "choose one below"),
        _total("weights", before, after),
        _total("bytes on disk", stored, left, "B"),
    )
    said = f"{before / after:.2f} times fewer weights, all files together." if after else "No weights are left."
    return Content(title, said, command, summed, (), networks)


def verdict(report: Report) -> str:
    """Return the outcome in one sentence."""
    if report.weights_after == report.weights_before:
        return "Nothing could go."
    same = "verified to compute the same" if report.verification else "the same function up to rounding"
    return f"{report.ratio:.2f} times fewer weights, {same}."


def totals(report: Report) -> Sequence[Total]:
    """Return the figures at the top."""
    return (
        _total("weights", report.weights_before, report.weights_after),
        _total("file", report.bytes_before, report.bytes_after, "B"),
        _total("multiply-accumulates", report.macs_before, report.macs_after),
        _total("nodes", report.nodes_before, report.nodes_after),
    )


def notes(report: Report) -> Sequence[str]:
    """Return what a reader should know besides."""
    found = [f"MACs at {', '.join(f'{name}={size}' for name, size in report.sizes.items())}."] if report.sizes else []
    return [*found, *report.warnings]


def network_fields(part: NetworkPart) -> dict[str, Any]:
    """Return what the template needs of one network."""
    report, drawing = part.report, part.drawing
    largest = sorted(report.layers, key=lambda layer: layer.weights_before - layer.weights_after, reverse=True)
    most = max((layer.weights_before for layer in largest[:_LARGEST]), default=1)
    return {
        "name": part.name,
        "verdict": verdict(report),
        "totals": totals(report),
        "largest": [{**_row(layer), "width": share(most, layer.weights_before)} for layer in largest[:_LARGEST]],
        "layers": [_row(layer) for layer in _listed(report.layers)],
        "hidden": max(0, len(report.layers) - _MOST_ROWS),
        "most": max((layer.weights_before for layer in report.layers), default=1),
        "reasons": [
            (text, count, named(report.nodes.get(text, ())), remedy(text)) for text, count in report.stayed.items()
        ],
        "advice": [line for line in (_sentence(disagreement(report)), *advice(report)) if line],
        "verification": _verification(report),
        "streams": [
            {"before": stream.before, "after": stream.after, "sums": len(stream.sums), "readers": stream.readers}
            for stream in drawing.streams
        ],
        "heads": [
            {"name": block.name, "operator": block.operator, "counts": block.heads}
            for block in drawing.blocks
            if block.heads is not None
        ],
        "seconds": ", ".join(f"{phase} {duration(taken)}" for phase, taken in report.seconds.items()),
    }


def _listed(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Return the layers that the table has rows for: all, or the largest ones, in the graph's order."""
    if len(layers) <= _MOST_ROWS:
        return layers
    least = sorted((layer.weights_before for layer in layers), reverse=True)[_MOST_ROWS - 1]
    return [layer for layer in layers if layer.weights_before >= least][:_MOST_ROWS]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _total(label: str, before: float, after: float, unit: str = "") -> Total:
    detail = f"{readable(before, unit)} → {readable(after, unit)}" if before != after else readable(before, unit)
    return Total(label, times(before, after), detail, share(before, after))


def _verification(report: Report) -> dict[str, Any] | None:
    found = report.verification
    if found is None:
        return None
    return {
        "runs": found.runs,
        "notes": found.notes,
        "outputs": [
            (each.name, f"{each.deviation:.2g}", f"{each.tolerance:.2g}", f"{each.scale:.3g}", f"{each.yardstick:.2g}")
            for each in found.outputs
        ],
    }


def _row(layer: Layer) -> dict[str, Any]:
    def shape(sizes: tuple[int, ...]) -> str:
        return "×".join(map(str, sizes)) if sizes else "gone"

    def change(before: str, after: str) -> str:
        return before if before == after else f"{before} → {after}"

    reasons = sorted(layer.stayed.items(), key=lambda entry: -entry[1])
    return {
        "name": layer.name,
        "operator": layer.operator,
        "shape": change(shape(layer.shape_before), shape(layer.shape_after)),
        "weights": change(f"{layer.weights_before:,}", f"{layer.weights_after:,}"),
        "macs": change(readable(layer.macs_before), readable(layer.macs_after)) if layer.counted else "?",
        "share": share(layer.weights_before, layer.weights_after),
        "why": f"{reasons[0][0]} ({reasons[0][1]:,})" if reasons else "",
    }
