"""Several files in one run: one line of a table for each, and one that fails does not stop the others."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import onnxsqueeze
from onnxsqueeze.cli.options import VERBOSE
from onnxsqueeze.cli.outcomes import default_output, save_result, warn
from onnxsqueeze.cli.outputs import check_output, check_reports, is_stdout, print_out, write_json
from onnxsqueeze.cli.pages import Pages
from onnxsqueeze.cli.progress import ProgressBar
from onnxsqueeze.errors import SqueezeError, UsageError, one_line

if TYPE_CHECKING:
    from onnxsqueeze.model.files import InputFiles
    from onnxsqueeze.reporting.report import Report

Work = Callable[[Path], "Done"]
"""Does one file, and says what came of it."""


@dataclass(frozen=True)
class Done:
    """What came of one file.

    Attributes:
        path: the file. cells: what the table says of it. code: its exit code. error: why it failed, "" if it did not.
        data: for JSON. warnings: one line each.
    """

    path: Path
    cells: tuple[str, ...] = ()
    code: int = 0
    error: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def expanded(paths: Iterable[Path]) -> list[Path]:
    """Return the files that paths and glob patterns mean, each once and in order.

    A shell that knows patterns has replaced them; those in quotes, and on Windows, come here.

    Raises:
        UsageError: where a pattern means nothing.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not glob.has_magic(str(path)) or path.exists():
            found[path] = None
            continue
        matches = [Path(each) for each in sorted(glob.glob(str(path), recursive=True)) if Path(each).is_file()]
        if not matches:
            raise UsageError(f"{path}: no file matches the pattern")
        found.update(dict.fromkeys(matches))
    return list(found)


def targets(inputs: InputFiles, folder: Path | None, name: Callable[[Path], Path]) -> dict[Path, Path]:
    """Return the file to write for each source: beside it, or in a folder, which is made where it is missing.

    Raises:
        UsageError: where two would be the same, or one would be a source.
    """
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is no folder; with several files, -o is the folder for all that is written")
        if not folder.parent.is_dir():
            raise UsageError(f"{folder}: the folder {folder.parent} does not exist; create it or choose another path")
    sources = inputs.models
    if broken := next((source for source in sources if source.is_dir()), None):
        raise UsageError(f"{broken} is a folder; give ONNX files, or a pattern such as '{broken / '*.onnx'}'")
    found = {source: name(source) if folder is None else folder / name(source).name for source in sources}
    taken: dict[str, Path] = {}
    for source, target in found.items():
        if (other := taken.setdefault(str(target), source)) != source:
            raise UsageError(f"{other} and {source} would both be written to {target}; choose other names")
    if folder is not None:
        folder.mkdir(exist_ok=True)
    for source, target in found.items():
        check_output(inputs, source, target, force=False)
    return found


def _attempted(path: Path, work: Work, ctx: click.Context) -> Done:
    try:
        return work(path)
    except (BrokenPipeError, click.exceptions.Exit):
        raise
    except click.ClickException as error:
        return Done(path, code=error.exit_code, error=error.format_message())
    except SqueezeError as error:
        return Done(path, code=error.exit_code, error=str(error), data=error.details())
    except Exception as error:
        if ctx.meta.get(VERBOSE):
            import traceback

            traceback.print_exception(error)
        return Done(
            path, code=SqueezeError.exit_code, error=f"internal error: {type(error).__name__}: {one_line(error)}"
        )


class Batch:
    """Several files of one command."""

    def __init__(
        self, inputs: InputFiles, json: Path | None, page: Path | None, show: bool, quiet: bool, force: bool
    ) -> None:
        """Take what is read, and how to tell what comes of it: as JSON, as one page, on that page in a browser.

        Raises:
            UsageError: for a report that cannot be written.
        """
        check_reports({"--json": json, "--report": page}, inputs, force)
        self._pages = Pages(page, show)
        self.files = list(inputs.models)
        self._inputs, self._json, self._quiet = inputs, json, quiet

    def minimize(self, folder: Path | None, external: str, options: Mapping[str, Any]) -> None:
        """Minimize each of the files, into a folder or beside them."""
        found = targets(self._inputs, folder, default_output)

        def work(source: Path) -> Done:
            result = onnxsqueeze.minimize(source, **options)
            written, _ = save_result(result, found[source], external)
            report = replace(result.report, bytes_after=written)
            self._pages.add(source.name, result)
            return self._done(source, report, {"input": str(source), "output": str(found[source])})

        self._run(self.files, work, summary_columns())

    def inspect(self, options: Mapping[str, Any]) -> None:
        """Say of each of the files what its mask is worth."""

        def work(source: Path) -> Done:
            result = onnxsqueeze.minimize(source, verify=False, **options)
            self._pages.add(source.name, result)
            return self._done(source, result.report, {"input": str(source)})

        self._run(self.files, work, summary_columns())

    def verify(self, options: Mapping[str, Any]) -> None:
        """Compare the others with the first file, or each file with its namesake in the folder that comes last."""
        first, last = self.files[0], self.files[-1]
        pairs = dict.fromkeys(self.files[1:], first)
        if last.is_dir():
            pairs = {namesake(path, last): path for path in self.files[:-1]}

        def work(other: Path) -> Done:
            report = onnxsqueeze.verify(pairs[other], other, **options)
            cells = ("equivalent" if report.passed else "not equivalent", f"{report.deviation:.2g}")
            data = {"original": str(pairs[other]), "other": str(other), **report.to_dict()}
            if report.passed:
                return Done(other, cells, data=data)
            from onnxsqueeze.verification.report import VerificationError

            return Done(other, cells, VerificationError.exit_code, report.reason, data)

        self._run(list(pairs), work, ("", "deviation"))

    def _done(self, path: Path, report: Report, data: dict[str, Any]) -> Done:
        from onnxsqueeze.cli import tables

        warnings = tuple(map(str, report.failures)) if self._quiet else report.warnings
        return Done(path, tables.summary(report), data={**data, **report.to_dict()}, warnings=warnings)

    def _run(self, files: Sequence[Path], work: Work, columns: Sequence[str]) -> None:
        context = click.get_current_context()
        with ProgressBar(self._quiet) as steps:
            done = []
            for number, path in enumerate(files):
                steps(str(path), number / len(files))
                done.append(_attempted(path, work, context))
            self._pages.write()
        write_json(self._json, as_data(done))
        for one in done:
            warn(f"{one.path}: {warning}" for warning in one.warnings)
        for one in done:
            if one.error:
                words = " ".join(one.error.split())
                where = "" if words.startswith(str(one.path)) else f"{one.path}: "
                click.echo(f"onnxsqueeze: error: {where}{words}", err=True)
        if not self._quiet and not is_stdout(self._json):
            from onnxsqueeze.cli import tables

            print_out(
                tables.several(columns, [(str(one.path), one.cells, "failed" if one.error else "") for one in done])
            )
        context.exit(worst(done))


def summary_columns() -> Sequence[str]:
    """Return the columns of a table of reports."""
    from onnxsqueeze.cli import tables

    return tables.SUMMARY


def namesake(path: Path, folder: Path) -> Path:
    """Return the file in a folder that belongs to another: its minimized form, or what has its very name."""
    minimized = folder / default_output(path).name
    return minimized if minimized.exists() else folder / path.name


def as_data(done: Sequence[Done]) -> dict[str, Any]:
    """Return all outcomes for JSON."""
    return {
        "worst_exit_code": worst(done),
        "files": [
            {
                "path": str(each.path),
                "exit_code": each.code,
                **({"error": each.error} if each.error else {}),
                **each.data,
            }
            for each in done
        ],
    }


def worst(done: Sequence[Done]) -> int:
    """Return the exit code of the worst: the highest."""
    return max((each.code for each in done), default=0)
