"""Writing and showing the HTML report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxsqueeze.cli.outputs import write_report
from onnxsqueeze.errors import UsageError

if TYPE_CHECKING:
    from onnxsqueeze.pipeline.minimize import Result


def check_page(path: Path | None, show: bool) -> None:
    """Refuse before any work is done what could not be written or shown."""
    if show and path is None:
        raise click.UsageError("--open needs --report FILE.html", click.get_current_context())
    if path is None:
        return
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise UsageError("--report needs Jinja2: pip install 'onnxsqueeze[report]'") from None


def write_page(path: Path | None, show: bool, result: Result, source: Path) -> None:
    """Write the page of a result, and open it in a browser if that is asked for.

    Raises:
        SqueezeError: when it cannot be written.
    """
    if path is None:
        return
    write_report(path, result.page(source.name, shlex.join(["onnxsqueeze", *sys.argv[1:]])))
    if show:
        click.launch(path.resolve().as_uri())
