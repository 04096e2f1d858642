"""What the page shows of a squeeze: the front of quality against size."""

from __future__ import annotations

from dataclasses import replace

from onnxsqueeze.reporting.page.content import Content, FrontPart, FrontPoint, TablePart, Total
from onnxsqueeze.reporting.page.render import render
from onnxsqueeze.reporting.page.words import duration, readable, share, times
from onnxsqueeze.squeezing.report import NOT_THE_SAME, Point, SqueezeReport

_POINT = 100  # of a percentage


def page(report: SqueezeReport, title: str, command: str = "onnxsqueeze.squeeze") -> str:
    """Return a report as one HTML page, which loads nothing from anywhere.

    Args:
        report: what it shows. title: its heading. command: what the page says that it was made by.

    Raises:
        UsageError: when Jinja2 is not installed (the extra ``report``).
    """
    return render(content(report, title, command))


def content(report: SqueezeReport, title: str, command: str) -> Content:
    """Return the content of the page."""
    chosen = report.chosen
    notes = [f"{NOT_THE_SAME[0].upper()}{NOT_THE_SAME[1:]}."]
    if report.why:
        notes.insert(0, f"The goal was not reached: {report.why}.")
    notes.append(
        f"{report.calibration:,} samples were used for choices; the figures are of {report.held_out:,} others."
    )
    before = (f"{report.metric}, original", f"{_POINT * report.dense:.2f} %")
    columns = ("times fewer weights", "weights", "MACs", "bytes", report.metric, "drop, points", "deviation", "latency")
    return Content(
        title=title,
        verdict=f"{chosen.ratio:.2f} times fewer weights, {chosen.drop:.2f} points of {report.metric} lost.",
        command=command,
        totals=(
            Total("weights", times(report.weights, chosen.weights), *_change(report.weights, chosen.weights)),
            Total("file", times(report.bytes, chosen.bytes), *_change(report.bytes, chosen.bytes, "B")),
            Total("multiply-accumulates", times(report.macs, chosen.macs), *_change(report.macs, chosen.macs)),
            Total(report.metric, f"{_POINT * chosen.metric:.2f} %", f"{before[1]} before"),
        ),
        notes=notes,
        front=FrontPart(
            points=[_point(point, report) for point in report.points],
            x="times fewer weights",
            y=report.metric,
            dense=report.dense,
        ),
        tables=(
            _filled(TablePart("All networks", columns, [_row(point) for point in report.points], left=0)),
            TablePart("Time", ("step", "time"), [(step, duration(taken)) for step, taken in report.seconds.items()]),
        ),
    )


def _filled(table: TablePart) -> TablePart:
    """Return a table without the columns that hold nothing, as latency where it was no goal."""
    kept = [place for place in range(len(table.columns)) if any(row[place] for row in table.rows)]
    rows = [tuple(row[place] for place in kept) for row in table.rows]
    return replace(table, columns=tuple(table.columns[place] for place in kept), rows=rows)


def _change(before: float, after: float, unit: str = "") -> tuple[str, float]:
    return f"{readable(before, unit)} → {readable(after, unit)}", share(before, after)


def _point(point: Point, report: SqueezeReport) -> FrontPoint:
    beaten = any(
        other.weights <= point.weights and other.metric >= point.metric and other is not point
        for other in report.points
        if (other.weights, other.metric) != (point.weights, point.metric)
    )
    facts = [
        ("weights", f"{report.weights:,} → {point.weights:,}"),
        ("MACs", f"{point.macs_ratio:.2f}× fewer"),
        ("file", readable(point.bytes, "B")),
        (report.metric, f"{_POINT * point.metric:.2f} % (−{point.drop:.2f} points)"),
        ("deviation", f"{point.deviation:.2g}"),
    ]
    if point.latency is not None:
        facts.append(("latency", f"{point.latency:.2f} of the original's"))
    return FrontPoint(
        name=f"{point.ratio:.2f} times fewer weights" + (", written" if point is report.chosen else ""),
        ratio=point.ratio,
        value=point.metric,
        chosen=point is report.chosen,
        front=not beaten,
        facts=facts,
        taken=[(each.name, each.kind, each.before, each.after) for each in point.taken],
    )


def _row(point: Point) -> tuple[str, ...]:
    return (
        f"{point.ratio:.2f}",
        f"{point.weights:,}",
        readable(point.macs),
        f"{point.bytes:,}",
        f"{_POINT * point.metric:.2f} %",
        f"{point.drop:.2f}",
        f"{point.deviation:.2g}",
        "" if point.latency is None else f"{point.latency:.2f}",
    )
