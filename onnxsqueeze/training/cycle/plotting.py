"""Draw the front: a picture with matplotlib where it is installed, and a page that needs nothing but a browser."""

from __future__ import annotations

import html
import importlib
import io
import math
from collections.abc import Sequence

from onnxsqueeze.training.cycle.front import Point, best

_WIDTH, _HEIGHT, _MARGIN = 720, 440, 64
_COLOURS = {"best": "#c0392b", "within": "#1f6fb2", "outside": "#9aa5ad"}


def picture(found: Sequence[Point], max_drop: float | None) -> bytes | None:
    """Return the front as a PNG, None where matplotlib is not installed."""
    try:
        figure = importlib.import_module("matplotlib.figure").Figure(figsize=(7, 4.3))
    except ImportError:
        return None
    axes = figure.subplots()
    front = sorted((point for point in found if point.on_front), key=lambda point: point.ratio)
    axes.plot([point.ratio for point in front], [point.metric for point in front], color=_COLOURS["within"], lw=1)
    for point in found:
        axes.plot(point.ratio, point.metric, "o", color=_COLOURS[_kind(point, found)])
        axes.annotate(str(point.cycle), (point.ratio, point.metric), xytext=(4, 4), textcoords="offset points")
    if max_drop is not None:
        axes.axhline(found[0].metric - max_drop, color=_COLOURS["outside"], lw=0.8, ls="--")
    axes.set_xscale("log")
    axes.set_xlabel("times fewer weight elements than the dense network")
    axes.set_ylabel("metric")
    axes.set_title("numbers: cycles; red: the best within the allowed drop", fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, bbox_inches="tight")
    return stream.getvalue()


def page(found: Sequence[Point], max_drop: float | None) -> bytes:
    """Return the front as an HTML page: a drawing that names each network under the pointer, and a table."""
    scale = _Scale(found, max_drop)
    dots = "\n".join(_dot(point, found, scale) for point in found)
    front = sorted((point for point in found if point.on_front), key=lambda point: point.ratio)
    line = " ".join(f"{scale.x(point.ratio):.1f},{scale.y(point.metric):.1f}" for point in front)
    rows = "\n".join(_row(point, found) for point in found)
    return _PAGE.format(
        width=_WIDTH,
        height=_HEIGHT,
        axes=scale.axes(max_drop, found[0].metric),
        line=line,
        colour=_COLOURS["within"],
        dots=dots,
        rows=rows,
    ).encode()


def _kind(point: Point, found: Sequence[Point]) -> str:
    if point.cycle == best(found).cycle:
        return "best"
    return "within" if point.within else "outside"


class _Scale:
    """Where a ratio and a metric stand in the drawing; ratios on a logarithmic axis."""

    def __init__(self, found: Sequence[Point], max_drop: float | None) -> None:
        metrics = [point.metric for point in found]
        if max_drop is not None:
            metrics.append(found[0].metric - max_drop)
        self.low, self.high = _widened(min(metrics), max(metrics))
        ratios = [math.log(point.ratio) for point in found]
        self.left, self.right = _widened(min(ratios), max(ratios))

    def x(self, ratio: float) -> float:
        part = (math.log(ratio) - self.left) / (self.right - self.left)
        return _MARGIN + part * (_WIDTH - 2 * _MARGIN)

    def y(self, metric: float) -> float:
        part = (metric - self.low) / (self.high - self.low)
        return _HEIGHT - _MARGIN - part * (_HEIGHT - 2 * _MARGIN)

    def axes(self, max_drop: float | None, dense: float) -> str:
        """Return the ticks, and the line of the allowed drop."""
        bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
        parts = [f'<path class="axis" d="M{_MARGIN},{_MARGIN} V{bottom} H{right}"/>']
        for step in range(5):
            ratio = math.exp(self.left + step / 4 * (self.right - self.left))
            metric = self.low + step / 4 * (self.high - self.low)
            parts.append(f'<text x="{self.x(ratio):.1f}" y="{bottom + 18}" text-anchor="middle">{ratio:.3g}x</text>')
            parts.append(f'<text x="{_MARGIN - 6}" y="{self.y(metric) + 4:.1f}" text-anchor="end">{metric:.4g}</text>')
        if max_drop is not None:
            parts.append(f'<path class="allowed" d="M{_MARGIN},{self.y(dense - max_drop):.1f} H{right}"/>')
        return "\n".join(parts)


def _widened(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _dot(point: Point, found: Sequence[Point], scale: _Scale) -> str:
    said = f"cycle {point.cycle}: {point.ratio:.4g}x, {point.elements:,} elements, metric {point.metric:.5g}"
    place = f'cx="{scale.x(point.ratio):.1f}" cy="{scale.y(point.metric):.1f}"'
    return f'<circle {place} r="5" fill="{_COLOURS[_kind(point, found)]}"><title>{html.escape(said)}</title></circle>'


def _row(point: Point, found: Sequence[Point]) -> str:
    remarks = ["best"] if _kind(point, found) == "best" else []
    remarks += ["on the front"] if point.on_front else []
    remarks += [] if point.within else ["drops too much"]
    cells = [
        str(point.cycle),
        f"{point.elements:,}",
        f"{point.ratio:.2f}x",
        f"{point.metric:.5g}",
        f"{point.drop:+.5g}",
        ", ".join(remarks),
        f"{point.onnx_path.parent.name}/{point.onnx_path.name}",
    ]
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Squeeze-Release: size against metric</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 2em; }}
text {{ font-size: 12px; fill: #444; }}
.axis {{ fill: none; stroke: #444; }}
.allowed {{ fill: none; stroke: #9aa5ad; stroke-dasharray: 5 4; }}
td, th {{ padding: 2px 12px; text-align: right; }}
</style>
<h1>Size against metric</h1>
<p>Times fewer weight elements than the dense network, and the metric of each cycle. Red: the best within the allowed
drop (dashed).</p>
<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="size against metric">
{axes}
<polyline points="{line}" fill="none" stroke="{colour}"/>
{dots}
</svg>
<table><tr><th>cycle<th>elements<th>ratio<th>metric<th>drop<th><th>file</tr>
{rows}
</table></html>
"""
