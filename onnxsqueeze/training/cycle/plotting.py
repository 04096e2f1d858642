"""Draw the front: a picture with matplotlib where it is installed, and a page as every report is."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence

from onnxsqueeze.reporting.page.content import Content, FrontPart, FrontPoint, TablePart
from onnxsqueeze.reporting.page.render import render
from onnxsqueeze.training.cycle.front import Point, best

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
    """Return the front as an HTML page: a point for each cycle, and a table."""
    chosen = best(found)
    won = f"{chosen.ratio:.2f} times fewer weights, metric {chosen.metric:.5g}"
    rows = [_row(point, found) for point in found]
    columns = ("cycle", "elements", "ratio", "metric", "drop", "", "file")
    content = Content(
        title="Size against metric",
        verdict=f"Cycle {chosen.cycle} is the best: {won}.",
        command="onnxsqueeze.training",
        front=FrontPart(
            points=[_dot(point, found) for point in found],
            x="times fewer weight elements than the dense network",
            y="metric",
            dense=found[0].metric + found[0].drop,
            limit=None if max_drop is None else found[0].metric + found[0].drop - max_drop,
            percent=False,
        ),
        tables=(TablePart("All cycles", columns, rows),),
    )
    return render(content).encode()


def _kind(point: Point, found: Sequence[Point]) -> str:
    if point.cycle == best(found).cycle:
        return "best"
    return "within" if point.within else "outside"


def _dot(point: Point, found: Sequence[Point]) -> FrontPoint:
    facts = [
        ("weight elements", f"{point.elements:,}"),
        ("metric", f"{point.metric:.5g}"),
        ("drop", f"{point.drop:+.5g}"),
        ("file", _file(point)),
    ]
    kind = _kind(point, found)
    return FrontPoint(
        name=f"cycle {point.cycle}",
        ratio=point.ratio,
        value=point.metric,
        chosen=kind == "best",
        front=point.on_front,
        within=point.within,
        facts=facts,
    )


def _file(point: Point) -> str:
    return f"{point.onnx_path.parent.name}/{point.onnx_path.name}"


def _row(point: Point, found: Sequence[Point]) -> list[str]:
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
        _file(point),
    ]
    return cells
