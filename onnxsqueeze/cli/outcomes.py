"""What becomes of a result: where it is written, and what is warned of."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onnxsqueeze.pipeline.minimize import Result
    from onnxsqueeze.reporting.report import Report


def default_output(source: Path, what: str = "min") -> Path:
    """Return the path beside a model that its minimized form gets: ``net.onnx`` becomes ``net.min.onnx``."""
    stem = source.stem if source.suffix.lower() == ".onnx" else source.name
    return source.with_name(f"{stem}.{what}.onnx")


def save_result(result: Result, target: Path, external: str) -> tuple[int, float]:
    """Write the model; return its bytes and the seconds that it took."""
    started = time.perf_counter()
    written = result.save(target, external_data=external)
    return written, time.perf_counter() - started


def warn_of(report: Report, quiet: bool, verbose: bool) -> None:
    """Warn of what a report warns of, with ``quiet`` of internal errors alone; ``verbose`` adds their tracebacks."""
    warn(map(str, report.failures) if quiet else report.warnings)
    for failure in report.failures if verbose else ():
        click.echo(failure.traceback, nl=False, err=True)


def warn(warnings: Iterable[str]) -> None:
    """Print warnings to stderr, one line each."""
    for warning in warnings:
        click.echo(f"onnxsqueeze: warning: {' '.join(warning.split())}", err=True)
