"""Writing and showing the HTML report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxsqueeze.cli.outputs import write_report
from onnxsqueeze.errors import UsageError

if TYPE_CHECKING:
    from onnxsqueeze.pipeline.minimize import Result
    from onnxsqueeze.reporting.page.content import NetworkPart


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


Made = Callable[[str, str], str]
"""Makes a page with a title, by a command."""


def write_page(path: Path | None, show: bool, made: Made, title: str) -> None:
    """Make and write a page, and open it in a browser if that is asked for; nothing where no path is given.

    Raises:
        SqueezeError: when it cannot be written.
    """
    if path is None:
        return
    write_report(path, made(title, command_line()))
    if show:
        click.launch(path.resolve().as_uri())


def command_line() -> str:
    """Return the command as it could be given again."""
    return shlex.join(["onnxsqueeze", *sys.argv[1:]])


class Pages:
    """Collects several networks for one page."""

    def __init__(self, path: Path | None, show: bool) -> None:
        """Take where to write the page, None for nowhere."""
        check_page(path, show)
        self._path, self._show = path, show
        self._parts: list[NetworkPart] = []

    def add(self, name: str, result: Result) -> None:
        """Keep what the page shows of a network."""
        if self._path is not None:
            self._parts.append(result.page_part(name))

    def page(self, title: str, command: str) -> str:
        """Return the page of all that were added."""
        from onnxsqueeze.reporting.page.networks import network_content
        from onnxsqueeze.reporting.page.render import render

        return render(network_content(self._parts, title, command))

    def write(self) -> None:
        """Write the page if there is anything to show."""
        if self._parts:
            count = len(self._parts)
            write_page(self._path, self._show, self.page, self._parts[0].name if count == 1 else f"{count} models")
