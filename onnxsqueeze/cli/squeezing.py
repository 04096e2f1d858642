"""The command `squeeze`. Imports nothing heavy before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import onnxsqueeze
from onnxsqueeze.cli.options import MODEL, _rounding, _together
from onnxsqueeze.cli.progress import ProgressBar
from onnxsqueeze.errors import UsageError

if TYPE_CHECKING:
    from onnxsqueeze.squeezing.report import SqueezeReport
    from onnxsqueeze.squeezing.squeeze import Squeezed

_POSITIVE = click.IntRange(min=1)

squeeze_options = _together(
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
        help="top1, argmax, argmax-1, cosine or deviation; auto looks at the outputs.",
    ),
    click.option("--labels", default="", metavar="NAME", help="Classes in the data: the metric is accuracy."),
    click.option("--samples", type=_POSITIVE, default=8192, show_default=True, help="Samples to choose by, at most."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is drawn."),
    click.option("--front", "front_path", type=MODEL, metavar="DIR", help="Keep models of sizes between here."),
    click.option(
        "--keep", multiple=True, metavar="NAME", help="Let no unit of these tensors go: a name or a glob pattern."
    ),
    click.option("--only", multiple=True, metavar="NAME", help="Let units of these tensors go alone; may be repeated."),
    click.option(
        "--round-to",
        type=_rounding,
        metavar="auto|K",
        default="auto",
        show_default=True,
        help="Leave counts of channels that are multiples of K; auto: where that is faster; 1: any.",
    ),
)


def run(source: Path, target: Path, front_path: Path | None, quiet: bool, options: dict[str, Any]) -> SqueezeReport:
    """Squeeze, write what came of it, and return the report.

    Raises:
        SqueezeError: of any kind, before or after the model was written.
    """
    if front_path is not None and front_path.exists() and (not front_path.is_dir() or any(front_path.iterdir())):
        raise UsageError(f"--front {front_path} is no empty folder; choose another name")
    with ProgressBar(quiet) as steps:
        result: Squeezed = onnxsqueeze.squeeze(source, progress=steps, front=front_path is not None, **options)
        steps("writing")
        from onnxsqueeze.model.saving import save

        save(result.minimized, target)
        if front_path is not None:
            _write_front(result.report, front_path)
    return result.report


def _write_front(report: SqueezeReport, folder: Path) -> None:
    """Write every network that was made, and a list of them."""
    from onnxsqueeze.model.saving import save, save_bytes

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--front {folder} cannot be made: {error.strerror}") from None
    names = {}
    for point in report.points:
        names[f"{point.ratio:.2f}x.onnx"] = point
    for name, point in names.items():
        save(point.model, folder / name)
    listed = [{"file": name, **point.to_dict()} for name, point in names.items()]
    save_bytes((json.dumps(listed, indent=2) + "\n").encode(), folder / "front.json")
