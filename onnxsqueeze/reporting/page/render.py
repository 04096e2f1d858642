"""The page as text: one HTML file in which everything stands that it needs."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from onnxsqueeze._version import __version__
from onnxsqueeze.errors import UsageError
from onnxsqueeze.reporting.page.content import Content, FrontPart, LatencyPart, LatencyRow
from onnxsqueeze.reporting.page.networks import network_fields
from onnxsqueeze.reporting.page.words import duration

_PACKAGE = "onnxsqueeze.reporting.page"


def render(content: Content) -> str:
    """Return an HTML page.

    Raises:
        UsageError: when Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError:
        raise UsageError("the HTML report needs Jinja2: pip install 'onnxsqueeze[report]'") from None
    parts = {name: _text(name) for name in ("template.html", "style.css", "app.js")}
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(parts["template.html"])
    data = {
        "networks": [part.drawing.to_dict() for part in content.networks],
        "front": None if content.front is None else _front(content.front),
    }
    return str(
        template.render(
            page=content,
            version=__version__,
            networks=[network_fields(part) for part in content.networks],
            latency=None if content.latency is None else _latency(content.latency),
            style=_Safe(parts["style.css"]),
            script=_Safe(parts["app.js"].replace("</script", "<\\/script")),
            data=_Safe(_embedded(data)),
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


def _front(front: FrontPart) -> dict[str, Any]:
    points = []
    for point in front.points:
        taken = [dict(zip(("name", "kind", "before", "after"), each, strict=True)) for each in point.taken]
        points.append({**vars(point), "taken": taken})
    return {**vars(front), "points": points}


def _latency(part: LatencyPart) -> dict[str, Any]:
    """Return bars in percent of the room: of ratios, or of times where there is a single model."""
    rows = [row for _, entries in part.runtimes for row in entries]
    ratios = any(row.ratio is not None for row in rows)
    most = max((1.0, *(row.high or row.ratio or 0.0 for row in rows))) if ratios else 1.0
    runtimes = []
    for name, entries in part.runtimes:
        longest = max((row.latency or 0.0 for row in rows), default=1.0) or 1.0
        runtimes.append((name, [_bar(row, most, longest, ratios) for row in entries]))
    return {"runtimes": runtimes, "columns": part.columns, "one": 100 / most, "ratios": ratios}


def _bar(row: LatencyRow, most: float, longest: float, ratios: bool) -> dict[str, Any]:
    value = (row.ratio or 1.0) / most if ratios else (row.latency or 0.0) / longest
    interval = None
    if row.low is not None and row.high is not None:
        interval = (100 * row.low / most, 100 * (row.high - row.low) / most)
    said = "" if row.ratio is None else f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
    return {
        "model": row.model,
        "time": duration(row.latency),
        "said": said,
        "width": 100 * value if row.latency is not None else 0,
        "interval": interval,
        "first": row.ratio is None,
        "cells": row.cells,
        "problem": row.problem,
    }
