"""Minimize architectures of the `transformers` library with random weights under several masks.

For each architecture and mask: the weight elements left, the largest deviation of the outputs, and the time it took.

    python tools/measure/measure_architectures.py                                  # published sizes; takes long
    python tools/measure/measure_architectures.py --small                          # those of the tests
    python tools/measure/measure_architectures.py -a bert -m rows --exporter dynamo-18-eager --json shares.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

import onnxsqueeze as sq
from tools.models.architectures.exports import Exporter, Source
from tools.models.architectures.masks import MASKS
from tools.models.architectures.networks import ARCHITECTURES

EXPORTERS = {
    exporter.name: exporter
    for exporter in (
        Exporter(14, dynamo=False),
        Exporter(17, dynamo=False, attention="sdpa", optimize=True),
        Exporter(18, dynamo=True),
        Exporter(18, dynamo=True, optimize=True),
        Exporter(23, dynamo=True, attention="sdpa", optimize=True),
    )
}
DEFAULT = "older-17-sdpa-optimized"


@dataclass(frozen=True)
class Row:
    """What came of one architecture under one mask.

    Attributes:
        architecture, mask, exporter: which.
        before, after: weight elements.
        deviation: the largest of any output, relative to its scale. passed: whether the verifier allows it.
        seconds: of minimizing. verifying: of comparing.
        stayed: for how many constant channels of all tensors which reason was given.
    """

    architecture: str
    mask: str
    exporter: str
    before: int
    after: int
    deviation: float
    passed: bool
    seconds: float
    verifying: float
    stayed: dict[str, int]


def measure(source: Source, exporter: Exporter, mask: str, round_to: str) -> Row:
    """Export, minimize and verify."""
    model = source.export(exporter, mask)
    start = time.perf_counter()
    result = sq.minimize(model, round_to=round_to, verify=False)
    minimized = result.model
    middle = time.perf_counter()
    verdict = sq.verify(
        model, minimized, dims={"tokens": source.length} if "tokens" in str(model.graph.input) else None
    )
    report = result.report
    return Row(
        source.architecture,
        mask,
        exporter.name,
        report.weights_before,
        report.weights_after,
        verdict.deviation,
        verdict.passed,
        middle - start,
        time.perf_counter() - middle,
        dict(report.stayed),
    )


def rows(names: Sequence[str], masks: Sequence[str], exporter: Exporter, small: bool, round_to: str) -> Iterator[Row]:
    """Measure one after the other; an architecture's network is made anew for each, so that memory stays small."""
    for name in names:
        for mask in masks:
            yield measure(Source(name, full=not small, length=16), exporter, mask, round_to)


def table(found: Sequence[Row]) -> Table:
    """Show one line for each."""
    shown = Table("architecture", "mask", "before", "after", "left", "deviation", "exact", "seconds", box=None)
    for row in found:
        shown.add_row(
            row.architecture,
            row.mask,
            f"{row.before:,}",
            f"{row.after:,}",
            f"{100 * row.after / row.before:.1f} %",
            f"{row.deviation:.1e}",
            "yes" if row.passed else "NO",
            f"{row.seconds:.1f}",
        )
    return shown


@click.command()
@click.option("-a", "--architecture", "names", multiple=True, type=click.Choice(list(ARCHITECTURES)), help="repeatable")
@click.option("-m", "--mask", "masks", multiple=True, type=click.Choice(list(MASKS)), help="repeatable")
@click.option("--exporter", type=click.Choice(list(EXPORTERS)), default=DEFAULT, show_default=True)
@click.option("--small", is_flag=True, help="the sizes of the tests, not the published ones")
@click.option("--round-to", default="1", show_default=True, help="as of `onnxsqueeze minimize`")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="write the rows there")
def main(
    names: tuple[str, ...], masks: tuple[str, ...], exporter: str, small: bool, round_to: str, path: Path | None
) -> None:
    """Measure what is left of architectures under masks, and how exact the result is."""
    torch.set_num_threads(1)
    console = Console() if sys.stdout.isatty() else Console(width=120)  # whole names in a file
    found: list[Row] = []
    chosen = names or tuple(ARCHITECTURES)
    for row in rows(chosen, masks or tuple(MASKS), EXPORTERS[exporter], small, round_to):
        found.append(row)
        if path:
            path.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
        console.print(f"{row.architecture} {row.mask}: {100 * row.after / row.before:.1f} % left", style="dim")
    console.print(table(found))


if __name__ == "__main__":
    main()
