"""Benchmark `onnxsqueeze minimize`: its own time and memory against onnxslim's, and the latency of what comes out.

    python tools/measure/bench_minimize.py                        # everything; about five minutes on two cores
    python tools/measure/bench_minimize.py --quick                # fewer networks and rounds
    python tools/measure/bench_minimize.py --only latency --models mobilenet --json out.json

Networks have random weights, and masks of two kinds: ``rows50`` (half of all units without incoming weights, biases
and BatchNorm shifts not zero) and ``scattered80``, ``scattered95`` (the smallest weights of each layer). They are
exported once into the cache folder.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tools.measure.timing import Usage, run_child, vector_width

ROOT = Path(__file__).resolve().parents[2]
TIMED = ("mlp", "vgg16", "resnet50", "convnext", "bert")
PLANTED = (
    ("mlp", "planted"),
    ("vgg16", "planted"),
    ("resnet50", "planted"),
    ("convnext", "planted"),
    ("convnext", "narrowed"),
    ("bert", "planted"),
)
ALL = ("mlp", "vgg16", "resnet50", "mobilenet", "efficientnet", "convnext", "bert")
Returned = TypeVar("Returned")
TIME_WANTED, PLANTED_WANTED, LATENCY_WANTED = 0.5, 1.05, 1.03
COMPENSATED_WANTED, NORMALIZED_TIME_WANTED = 1.25, 0.6  # where a LayerNorm lost channels; networks that have any
NORMALIZED = ("convnext", "bert")


@dataclass(frozen=True)
class Cost:
    """Whole-process cost of minimizing one file, medians over rounds.

    Attributes:
        file: the model. file_bytes: its size.
        seconds, peer_seconds: of onnxsqueeze and of onnxslim. ratio: the median of their ratios, round by round.
        processor_ratio: the same for processor time, which depends less on how busy the machine is.
        wanted: the largest ratio that is good enough.
        peak_bytes, peer_peak_bytes: largest resident sets. peak_wanted: 2.5 times the file plus 150 MB.
    """

    file: str
    file_bytes: int
    seconds: float
    peer_seconds: float
    ratio: float
    processor_ratio: float
    wanted: float
    peak_bytes: int
    peer_peak_bytes: int
    peak_wanted: float


@dataclass(frozen=True)
class Latency:
    """Latency in onnxruntime of a minimized model against a reference.

    Attributes:
        file: the model that was minimized. reference: what it is compared with.
        threads: onnxruntime's threads, 0 for its default.
        weights_before, weights_after: weight elements of the model, and of the minimized one.
        milliseconds, reference_milliseconds: medians. ratio, low, high: median ratio and its 95 % interval.
        wanted: the largest ratio that is good enough.
    """

    file: str
    reference: str
    threads: int
    weights_before: int
    weights_after: int
    milliseconds: float
    reference_milliseconds: float
    ratio: float
    low: float
    high: float
    wanted: float


@dataclass(frozen=True)
class Pair:
    """A model to minimize and the model to compare the result with."""

    source: Path
    reference: Path
    wanted: float


def export_all(cache: Path, names: Sequence[str], variants: Sequence[str], planted: Sequence[tuple[str, str]]) -> None:
    """Export what the cache lacks (in a child process: torch would fill the memory of this one)."""
    from tools.measure import bench_models

    for name in names:
        for variant in variants:
            bench_models.masked_file(cache, name, variant)
    for name, kind in planted:
        bench_models.planted_files(cache, name, kind)


def in_fresh_process(function: Callable[..., Returned], *arguments: object) -> Returned:
    """Call a function of this module in a new interpreter that ends with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure_cost(source: Path, rounds: int) -> Cost:
    """Minimize a file with onnxsqueeze and with onnxslim in turn, each in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        target = str(Path(scratch, "out.onnx"))
        squeeze = [sys.executable, "-m", "onnxsqueeze", "minimize", str(source), "-o", target, "--no-verify", "--quiet"]
        slim = [peer_program(), str(source), target]
        ours: list[Usage] = []
        theirs: list[Usage] = []
        for row in range(rounds + 1):
            turns = [(squeeze, ours), (slim, theirs)]
            for command, found in turns if row % 2 else reversed(turns):
                found.append(run_child(command, ROOT, source.parent / "bytecode"))
                Path(target).unlink(missing_ok=True)
    ours, theirs = ours[1:], theirs[1:]  # the first round fills the file and bytecode caches
    size = source.stat().st_size
    both = list(zip(ours, theirs, strict=True))
    return Cost(
        file=source.stem,
        file_bytes=size,
        seconds=statistics.median(usage.seconds for usage in ours),
        peer_seconds=statistics.median(usage.seconds for usage in theirs),
        ratio=statistics.median(own.seconds / peer.seconds for own, peer in both),
        processor_ratio=statistics.median(own.processor_seconds / peer.processor_seconds for own, peer in both),
        wanted=NORMALIZED_TIME_WANTED if source.stem.startswith(NORMALIZED) else TIME_WANTED,
        peak_bytes=max(usage.peak_bytes for usage in ours),
        peer_peak_bytes=max(usage.peak_bytes for usage in theirs),
        peak_wanted=2.5 * size + 150e6,
    )


def peer_program() -> str:
    """Path of the onnxslim command.

    Raises:
        click.ClickException: if it is not installed.
    """
    beside = Path(sys.executable).parent / "onnxslim"
    found = str(beside) if beside.exists() else shutil.which("onnxslim")
    if not found:
        raise click.ClickException("onnxslim is not installed: `pip install onnxslim`, or pass --only latency")
    return found


def measure_latency(pair: Pair, threads: int, rounds: int) -> Latency:
    """Minimize a model, and time the result and the reference in turn, batch 1.

    Where a session's weights happen to lie in memory matters by up to a tenth, so there are two sessions of each, and
    the faster one counts.

    The sessions share onnxruntime's global thread pool, else the idle threads of one would disturb the others; as that
    pool can be sized only once, each call wants a fresh process.
    """
    import numpy as np
    import onnxruntime

    import onnxsqueeze
    from onnxsqueeze.runtimes.interleaving import interleaved_times
    from tools.measure.timing import ratio

    onnxruntime.set_global_thread_pool_sizes(threads, 1)
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3
    result = onnxsqueeze.minimize(pair.source, verify=False)
    minimized, reference = result.model.SerializeToString(), str(pair.reference)
    sessions = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for model in (minimized, reference, reference, minimized)
    ]
    source = sessions[0].get_inputs()[0]
    random = np.random.default_rng(0)
    shape = [1, *source.shape[1:]]
    tokens = source.type == "tensor(int64)"
    feed = {source.name: random.integers(0, 1000, shape) if tokens else random.random(shape, dtype=np.float32)}
    times = interleaved_times([partial(session.run, None, feed) for session in sessions], rounds)
    times = np.minimum(times[:, :2], times[:, :1:-1])
    middle = np.median(times, axis=0) * 1e3
    found = ratio(times[:, 0], times[:, 1])
    return Latency(
        pair.source.stem,
        "its original" if pair.reference == pair.source else pair.reference.stem,
        threads,
        result.report.weights_before,
        result.report.weights_after,
        float(middle[0]),
        float(middle[1]),
        found.median,
        found.low,
        found.high,
        pair.wanted,
    )


def judged(value: float, wanted: float, text: str) -> str:
    """Colour a number by whether it is at most the wanted one."""
    return f"[green]{text}[/]" if value <= wanted else f"[red]{text}[/]"


def columns(title: str, texts: int, *names: str) -> Table:
    """An empty table whose first columns hold text and whose others hold numbers."""
    table = Table(title=title, title_justify="left", width=118)
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < texts else "right")
    return table


def time_table(costs: Iterable[Cost]) -> Table:
    """Whole-process time."""
    title = (
        f"whole-process seconds against onnxslim (wanted: ratio at most {TIME_WANTED}; "
        f"{NORMALIZED_TIME_WANTED} for {' and '.join(NORMALIZED)})"
    )
    table = columns(title, 1, "file", "MB", "onnxsqueeze", "onnxslim", "ratio", "processor time ratio")
    for cost in costs:
        numbers = f"{cost.file_bytes / 1e6:.0f}", f"{cost.seconds:.2f}", f"{cost.peer_seconds:.2f}"
        ratio = judged(cost.ratio, cost.wanted, f"{cost.ratio:.2f}")
        table.add_row(cost.file, *numbers, ratio, f"{cost.processor_ratio:.2f}")
    return table


def memory_table(costs: Iterable[Cost]) -> Table:
    """Peak resident memory."""
    title = "peak memory in MB (wanted: at most 2.5 times the file plus 150 MB)"
    table = columns(title, 1, "file", "MB", "onnxsqueeze", "wanted", "onnxslim")
    for cost in costs:
        peak = judged(cost.peak_bytes, cost.peak_wanted, f"{cost.peak_bytes / 1e6:.0f}")
        others = f"{cost.peak_wanted / 1e6:.0f}", f"{cost.peer_peak_bytes / 1e6:.0f}"
        table.add_row(cost.file, f"{cost.file_bytes / 1e6:.0f}", peak, *others)
    return table


def latency_table(latencies: Iterable[Latency]) -> Table:
    """Latency of minimized models."""
    title = (
        "onnxruntime latency of the minimized model, batch 1 (wanted: ratio at most "
        f"{PLANTED_WANTED} against the small network that was planted, {COMPENSATED_WANTED} where its LayerNorms were "
        f"narrowed, {LATENCY_WANTED} against the original)"
    )
    numbers = ("threads", "weights left", "ms", "reference ms", "ratio", "95 %")
    table = columns(title, 2, "file", "against", *numbers)
    for found in latencies:
        table.add_row(
            found.file,
            found.reference,
            str(found.threads or "default"),
            f"{found.weights_after / found.weights_before:.1%}",
            f"{found.milliseconds:.3f}",
            f"{found.reference_milliseconds:.3f}",
            judged(found.ratio, found.wanted, f"{found.ratio:.3f}"),
            f"{found.low:.3f}-{found.high:.3f}",
        )
    return table


def bench_costs(cache: Path, names: Sequence[str], rounds: int, console: Console) -> list[Cost]:
    """Time and memory of every file that both programs get."""
    chosen = [name for name in TIMED if name in names]
    variants = ("rows50", "scattered95")
    in_fresh_process(export_all, cache, chosen, variants, ())
    files = [cache / f"{name}-{variant}.onnx" for name in chosen for variant in variants]
    try:
        return [measure_cost(path, rounds) for path in track(files, "time and memory", console=console, transient=True)]
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error


def bench_latencies(cache: Path, names: Sequence[str], rounds: int, quick: bool, console: Console) -> list[Latency]:
    """Latency of planted networks and of masked ones, with one thread and with onnxruntime's default."""
    planted = [(name, kind) for name, kind in PLANTED if name in names]
    variants = ("rows50", "scattered80")
    in_fresh_process(export_all, cache, names, variants, planted)
    pairs = [
        Pair(
            cache / f"{name}-{kind}.onnx",
            cache / f"{name}-{kind}-small.onnx",
            COMPENSATED_WANTED if kind == "narrowed" else PLANTED_WANTED,
        )
        for name, kind in planted
    ]
    pairs += [Pair(pair.source, pair.source, LATENCY_WANTED) for pair in pairs if pair.wanted == COMPENSATED_WANTED]
    for name in names:
        for variant in variants:
            path = cache / f"{name}-{variant}.onnx"
            pairs.append(Pair(path, path, LATENCY_WANTED))
    found: list[Latency] = []
    for threads in (1,) if quick else (1, 0):
        for pair in track(pairs, f"latency, {threads or 'default'} threads", console=console, transient=True):
            found.append(in_fresh_process(measure_latency, pair, threads, rounds))
    return found


@click.command()
@click.option("--models", "names", default=",".join(ALL), show_default=True, help="Comma-separated architectures.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of each timing. [default: 5 runs, 30 latencies]")
@click.option("--only", type=click.Choice(["time", "memory", "latency"]), multiple=True, help="Only these parts.")
@click.option("--quick", is_flag=True, help="mlp, vgg16 and mobilenet, fewer rounds, one thread.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of exported models. [default: a temporary one]")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write numbers here.")
def main(
    names: str, rounds: int | None, only: tuple[str, ...], quick: bool, cache: Path | None, json_path: Path | None
) -> None:
    """Print how long minimizing takes, how much memory, and how fast the results run."""
    chosen = [name for name in names.split(",") if not quick or name in ("mlp", "vgg16", "mobilenet")]
    if unknown := sorted(set(chosen) - set(ALL)):
        raise click.BadParameter(f"unknown {', '.join(unknown)}; there are {', '.join(ALL)}", param_hint="--models")
    cache = cache or Path(tempfile.gettempdir(), "onnxsqueeze-bench")
    cache.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    console.print(vector_width())
    parts = set(only or ("time", "memory", "latency"))
    costs: list[Cost] = []
    latencies: list[Latency] = []
    if parts & {"time", "memory"}:
        costs = bench_costs(cache, chosen, rounds or (3 if quick else 5), console)
        for part, table in (("time", time_table), ("memory", memory_table)):
            if part in parts:
                console.print(table(costs))
    if "latency" in parts:
        latencies = bench_latencies(cache, chosen, rounds or (15 if quick else 30), quick, console)
        console.print(latency_table(latencies))
    if json_path:
        numbers = {"costs": [asdict(cost) for cost in costs], "latencies": [asdict(each) for each in latencies]}
        json_path.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
