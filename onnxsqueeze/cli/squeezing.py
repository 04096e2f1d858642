"""The command `squeeze`. Imports nothing heavy before it runs."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import onnxsqueeze
from onnxsqueeze.cli.options import (
    MODEL,
    check_report_options,
    force_option,
    page_options,
    report_options,
    rounding,
    together,
)
from onnxsqueeze.cli.outcomes import default_output
from onnxsqueeze.cli.outputs import check_output, check_reports, input_files, is_stdout, print_out, write_json
from onnxsqueeze.cli.pages import check_page, write_page
from onnxsqueeze.cli.program import EXIT_CODES, complain
from onnxsqueeze.cli.progress import ProgressBar
from onnxsqueeze.cli.signals import INTERRUPTED
from onnxsqueeze.errors import GoalError, UsageError

if TYPE_CHECKING:
    from onnxsqueeze.squeezing.learner import Learner
    from onnxsqueeze.squeezing.report import SqueezeReport
    from onnxsqueeze.squeezing.squeeze import Squeezed

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_POSITIVE = click.IntRange(min=1)

squeeze_options = together(
    click.option(
        "--data",
        required=True,
        metavar="FILE.npz|DIR|MODULE:FUNCTION",
        help="Samples: one array for each input, by name; a folder of .npy files; or a function that yields dicts.",
    ),
    click.option("--ratio", type=float, metavar="X", help="Goal: X times fewer weights."),
    click.option("--macs", type=float, metavar="X", help="Goal: X times fewer multiply-accumulates."),
    click.option("--bytes", type=_POSITIVE, metavar="N", help="Goal: a file of at most N bytes."),
    click.option("--latency", type=float, metavar="X", help="Goal: at most this share of the time, as in 0.5."),
    click.option(
        "--max-drop",
        type=float,
        metavar="P",
        help="Let the metric fall by P percentage points at most; alone: the smallest model that does.",
    ),
    click.option(
        "--metric",
        default="auto",
        show_default=True,
        metavar="auto|NAME",
        help="top1, argmax, argmax-1, binary, cosine or deviation; auto looks at the outputs.",
    ),
    click.option("--judge-by", default="", metavar="NAME", help="The output that is judged.  [default: the first]"),
    click.option("--labels", default="", metavar="NAME", help="Classes in the data: the metric is accuracy."),
    click.option("--samples", type=_POSITIVE, default=8192, show_default=True, help="Samples to choose by, at most."),
    click.option(
        "--train",
        "train",
        metavar="TIME",
        help="Train on the original's outputs for this long, as in 10m; needs onnxsqueeze[train].",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is drawn."),
    click.option("--front", "front_path", type=MODEL, metavar="DIR", help="Keep models of sizes between here."),
    click.option(
        "--keep", multiple=True, metavar="NAME", help="Let no unit of these tensors go: a name or a glob pattern."
    ),
    click.option("--only", multiple=True, metavar="NAME", help="Let units of these tensors go alone; may be repeated."),
    click.option(
        "--round-to",
        type=rounding,
        metavar="auto|K",
        default="auto",
        show_default=True,
        help="Leave counts of channels that are multiples of K; auto: where that is faster; 1: any.",
    ),
)


@click.command(epilog=EXIT_CODES, short_help="Make a dense model small, by samples.")
@click.argument("source", metavar="IN.onnx", type=MODEL)
@click.option("-o", "--output", type=MODEL, metavar="OUT.onnx", help="The file to write.  [default: IN.small.onnx]")
@force_option("Allow OUT to be IN itself, and l")
@squeeze_options
@page_options
@report_options
def squeeze(
    source: Path,
    output: Path | None,
    force: bool,
    front_path: Path | None,
    page_path: Path | None,
    show_page: bool,
    json_path: Path | None,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Make the dense model IN.onnx small by samples, without training and without labels.

    Whole units leave, and the layers that read them are repaired by least squares. It is not the same function any
    more. A third of the samples is held out; all figures are of that third.
    """
    check_report_options(quiet, verbose)
    target = output or default_output(source, "small")
    data = Path(options["data"])
    read = input_files(source, data=data if data.is_file() else None)
    check_output(read, source, target, force)
    check_reports({"--json": json_path, "--report": page_path}, read, force, target)
    check_page(page_path, show_page)
    report = _run(source, target, front_path, quiet, options)
    write_json(json_path, {"input": str(source), "output": str(target), **report.to_dict()})
    if page_path is not None:
        from onnxsqueeze.squeezing.page import page

        write_page(page_path, show_page, partial(page, report), source.name)
    if not quiet and not is_stdout(json_path):
        from onnxsqueeze.cli import tables

        print_out(tables.squeezed(report, str(target)))
    if report.interrupted:
        click.get_current_context().exit(complain(f"interrupted; {target} is the best so far", INTERRUPTED))
    if not report.reached:
        raise GoalError(f"the goal cannot be reached, {report.why}; {target} is the best that could be")


def _run(source: Path, target: Path, front_path: Path | None, quiet: bool, options: dict[str, Any]) -> SqueezeReport:
    """Squeeze, write what came of it, and return the report.

    Raises:
        SqueezeError: of any kind, before or after the model was written.
    """
    if front_path is not None and front_path.exists() and (not front_path.is_dir() or any(front_path.iterdir())):
        raise UsageError(f"--front {front_path} is no empty folder; choose another name")
    options["train"] = _learner(options["train"])
    with ProgressBar(quiet) as steps:
        result: Squeezed = onnxsqueeze.squeeze(source, progress=steps, front=front_path is not None, **options)
        steps("writing")
        from onnxsqueeze.model.saving import save

        save(result.minimized, target)
        if front_path is not None:
            _write_front(result.report, front_path)
    return result.report


def _learner(given: str | None) -> Learner | None:
    """Return what trains for a time such as 90s, 10m or 1h; a number alone is of seconds.

    Raises:
        UsageError: for what is no such time, or without torch.
    """
    if given is None:
        return None
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", given.strip())
    seconds = float(matched[1]) * _UNITS[matched[2]] if matched else 0.0
    if seconds <= 0:
        raise UsageError(f"--train {given}: give a time, as in 90s, 10m or 1h")
    try:
        from onnxsqueeze.training import Learning
    except ModuleNotFoundError as error:
        raise UsageError(f"--train: {error}") from None
    return Learning(seconds)


def _write_front(report: SqueezeReport, folder: Path) -> None:
    """Write every network that was made, and a list of them."""
    from onnxsqueeze.model.saving import save, save_bytes

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--front {folder} cannot be made: {error.strerror}") from None
    names = {f"{point.ratio:.2f}x{'.trained' if point.trained else ''}.onnx": point for point in report.points}
    for name, point in names.items():
        save(point.model, folder / name)
    listed = [{"file": name, **point.to_dict()} for name, point in names.items()]
    save_bytes((json.dumps(listed, indent=2) + "\n").encode(), folder / "front.json")
