"""Squeeze the networks of `tools/recipes/train_dense.py` and judge them on the test images.

Prints one line for each network, ratio and way: what is left, the accuracy on the test images, the seconds. Ways:
``none`` leaves the layers that read what has left as they are, ``means`` lets their biases take up the means, ``alike``
repairs their weights and takes the same share from each family, ``weights`` chooses the shares as well, as the product
does. ``none`` and ``means`` have the sizes that ``weights`` chose.
With ``--train`` the repaired network is trained on top, on the samples' images and the dense network's outputs; the
seconds are of processor time, so that figures do not depend on what else runs. What is known of a network is measured
once for all sizes and ways. With ``--records`` each line is added to a file, of which `tools/recipes/squeezed.py`
prints the means over seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import click
import numpy as np

import onnxsqueeze
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.allocation import Bools, Cost, Read, Step
from onnxsqueeze.squeezing.ladders import Ladder, Network
from onnxsqueeze.squeezing.least_squares import Problem, Repaired, repaired
from onnxsqueeze.squeezing.squeeze import _Work
from tools.recipes.squeezed import Record, accuracy, note, test_images

_LEARNING = "onnxsqueeze.training.squeezing.learning"
Repair = Callable[[Problem, Problem, Bools], "Repaired | None"]


def as_it_is(fitted: Problem, checked: Problem, stays: Bools) -> None:
    """Repair nothing."""


def mean_folded(fitted: Problem, checked: Problem, stays: Bools) -> Repaired:
    """Let the bias take up the mean of what has left, and nothing else."""
    plain = np.where(stays, fitted.weight, 0.0)
    return Repaired(plain, fitted.shift(plain), None, 0.0, 0.0)


REPAIRS: dict[str, Repair] = {"none": as_it_is, "means": mean_folded, "alike": repaired, "weights": repaired}


class Alike:
    """The same share of each family, in place of the search for sizes."""

    def __init__(self, ladders: Sequence[Ladder], cost: Cost, units: int, read: Read = np.logical_not) -> None:
        self._ladders, self._cost, self._units = ladders, cost, units
        self.steps = [self._step(1.0), self._step(0.0)]

    def _step(self, share: float) -> Step:
        sizes = tuple(max(1, round(share * ladder.family.size)) for ladder in self._ladders)
        removed: Bools = np.zeros(self._units, dtype=bool)
        for ladder, size in zip(self._ladders, sizes, strict=True):
            removed |= ladder.removed(size, self._units)
        return Step(sizes, self._cost(removed), 0.0)

    def at(self, cost: float) -> Step:
        """Return the largest share that costs no more."""
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if self._step(middle).cost <= cost else (low, middle)
        return self._step(low)


@contextmanager
def measured_once() -> Iterator[None]:
    """Measure what a network's units are worth once, whatever it is then squeezed to."""
    known: dict[tuple[bytes, object], tuple[Network, list[Ladder]]] = {}
    measure = _Work._known

    def remembered(work: _Work, source: Model) -> tuple[Network, list[Ladder]]:
        key = to_proto(source).SerializeToString(deterministic=True), work._round_to
        if key not in known:
            known[key] = measure(work, source)
        return known[key]

    with patch.object(_Work, "_known", remembered):
        yield


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, exists=True), required=True, help="Of train_dense.py.")
@click.option("--network", required=True, help="The name of a network there.")
@click.option("--ratio", "ratios", type=float, multiple=True, help="How many times fewer weights.")
@click.option("--macs", "macs", type=float, multiple=True, help="How many times fewer multiply-accumulates.")
@click.option("--repair", "repairs", type=click.Choice(list(REPAIRS)), multiple=True, default=("weights",))
@click.option("--samples", default=8192, show_default=True, help="Samples to choose by, at most.")
@click.option("--train", default=0.0, show_default=True, help="Seconds of training on top.")
@click.option("--seed", default=0, show_default=True)
@click.option("--records", type=click.Path(path_type=Path), help="A file to add to.")
def main(
    folder: Path,
    network: str,
    ratios: tuple[float, ...],
    macs: tuple[float, ...],
    repairs: tuple[str, ...],
    samples: int,
    train: float,
    seed: int,
    records: Path | None,
) -> None:
    """Squeeze a network to each of the sizes."""
    with measured_once(), patch(f"{_LEARNING}.time", SimpleNamespace(monotonic=time.process_time)):
        _run(folder, network, ratios, macs, repairs, samples, train, seed, records)


def _run(
    folder: Path,
    network: str,
    ratios: Sequence[float],
    macs: Sequence[float],
    repairs: Sequence[str],
    samples: int,
    train: float,
    seed: int,
    records: Path | None,
) -> None:
    test, source = test_images(folder, network), folder / f"{network}.onnx"
    learner = None
    if train:
        from onnxsqueeze.training import Learning

        learner = Learning(train)
    dense = accuracy(source, test)
    click.echo(f"{network}: dense {dense:.2f} %")
    sizes = [("ratio", goal) for goal in ratios] + [("macs", goal) for goal in macs]
    for repair in repairs:
        for kind, goal in sizes:
            started = time.process_time()
            found = _squeezed(source, {kind: goal}, repair, labels="labels", samples=samples, seed=seed, train=learner)
            seconds, small = time.process_time() - started, found.report.chosen
            way = f"{repair}, {kind}" + (f", {train:g} s" if train else "")
            correct = accuracy(found.minimized, test)
            note(records, Record(network, seed, goal, way, small.ratio, small.macs_ratio, dense, correct, seconds))
            figures = f"{small.ratio:.2f}x, MACs {small.macs_ratio:.2f}x, {way}"
            click.echo(f"  {figures}: {correct:.2f} % in {seconds:.0f} s")


def _squeezed(source: Path, goal: dict[str, float], repair: str, **options: object) -> onnxsqueeze.Squeezed:
    data = str(source.with_suffix(".npz"))
    with patch("onnxsqueeze.squeezing.refitting.repaired", REPAIRS[repair]):
        if repair != "alike":
            return onnxsqueeze.squeeze(source, data, **goal, **options)  # type: ignore[arg-type]
        with patch("onnxsqueeze.squeezing.search.Search", Alike):
            return onnxsqueeze.squeeze(source, data, **goal, **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
