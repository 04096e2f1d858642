"""Draw a benchmark."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from onnxsqueeze.bench.report import BenchReport, Measurement
from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.saving import save_bytes
from onnxsqueeze.runtimes.base import NotInstalledError, imported

TITLE = "onnxsqueeze bench"
"""What a plot says of itself inside its file, by which a later run knows it."""

_SUFFIXES = (".svg", ".png")
_INCHES_WIDE, _INCHES_AROUND, _INCHES_BAR = 8.0, 1.4, 0.28


def check_plot(path: Path) -> None:
    """Find out whether a plot can be drawn before any work is done for it.

    Raises:
        UsageError: when it cannot.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--plot {path}: give a name that ends in {' or '.join(_SUFFIXES)}")
    try:
        imported("matplotlib")
    except NotInstalledError as error:
        raise UsageError(f"--plot needs matplotlib: pip install onnxsqueeze[plot] ({error})") from None


def plot(report: BenchReport, path: Path) -> None:
    """Draw a bar for each model in each runtime: its latency by that of the first model, or that of a single model.

    Raises:
        UsageError: when the path cannot be written to. SqueezeError: when the writing itself fails.
    """
    figure, axes = _figure(report)
    compared = len(report.models) > 1
    entries = [entry for entry in report.measurements if (entry.ratio if compared else entry.latency) is not None]
    colours = {model.name: f"C{index}" for index, model in enumerate(report.models[compared:])}
    for place, entry in enumerate(entries):
        value, errors = _bar(entry)
        label = entry.model if entry.model in colours else ""
        colour = colours.get(entry.model, "C0")
        axes.barh(place, value, xerr=errors, color=colour, label=label, capsize=3, height=0.7)
    axes.set_yticks(range(len(entries)), [entry.runtime for entry in entries])
    axes.invert_yaxis()
    if compared:
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xlabel(f"latency as a ratio to {report.models[0].name}, with 95 % intervals")
    else:
        axes.set_xlabel("latency in milliseconds")
    _legend(axes)
    axes.set_title(f"{report.machine.processor}, threads: {report.threads}", fontsize="small")
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), bbox_inches="tight", metadata={"Title": TITLE})
    save_bytes(drawn.getvalue(), path)


def _figure(report: BenchReport) -> tuple[Any, Any]:
    """Return a figure that no window belongs to, high enough for all bars."""
    height = _INCHES_AROUND + _INCHES_BAR * len(report.measurements)
    figure = imported("matplotlib.figure").Figure(figsize=(_INCHES_WIDE, height))
    return figure, figure.subplots()


def _bar(entry: Measurement) -> tuple[float, list[list[float]] | None]:
    """Return the length of a bar, and how far its interval reaches to both sides."""
    if entry.ratio is None:
        assert entry.latency is not None  # else it would have been left out
        return 1e3 * entry.latency, None
    found = entry.ratio
    return found.median, [[found.median - found.low], [found.high - found.median]]


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    if by_label:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": axes.figure.transFigure}
        axes.legend(by_label.values(), by_label.keys(), fontsize="small", frameon=False, **below)
