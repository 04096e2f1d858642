"""Where a command may write: never to what it reads, and reports not over files that are none."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxsqueeze._version import __version__
from onnxsqueeze.errors import SqueezeError, UsageError, one_line

if TYPE_CHECKING:
    from onnxsqueeze.model.files import InputFiles

_SIDE_FILE = re.compile(r"(\.\d+)?\.data")
_REPORTS = (
    {"input", "weights_before", "why_nothing"},  # minimize, inspect
    {"files", "worst_exit_code"},  # several files
    {"input", "error", "verification"},  # minimize, where verification failed
    {"original", "other", "passed", "tolerance"},  # verify
    {"input", "output", "format", "format_version"},  # deploy
    {"machine", "runtimes", "measurements"},  # bench
    {"input", "output", "chosen", "points"},  # squeeze
)
"""Keys that a report in JSON has, all of one of these, beside its version."""
_LONGEST = 2**28  # bytes of a report
_PAGE = b"\xc2\xb7 onnxsqueeze</title>"  # stands in the head of a page


def input_files(*models: Path, **samples: Path | None) -> InputFiles:
    """Return what a command reads: models with their external data, and the samples of its options, None for none."""
    from onnxsqueeze.model.files import InputFiles

    return InputFiles(models, tuple(path for path in samples.values() if path is not None))


def check_output(inputs: InputFiles, source: Path, target: Path, force: bool) -> None:
    """Refuse an output path for a model before any work is done for it.

    Raises:
        UsageError: when it is no file, or belongs to the input; the model itself may be replaced by ``force``.
    """
    if str(target) == "-":
        raise UsageError("-o - is refused: a model is not written to stdout; give the name of the output file")
    if target.is_dir():
        raise UsageError(f"{target} is a folder; give the name of the output file")
    if not target.parent.is_dir():
        raise UsageError(
            f"{target}: the output folder {target.parent} does not exist; create it or choose another output path"
        )
    from onnxsqueeze.model.files import same_file

    if same_file(source, target):
        if not force:
            raise UsageError(f"{target} is the input itself; choose another output path, or replace it with --force")
    elif held := inputs.holding(target):
        raise UsageError(f"{target} is {held}, which is never replaced; choose another output path")


def check_reports(
    reports: Mapping[str, Path | None], inputs: InputFiles, force: bool, output: Path | None = None
) -> None:
    """Refuse a path for a report before any work is done for it.

    A report replaces an earlier report, an empty file, or with ``force`` any file that no other option names.

    Args:
        reports: by option the path, None or ``-`` for stdout.
        inputs: what the command reads.
        force: whether a file that is no report may be replaced.
        output: the model, or the folder of the deployment, that the command writes.

    Raises:
        UsageError: naming the option and what is there.
    """
    taken: dict[str, Path] = {}
    for option, path in reports.items():
        if path is None or is_stdout(path):
            continue
        if not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist; create it or choose another path")
        if held := _held(path, inputs, output):
            raise UsageError(f"{option} {path} would overwrite {held}; choose another path")
        if twice := [other for other, place in taken.items() if _same(place, path)]:
            raise UsageError(f"{option} {path} would overwrite what {twice[0]} writes; choose another path")
        taken[option] = path
        if not force and not _replaceable(path):
            raise UsageError(
                f"{option} {path} would overwrite a file that is no report of onnxsqueeze; "
                "choose another path, or replace it with --force"
            )


def _held(path: Path, inputs: InputFiles, output: Path | None) -> str:
    """Say what a report at a path would destroy, whatever `--force` allows; "" for nothing."""
    if held := inputs.holding(path):
        return "the model" if held.startswith("the model ") else held
    if output is None:
        return ""
    if _same(path, output):
        return "the model"
    real, place = Path(os.path.realpath(path)), Path(os.path.realpath(output))
    if place in real.parents:
        return f"what is in {output}"
    if real.parent == place.parent and real.name.startswith(place.name):
        return f"the weights of {output}" if _SIDE_FILE.fullmatch(real.name[len(place.name) :]) else ""
    return ""


def _same(left: Path, right: Path) -> bool:
    from onnxsqueeze.model.files import same_file

    return same_file(left, right)


def _replaceable(path: Path) -> bool:
    """Whether a report may be written to a path: where nothing is, a pipe or terminal, or what a report left there."""
    try:
        status = path.stat()
    except OSError:
        return True  # nothing is there, or what is there cannot be written to either
    if not stat.S_ISREG(status.st_mode):
        return not stat.S_ISBLK(status.st_mode)
    try:
        return status.st_size == 0 or (status.st_size <= _LONGEST and _is_report(path.read_bytes()))
    except OSError:
        return False


def _is_report(content: bytes) -> bool:
    """Whether a file is a report in JSON, one in CSV, a page, or a plot."""
    from onnxsqueeze.bench.plotting import TITLE
    from onnxsqueeze.bench.report import CSV_COLUMNS

    if content.startswith(b"<!DOCTYPE html>"):
        return _PAGE in content
    if content.startswith((b"\x89PNG", b"<?xml")):
        return TITLE.encode() in content
    if content.startswith(",".join(CSV_COLUMNS).encode() + b"\n"):
        return True
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "version" in data and any(keys <= data.keys() for keys in _REPORTS)


def is_stdout(path: Path | None) -> bool:
    """Whether a report goes to stdout."""
    return path is not None and str(path) == "-"


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Write a report in JSON to a file or to stdout, or nothing.

    Raises:
        SqueezeError: when it cannot be written.
    """
    if path is not None:
        text = json.dumps({"version": __version__, **data}, indent=2, allow_nan=False)
        write_report(path, text + "\n")


def write_report(path: Path | None, text: str) -> None:
    """Write a report to a file, whole or not at all, or to stdout, or nothing.

    Raises:
        SqueezeError: when it cannot be written.
    """
    if path is None:
        return
    if is_stdout(path):
        print_out(text)
        return
    from onnxsqueeze.model.saving import save_bytes

    try:
        if path.exists() and not path.is_file():  # a pipe or a terminal
            path.write_text(text, encoding="utf-8")
            return
    except OSError as error:
        raise SqueezeError(f"{path}: the report cannot be written: {one_line(error)}") from None
    save_bytes(text.encode("utf-8"), path)


def print_out(text: str) -> None:
    """Print to stdout.

    Raises:
        BrokenPipeError: when whoever read it went away. SqueezeError: when it cannot be written.
    """
    try:
        click.echo(text, nl=False, color=True)  # whether to use colours was decided when the text was made
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        raise SqueezeError(f"stdout cannot be written: {one_line(error)}") from None


def drop_stdout() -> None:
    """Forget what could not be written, or the interpreter would try again and complain when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
