"""The page as text: one HTML file in which everything stands that it needs."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from onnxsqueeze._version import __version__
from onnxsqueeze.errors import UsageError
from onnxsqueeze.reporting.layers import Layer
from onnxsqueeze.reporting.page.drawing import Drawing
from onnxsqueeze.reporting.report import Report

_PACKAGE = "onnxsqueeze.reporting.page"
_UNITS = ("", "k", "M", "G", "T")
_MOST_ADVICE = 1.02  # times smaller up to which little was won


def page(report: Report, drawing: Drawing, title: str, command: str) -> str:
    """Return the HTML page of a report.

    Args:
        report, drawing: what it shows. title: the model's name. command: what made it.

    Raises:
        UsageError: when Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError:
        raise UsageError("the HTML report needs Jinja2: pip install 'onnxsqueeze[report]'") from None
    parts = {name: _text(name) for name in ("template.html", "style.css", "app.js")}
    template = Environment(autoescape=True).from_string(parts["template.html"])
    return str(
        template.render(
            title=title,
            version=__version__,
            verdict=_verdict(report),
            totals=_totals(report),
            notes=_notes(report),
            reasons=list(report.stayed.items()),
            advice=report.why_nothing if report.ratio < _MOST_ADVICE else "",
            layers=[_row(layer) for layer in report.layers],
            command=command,
            style=_Safe(parts["style.css"]),
            script=_Safe(parts["app.js"].replace("</script", "<\\/script")),
            data=_Safe(_embedded({"drawing": drawing.to_dict()})),
        )
    )


class _Safe(str):
    """Text of our own that is put into the page as it is."""

    def __html__(self) -> str:
        return self


def _text(name: str) -> str:
    return files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _embedded(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the element that it stands in, whatever a model's names are."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _verdict(report: Report) -> str:
    if report.weights_after == report.weights_before:
        return "Nothing could go. " + (report.why_nothing or "")
    same = "verified to compute the same" if report.verification else "the same function up to rounding"
    return f"{report.ratio:.2f} times fewer weights, {same}."


def _totals(report: Report) -> list[dict[str, Any]]:
    entries = (
        ("weights", report.weights_before, report.weights_after, ""),
        ("file", report.bytes_before, report.bytes_after, "B"),
        ("multiply-accumulates", report.macs_before, report.macs_after, ""),
        ("nodes", report.nodes_before, report.nodes_after, ""),
    )
    return [
        {
            "label": label,
            "ratio": f"{before / after:.2f}×" if after else "gone",
            "share": _share(before, after),
            "before": readable(before, unit),
            "after": readable(after, unit),
        }
        for label, before, after, unit in entries
    ]


def readable(count: float, unit: str = "") -> str:
    """Return a count in thousands, millions and so on, with three digits."""
    power = 0
    while abs(count) >= 999.5 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    digits = f"{count:.3g}" if power else f"{count:g}"
    return f"{digits} {_UNITS[power]}{unit}".strip()


def _share(before: int, after: int) -> float:
    return round(100 * min(1.0, after / before), 1) if before else 100.0


def _notes(report: Report) -> list[str]:
    notes = []
    if report.verification is not None:
        found = report.verification
        notes.append(f"Largest deviation {found.deviation:.2g} of the output's scale, allowed {found.tolerance:.2g}.")
    if report.sizes:
        notes.append("MACs at " + ", ".join(f"{name}={size}" for name, size in report.sizes.items()) + ".")
    return [*notes, *report.warnings]


def _row(layer: Layer) -> dict[str, Any]:
    def shape(sizes: tuple[int, ...]) -> str:
        return "×".join(map(str, sizes)) if sizes else "gone"

    return {
        "name": layer.name,
        "operator": layer.operator,
        "shape": f"{shape(layer.shape_before)} → {shape(layer.shape_after)}",
        "weights": f"{layer.weights_before:,} → {layer.weights_after:,}",
        "macs": f"{readable(layer.macs_before)} → {readable(layer.macs_after)}",
        "share": _share(layer.weights_before, layer.weights_after),
    }
