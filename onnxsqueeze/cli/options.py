"""The kinds of arguments that the command line takes, checked while it is parsed. Imports nothing heavy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Converted = TypeVar("Converted")

VERBOSE = "onnxsqueeze.verbose"
"""The key of ``click.Context.meta`` that says whether a traceback is wanted."""

_POSITIVE = re.compile(r"0*[1-9]\d{0,17}", re.ASCII)  # fits int64, as sizes must
_SHAPE = re.compile(r"(\d{1,18}(,\d{1,18})*)?", re.ASCII)

MODEL = click.Path(path_type=Path)


class _Given(click.ParamType):  # type: ignore[type-arg]
    """The path of a model that is read: no stream, and not empty."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        text = str(value)
        if text == "-":
            self.fail("- is refused: a model is not read from stdin; give the path of the ONNX file", param, ctx)
        if not text:
            self.fail("the path is empty; give the path of the ONNX file", param, ctx)
        return Path(text)


GIVEN = _Given()
PLOT = click.Path(path_type=Path, dir_okay=False, writable=True)
JSON = click.Path(path_type=Path, allow_dash=True, dir_okay=False, writable=True)


def _size(value: str) -> tuple[str, int]:
    name, _, size = value.rpartition("=")
    if not name or not _POSITIVE.fullmatch(size):
        raise click.BadParameter(f"{value!r} is not NAME=SIZE with a size of at least 1, as in batch=4")
    return name, int(size)


def _shape(value: str) -> tuple[str, tuple[int, ...]]:
    name, _, shape = value.rpartition(":")
    if not name or not _SHAPE.fullmatch(shape):
        raise click.BadParameter(f"{value!r} is not NAME:SHAPE, as in image:1,3,224,224")
    return name, tuple(int(size) for size in shape.split(",") if size)


def rounding(value: str) -> str | int:
    """Convert the value of ``--round-to``."""
    if value == "auto":
        return value
    if not _POSITIVE.fullmatch(value):
        raise click.BadParameter(f"{value!r} is neither auto nor a number of at least 1")
    return int(value)


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 <= value < math.inf:
        raise click.BadParameter(f"{value} is not a number of at least 0", ctx, param)
    return value


def _by_name(
    ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Converted], ...]
) -> dict[str, Converted]:
    found: dict[str, Converted] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise click.BadParameter(f"{name!r} is given twice, with different values", ctx, param)
    return found


def _remember(ctx: click.Context, param: click.Parameter, verbose: bool) -> bool:
    ctx.meta[VERBOSE] = verbose
    return verbose


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return several options as one decorator, in the order in which the help lists them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def force_option(words: str) -> Callable[[Command], Command]:
    """Return the option ``--force``, which says of a command what it allows besides."""
    return click.option("--force", is_flag=True, help=f"{words}et reports replace files that are none.")


sizes_option = click.option(
    "--dim",
    "dims",
    type=_size,
    metavar="NAME=SIZE",
    multiple=True,
    callback=_by_name,
    help="Size of a dynamic dimension, for running the model and for counting MACs; may be repeated.",
)

_NPZ = click.Path(exists=True, dir_okay=False, path_type=Path)
_inputs_options = together(
    click.option(
        "--samples", type=click.IntRange(min=1), metavar="N", help="Random inputs at each size tried.  [default: 2]"
    ),
    click.option(
        "--inputs", type=_NPZ, metavar="FILE.npz", help="Your own samples: one array for each input, by name."
    ),
    sizes_option,
    click.option(
        "--input-shape",
        "input_shapes",
        type=_shape,
        metavar="NAME:SHAPE",
        multiple=True,
        callback=_by_name,
        help="Shape of an input, as in image:1,3,224,224; may be repeated.",
    ),
)

verification_options = together(
    click.option(
        "--rtol", type=float, metavar="X", callback=_finite, help="Deviation to allow, relative to an output's scale."
    ),
    click.option("--atol", type=float, metavar="X", callback=_finite, help="Absolute deviation to allow besides."),
    _inputs_options,
)

planning_options = together(
    click.option(
        "--round-to",
        type=rounding,
        metavar="auto|K",
        default="auto",
        show_default=True,
        help="Keep a few more original channels: auto, where odd counts would be slower in onnxruntime; K, up to "
        "multiples of K; 1, none (the smallest model).",
    ),
    click.option(
        "--keep",
        multiple=True,
        metavar="NAME",
        help="Let no channel of these tensors go: a name or a glob pattern; may be repeated.",
    ),
    click.option(
        "--only",
        multiple=True,
        metavar="NAME",
        help="Let channels go of these tensors alone, and of those that share channels with them; may be repeated.",
    ),
    click.option(
        "--fix-inputs",
        is_flag=True,
        help="Declare initializers that are also inputs to be constant, and remove them from the inputs.",
    ),
)

external_option = click.option(
    "--external-data",
    type=click.Choice(["as-given", "yes", "no"]),
    default="as-given",
    show_default=True,
    help="Whether the weights go into a file of their own beside OUT: as those of IN do, always, or only above 2 GB.",
)

layernorm_option = click.option(
    "--layernorm",
    type=click.Choice(["stock", "function", "primitives"]),
    default="stock",
    show_default=True,
    help="How a LayerNormalization that lost channels is written: by the standard operator (fastest); as a function "
    "CompensatedLayerNorm, which a later run can narrow further; or as its definition.",
)

deployment_options = together(
    click.option(
        "--target", type=click.Choice(["ort", "openvino", "ncnn", "litert", "web"]), required=True, help="The runtime."
    ),
    click.option("-o", "--output", type=MODEL, metavar="DIR", required=True, help="The folder to make."),
    force_option("Replace DIR if it is an earlier deployment, and l"),
    click.option("--fp16", is_flag=True, help="Make it float16; inputs and outputs keep their types. Not exact."),
    click.option("--int8", is_flag=True, help="Make it int8, calibrated with --calibrate. Not exact."),
    click.option(
        "--calibrate",
        type=_NPZ,
        metavar="FILE.npz",
        help="Samples that show the range of values: one array for each input, by name, and labels for accuracies.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        default=600.0,
        show_default=True,
        help="How long converting and running may take in a runtime.",
    ),
    _inputs_options,
)

bench_options = together(
    click.option(
        "--runtime",
        "runtimes",
        multiple=True,
        metavar="all|NAME",
        default=("all",),
        show_default="all",
        help="A runtime to measure in: onnxruntime, ort, openvino, ncnn, tract, opencv, litert, web; may be repeated.",
    ),
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads to compute in."),
    click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Size of the batch.  [default: 1]"),
    sizes_option,
    click.option(
        "--seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=3.0,
        show_default=True,
        help="How long all models together are run in each runtime.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        default=120.0,
        show_default=True,
        help="How long converting, loading and running may take in each runtime.",
    ),
    click.option("--csv", "csv_path", type=JSON, metavar="PATH|-", help="Write the measurements as CSV; - for stdout."),
    click.option(
        "--plot", "plot_path", type=PLOT, metavar="FILE.svg|png", help="Draw the ratios; the latency of a single model."
    ),
)

page_options = together(
    click.option(
        "--report",
        "page_path",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE.html",
        help="Write the report as a page with drawings; needs the extra `report`.",
    ),
    click.option("--open", "show_page", is_flag=True, help="Open that page in a browser."),
)

report_options = together(
    click.option("--json", "json_path", type=JSON, metavar="PATH|-", help="Write the report as JSON; - for stdout."),
    click.option("--quiet", is_flag=True, help="Print nothing but errors."),
    click.option(
        "--verbose",
        is_flag=True,
        callback=_remember,
        is_eager=True,
        help="Print all reasons, and the traceback of an internal error.",
    ),
)


def check_report_options(quiet: bool, verbose: bool) -> None:
    """Refuse options for the report that exclude each other."""
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other", click.get_current_context())
