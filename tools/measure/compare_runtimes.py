"""Measure models against their minimized forms in every runtime that is installed, and write docs/benchmarks.md.

    pip install -e '.[openvino,ncnn,tract,opencv,report]' && pip install --no-deps pnnx
    python tools/measure/compare_runtimes.py                     # models/*.onnx; about four minutes on two cores
    python tools/measure/compare_runtimes.py --runtime openvino --print net.onnx     # one runtime, one model, printed

Other runtimes are in it if they are there: LiteRT (``pip install -e '.[litert,litert-convert]'``, in an environment of
its own) and onnxruntime-web (see docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/benchmarks.md"
DRAWN = ROOT / "docs/benchmarks"  # a report page for each model

if TYPE_CHECKING:
    from onnxsqueeze.bench import BenchReport
    from onnxsqueeze.bench.report import Measurement

_HEAD = """# Models and their minimized forms, in the runtimes that people ship

Written by `python tools/measure/compare_runtimes.py`, which anyone can run again. Each file in
models/ is minimized with the defaults of `onnxsqueeze minimize`, and both are measured by
`onnxsqueeze bench`.

"""

_RATIOS = """
## Latency of the minimized model by that of the original

Smaller is faster; in brackets the 95 % interval. `dense` is a network in which nothing can go, so that both files are
the same: what its ratios are away from 1 is the error of the measurement. A ratio in *italics* says little: its
interval is wider than a fifth of it, or it leaves open which of the two is faster and is wider than a twentieth.

"""

_DETAILS = """
## In numbers

From left to right the original and its minimized form: the median latency of a run; the time to load the model in a
fresh process; the largest memory of a process that loads and runs nothing but this model, Python and the runtime
included; the bytes of the files that the runtime loads; and the largest deviation from the original in onnxruntime,
as a share of the output's scale.

"""

_METHOD = """
## How it is measured

Each runtime works in processes of its own, pinned to as many logical processors as it has threads. After a warm-up
the two models take turns, in a new random order each round, and in a round each counts with the median of its runs in
about 10 ms. The ratio is the median of the ratios of all rounds. They are spread over three processes, and the
interval is a bootstrap over processes and rounds: where the weights happen to lie in memory stays the same within a
process. Inputs are drawn at random. A latency is the time from arrays to arrays; what Python itself takes for the
call counts, a few microseconds.

onnxruntime-web runs in node, in WebAssembly, as a browser would run it. It is looked for in the folder that
`ONNXSQUEEZE_WEB` names, or in `~/.cache/onnxsqueeze/web`. LiteRT's converter, onnx2tf, comes with TensorFlow and old
releases of onnx and numpy, so that it wants an environment of its own.

```sh
pip install 'onnxsqueeze[openvino,tract,opencv,report]'
pip install 'onnxsqueeze[ncnn]' && pip install --no-deps pnnx      # pnnx declares torch, but runs without
pip install 'onnxsqueeze[litert,litert-convert]'                   # in an environment of its own
npm install --prefix ~/.cache/onnxsqueeze/web onnxruntime-web
```
"""


@click.command()
@click.argument("models", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--runtime", "runtimes", multiple=True, default=("all",), help="A runtime, or all; repeatable.")
@click.option("--threads", default=1, show_default=True, help="Threads to compute in.")
@click.option("--seconds", default=2.0, show_default=True, help="Seconds of measuring for each pair in each runtime.")
@click.option("--print", "to_terminal", is_flag=True, help="Print the page instead of writing it.")
def main(models: tuple[Path, ...], runtimes: tuple[str, ...], threads: int, seconds: float, to_terminal: bool) -> None:
    """Measure, and write the page."""
    from onnxsqueeze.bench import Settings, bench

    settings = Settings(threads=threads, seconds=seconds, timeout=300)
    reports: dict[str, BenchReport] = {}
    with TemporaryDirectory() as folder:
        for path in models or sorted(path for path in (ROOT / "models").glob("*.onnx") if ".min" not in path.name):
            pair = [path, minimized(path, Path(folder))]
            click.echo(f"{path.name} ...", err=True)
            reports[path.stem] = bench(pair, runtimes, settings, lambda step, _: click.echo(f"  {step}", err=True))
    text = "".join(page(reports))
    if to_terminal:
        click.echo(text, nl=False)
    else:
        PAGE.write_text(text, encoding="utf-8")
        draw(reports)


def draw(reports: dict[str, BenchReport]) -> None:
    """Write the page that `bench --report` would, for each model."""
    from onnxsqueeze.bench.page import page as drawn

    DRAWN.mkdir(exist_ok=True)
    for name, report in reports.items():
        text = drawn(report, f"{name}.onnx and its minimized form", f"python {Path(__file__).relative_to(ROOT)}")
        (DRAWN / f"{name}.html").write_text(text, encoding="utf-8")


def minimized(path: Path, folder: Path) -> Path:
    """Minimize a model into a folder and return the file."""
    import onnxsqueeze
    from onnxsqueeze.model.saving import save

    target = folder / f"{path.stem}.min.onnx"
    save(onnxsqueeze.minimize(path).minimized, target)
    return target


def page(reports: dict[str, BenchReport]) -> Iterator[str]:
    """Yield the page, part by part."""
    first = next(iter(reports.values()))
    yield _HEAD
    machine = first.machine
    memory = "" if machine.memory_bytes is None else f", {machine.memory_bytes / 2**30:.0f} GiB"
    yield f"- Machine: {machine.processor}, {machine.cores} logical processors{memory}, {machine.system}.\n"
    yield f"- Threads: {first.threads}. Batch: 1. Seconds of measuring for each pair of models: {first.seconds:g}.\n"
    versions = {name: version for entry in first.runtimes for name, version in entry.versions.items()}
    versions["Python"] = machine.python
    yield f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.\n"
    yield from (f"- {name}: {warning}.\n" for name, report in reports.items() for warning in busy(report))
    yield _RATIOS
    yield from table(["runtime", *reports], [ratio_row(name, reports) for name in measured(reports)])
    links = ", ".join(f"[{name}](benchmarks/{name}.html)" for name in reports)
    yield f"\nDrawn, as `bench --report` draws them: {links}.\n\n"
    yield from problems(reports)
    yield _DETAILS
    columns = ["runtime", "model", "latency, us", "load, ms", "memory, MB", "bytes", "deviation"]
    rows = [detail_row(name, model, report) for name in measured(reports) for model, report in reports.items()]
    yield from table(columns, rows, left=2)
    yield _METHOD


def busy(report: BenchReport) -> list[str]:
    """Return the warnings that concern the machine."""
    return [warning for warning in report.warnings if warning.startswith("the machine")]


def measured(reports: dict[str, BenchReport]) -> list[str]:
    """Return the runtimes that measured something, in order."""
    names = [entry.runtime for report in reports.values() for entry in report.measurements if entry.latency]
    return list(dict.fromkeys(names))


def problems(reports: dict[str, BenchReport]) -> Iterator[str]:
    """Yield what is missing, and why."""
    for entry in next(iter(reports.values())).runtimes:
        if entry.problem.startswith("not installed"):
            yield f"- {entry.name}: {entry.problem}.\n"
    for name, report in reports.items():
        for entry in report.runtimes:
            if entry.problem and not entry.problem.startswith("not installed"):
                yield f"- {entry.name}, {name}: {entry.problem}.\n"
        for found in report.measurements:
            if found.problem:
                yield f"- {found.runtime}, {name}{'' if 'min' not in found.model else ' minimized'}: {found.problem}.\n"


def ratio_row(runtime: str, reports: dict[str, BenchReport]) -> list[str]:
    """Return the ratios in one runtime, model by model."""
    cells = [runtime]
    for report in reports.values():
        pair = both(runtime, report)
        found = pair[1].ratio if len(pair) == 2 else None
        if found is None:
            cells.append("")
            continue
        median = f"*{found.median:.2f}*" if found.doubt else f"{found.median:.2f}"
        cells.append(f"{median} [{found.low:.2f}, {found.high:.2f}]")
    return cells


def detail_row(runtime: str, model: str, report: BenchReport) -> list[str]:
    """Return what else was measured of one pair in one runtime."""
    pair = both(runtime, report)
    return [
        runtime,
        model,
        arrow([scaled(entry.latency, 1e6, "{:,.0f}") for entry in pair]),
        arrow([scaled(entry.load_seconds, 1e3, "{:,.1f}") for entry in pair]),
        arrow([scaled(entry.peak_bytes, 1e-6, "{:,.0f}") for entry in pair]),
        arrow([scaled(entry.bytes, 1, "{:,}") for entry in pair]),
        arrow([scaled(entry.deviation, 1, "{:.0e}") for entry in pair]),
    ]


def both(runtime: str, report: BenchReport) -> list[Measurement]:
    """Return the measurements of the original and of its minimized form."""
    return [entry for entry in report.measurements if entry.runtime == runtime]


def scaled(number: float | None, factor: float, form: str) -> str:
    """Return a number in other units."""
    return "?" if number is None else form.format(number * factor)


def arrow(cells: Sequence[str]) -> str:
    """Return what was before and what is after."""
    return cells[0] if len(set(cells)) == 1 else " -> ".join(cells)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Yield a table, its first columns text and the others numbers."""
    yield f"| {' | '.join(columns)} |\n|{'---|' * left}{'---:|' * (len(columns) - left)}\n"
    yield from (f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
