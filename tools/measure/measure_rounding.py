"""Measure which channel counts onnxruntime runs well: the numbers behind ``--round-to auto``.

Each case is a small stack of layers whose width is narrowed step by step from a width that suits the runtime. A width
is *safe* when the narrowed stack is no slower than the original one. Beside each ratio stands the number of layout
copies (``ReorderInput`` and ``ReorderOutput``) that onnxruntime put into its optimized graph: they explain most of
what the clock says, and they do not depend on how busy the machine is.

    python tools/measure/measure_rounding.py                     # everything, one thread, about four minutes
    python tools/measure/measure_rounding.py --case dense --threads 2 --rounds 40
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.progress import track
from rich.table import Table

from onnxsqueeze.runtimes.interleaving import interleaved_times
from tools.measure.layer_stacks import CASES, Case
from tools.measure.timing import vector_width

LAYOUT_COPIES = ("ReorderInput", "ReorderOutput")


@dataclass(frozen=True)
class Measurement:
    """What one width of one case costs.

    Attributes:
        case: the name of the layer stack.
        size: extent of each spatial axis (rows for matrix products).
        width: number of channels.
        milliseconds: median time of one run.
        ratio: median over rounds of the time divided by the time of the original width in the same round.
        layout_copies: layout copies in the graph as optimized by onnxruntime.
        blocked: convolutions that run in onnxruntime's blocked layout.
    """

    case: str
    size: int
    width: int
    milliseconds: float
    ratio: float
    layout_copies: int
    blocked: int


def optimized_session(model: onnx.ModelProto) -> tuple[ort.InferenceSession, list[onnx.NodeProto]]:
    """Load a model with all graph optimizations, on the thread pool that all sessions share.

    With a pool of its own, the idle threads of each session would spin while the next one is timed.

    Returns:
        The session, and the nodes of the graph that it really runs.
    """
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = list(onnx.load(options.optimized_model_filepath).graph.node)
    return session, nodes


def random_feed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Standard normal float32 values for every graph input (all dims are static here)."""
    generator = np.random.default_rng(0)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
    return {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def measure(case: Case, size: int, rounds: int) -> list[Measurement]:
    """Time every width of a case at one spatial size; the first width is the original."""
    runs: list[Callable[[], object]] = []
    graphs = []
    for width in case.widths:
        model = case.build(width, size)
        session, nodes = optimized_session(model)
        feed = random_feed(model)
        runs.append(lambda session=session, feed=feed: session.run(None, feed))  # type: ignore[misc]
        graphs.append(nodes)
    times = interleaved_times(runs, rounds)
    ratios = np.median(times / times[:, :1], axis=0)
    return [
        Measurement(
            case=case.name,
            size=size,
            width=width,
            milliseconds=float(np.median(times[:, column]) * 1e3),
            ratio=float(ratios[column]),
            layout_copies=sum(node.op_type in LAYOUT_COPIES for node in nodes),
            blocked=sum(node.op_type == "Conv" and node.domain == "com.microsoft.nchwc" for node in nodes),
        )
        for column, (width, nodes) in enumerate(zip(case.widths, graphs, strict=True))
    ]


def render(case: Case, rows: list[Measurement]) -> Table:
    """One table per case: a row per width, two columns per spatial size."""
    sizes = list(dict.fromkeys(row.size for row in rows))
    table = Table(title=f"{case.name}: {case.description}", title_justify="left")
    table.add_column("width", justify="right")
    for size in sizes:
        table.add_column(f"{size}: ms", justify="right")
        table.add_column("ratio", justify="right")
    table.add_column("blocked convs", justify="right")
    table.add_column("layout copies", justify="right")
    for width in case.widths:
        chosen = {row.size: row for row in rows if row.width == width}
        cells = [str(width)]
        for size in sizes:
            ratio = chosen[size].ratio
            cells += [f"{chosen[size].milliseconds:.3f}", f"[red]{ratio:.2f}[/]" if ratio > 1.03 else f"{ratio:.2f}"]
        table.add_row(*cells, str(chosen[sizes[0]].blocked), str(chosen[sizes[0]].layout_copies))
    return table


@click.command()
@click.option("--case", "names", multiple=True, type=click.Choice([case.name for case in CASES]), help="Only these.")
@click.option("--threads", default=1, show_default=True, help="onnxruntime's intra-op threads.")
@click.option("--rounds", default=25, show_default=True, help="Timings of each width.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Also write the numbers here.")
def main(names: tuple[str, ...], threads: int, rounds: int, json_path: str | None) -> None:
    """Print, case by case, how fast onnxruntime runs each channel count."""
    ort.set_global_thread_pool_sizes(threads, 1)
    console = Console(width=140)
    console.print(f"onnxruntime {ort.__version__}, {threads} thread(s), {vector_width()}")
    rows: list[Measurement] = []
    for case in CASES:
        if names and case.name not in names:
            continue
        found = [row for size in track(case.sizes, case.name, console=console, transient=True)
                 for row in measure(case, size, rounds)]  # fmt: skip
        console.print(render(case, found))
        rows += found
    if json_path:
        Path(json_path).write_text(json.dumps([vars(row) for row in rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
