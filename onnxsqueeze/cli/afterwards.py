"""What is done after a model has been written cannot fail the run any more: it is there, and it is right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from onnxsqueeze.errors import SqueezeError, one_line


@contextmanager
def afterwards(doing: str) -> Iterator[None]:
    """Turn an error that nobody foresaw into a warning; with ONNXSQUEEZE_STRICT=1 it stays an error.

    What the user asked for besides and does not get (a report on a full disk, a reader that went away) is told as ever.

    Args:
        doing: what is done, as in "making the report".
    """
    try:
        yield
    except (SqueezeError, OSError, click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:
        from onnxsqueeze.rules.guard import STRICT

        if os.environ.get(STRICT, "0") not in ("", "0"):
            raise
        cause = f"internal error while {doing}: {type(error).__name__}: {one_line(error)}"
        click.echo(f"onnxsqueeze: warning: {cause}; the model is written; please report it with the model", err=True)
