"""Squeeze the networks of `tools/recipes/train_dense.py` and judge them on the test images.

Prints one line for each network and ratio: what is left, the accuracy on the test images, the seconds.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np

import onnxsqueeze
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part


def accuracy(model: Model, images: Part) -> float:
    """Return the share of the images, in percent, that a network gets right."""
    scores = outputs_of(model, images)[0]
    return 100 * float((scores.argmax(axis=1) == images.labels).mean())


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, exists=True), required=True, help="Of train_dense.py.")
@click.option("--network", required=True, help="The name of a network there.")
@click.option("--ratio", "ratios", type=float, multiple=True, default=(2.0, 4.0, 10.0), show_default=True)
@click.option("--samples", default=8192, show_default=True, help="Samples to choose by, at most.")
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, network: str, ratios: tuple[float, ...], samples: int, seed: int) -> None:
    """Squeeze a network to each of the ratios."""
    with np.load(folder / f"test-{network}.npz") as file:
        test = Part({"image": file["image"]}, np.arange(len(file["labels"])), {}, 500, labels=file["labels"])
    source = folder / f"{network}.onnx"
    click.echo(f"{network}: dense {accuracy(load(source), test):.2f} %")
    for ratio in ratios:
        started = time.perf_counter()
        data = str(folder / f"{network}.npz")
        found = onnxsqueeze.squeeze(source, data, labels="labels", ratio=ratio, samples=samples, seed=seed)
        seconds = time.perf_counter() - started
        small = found.report.chosen
        correct = accuracy(found.minimized, test)
        click.echo(f"  {small.ratio:.2f}x, MACs {small.macs_ratio:.2f}x: {correct:.2f} % in {seconds:.0f} s")


if __name__ == "__main__":
    main()
