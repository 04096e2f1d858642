"""Squeeze the networks of `tools/recipes/train_dense.py` and judge them on the test images.

Prints one line for each network, ratio and kind of repair: what is left, the accuracy on the test images, the seconds.
With ``--train`` the repaired network is trained on top, on the samples' images and the dense network's outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np

import onnxsqueeze
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.least_squares import Numbers, Problem, Repaired, repaired
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part

Repair = Callable[[Problem, Problem, Numbers], "Repaired | None"]


def as_it_is(fitted: Problem, checked: Problem, kept: Numbers) -> None:
    """Repair nothing."""


def mean_folded(fitted: Problem, checked: Problem, kept: Numbers) -> Repaired:
    """Let the bias take up the mean of what has left, and nothing else."""
    plain = np.zeros_like(fitted.weight)
    plain[:, kept] = fitted.weight[:, kept]
    return Repaired(plain, fitted.shift(plain), None, 0.0, 0.0)


REPAIRS: dict[str, Repair] = {"none": as_it_is, "means": mean_folded, "weights": repaired}


def accuracy(model: Model, images: Part) -> float:
    """Return the share of the images, in percent, that a network gets right."""
    scores = outputs_of(model, images)[0]
    return 100 * float((scores.argmax(axis=1) == images.labels).mean())


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, exists=True), required=True, help="Of train_dense.py.")
@click.option("--network", required=True, help="The name of a network there.")
@click.option("--ratio", "ratios", type=float, multiple=True, default=(2.0, 4.0, 10.0), show_default=True)
@click.option("--repair", "repairs", type=click.Choice(list(REPAIRS)), multiple=True, default=("weights",))
@click.option("--samples", default=8192, show_default=True, help="Samples to choose by, at most.")
@click.option("--train", default=0.0, show_default=True, help="Seconds of training on top.")
@click.option("--seed", default=0, show_default=True)
def main(
    folder: Path,
    network: str,
    ratios: tuple[float, ...],
    repairs: tuple[str, ...],
    samples: int,
    train: float,
    seed: int,
) -> None:
    """Squeeze a network to each of the ratios."""
    with np.load(folder / f"test-{network}.npz") as file:
        test = Part({"image": file["image"]}, np.arange(len(file["labels"])), {}, 500, labels=file["labels"])
    source, data = folder / f"{network}.onnx", str(folder / f"{network}.npz")
    learner = None
    if train:
        from onnxsqueeze.training import Learning

        learner = Learning(train)
    click.echo(f"{network}: dense {accuracy(load(source), test):.2f} %")
    for ratio in ratios:
        for repair in repairs:
            started = time.perf_counter()
            with patch("onnxsqueeze.squeezing.sequence.repaired", REPAIRS[repair]):
                found = onnxsqueeze.squeeze(
                    source, data, labels="labels", ratio=ratio, samples=samples, seed=seed, train=learner
                )
            seconds, small = time.perf_counter() - started, found.report.chosen
            figures = f"{small.ratio:.2f}x, MACs {small.macs_ratio:.2f}x, repair {repair}"
            click.echo(f"  {figures}: {accuracy(found.minimized, test):.2f} % in {seconds:.0f} s")


if __name__ == "__main__":
    main()
