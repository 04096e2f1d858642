"""Minimize random graphs, written in several ways, and hold the result against what must be true of any.

    python tools/fuzz/fuzz_structure.py                          # 300 graphs
    python tools/fuzz/fuzz_structure.py --graphs 20000 --jobs 2  # the nightly run
    python tools/fuzz/fuzz_structure.py --seed 4711 --graphs 1   # one again

The graphs are those of the tests' generators (convolutional and fully connected ones, tokens with attention and
recurrent layers), whose layers cover most operators that have a rule. Each is checked as it is, with extreme constants
(infinities, NaN, 1e30), with its nodes in another valid order, with other names, with weights that layers share, in
another floating-point type, with some nodes in a function or in branches, and as a file with external data:

- the signature is the same to the byte, and the result is valid;
- the outputs are the same in onnxruntime, infinities and NaN where they were;
- there are no more weight elements and no more bytes;
- another order and other names change nothing about what is left;
- a second run finds nothing more.

A graph that fails is written to the folder given by --keep. The exit code is 1 if any did.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import click
import onnx
from rich.console import Console
from rich.table import Table

from tools.fuzz.checking import NAMES, Verdict, written
from tools.fuzz.surviving import judged_apart


def verdicts(first: int, graphs: int, jobs: int, names: tuple[str, ...]) -> Iterator[list[Verdict]]:
    """Yield the verdicts of a range of seeds."""
    judge, seeds = partial(judged_apart, names=names), range(first, first + graphs)
    if jobs == 1:
        yield from map(judge, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(judge, seeds, chunksize=8)


@click.command()
@click.option("--graphs", type=click.IntRange(1), default=300, show_default=True, help="How many graphs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The seed of the first.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option(
    "--only", type=click.Choice(NAMES), multiple=True, help="A way to write graphs; repeatable.  [default: all]"
)
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the graphs that failed.")
def main(graphs: int, seed: int, jobs: int, only: tuple[str, ...], keep: Path | None) -> None:
    """Minimize random graphs and hold the results against what must be true of any."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("ONNXSQUEEZE_STRICT", "1")
    console, failed = Console(), []
    counts: dict[str, Counter[str]] = {name: Counter() for name in only or NAMES}
    for found in verdicts(seed, graphs, jobs, only or NAMES):
        for verdict in found:
            count = counts[verdict.variation]
            count.update(graphs=1, smaller=int(verdict.smaller), failed=int(bool(verdict.failure)))
            count.update(compared=int(verdict.compared))
            if verdict.failure:
                failed.append(verdict)
                console.print(f"[bold]seed {verdict.seed}, {verdict.variation}[/]: {verdict.failure}", highlight=False)
                if keep is not None:
                    _write(verdict, keep)
    console.print(_table(counts))
    sys.exit(1 if failed else 0)


def _write(verdict: Verdict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model, _ = written(verdict.seed, verdict.variation)
    if model is not None:
        onnx.save(model, folder / f"{verdict.seed}-{verdict.variation.replace(' ', '-')}.onnx")


def _table(counts: dict[str, Counter[str]]) -> Table:
    table = Table("graphs", "count", "compared", "smaller", "failed", title="random graphs")
    for name, count in counts.items():
        table.add_row(name, *(str(count[key]) for key in ("graphs", "compared", "smaller", "failed")))
    return table


if __name__ == "__main__":
    main()
