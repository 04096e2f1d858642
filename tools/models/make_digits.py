"""Draw digits, train a dense network on them, and write both for `onnxsqueeze squeeze`.

    python tools/models/make_digits.py --folder models      # digits.onnx and digits.npz; some minutes on one core

Nothing is downloaded: each digit is a few strokes, turned, sheared, stretched and moved at random, in noise. The
samples beside the network are others than those that it was trained on.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from torch import nn

from tools.models.exporting import export
from tools.recipes.data import Images
from tools.recipes.fitting import Loop, accuracy

SIDE, LEVELS = 16, 15
_STROKES = (
    "(.3,.1)(.7,.1)(.9,.5)(.7,.9)(.3,.9)(.1,.5)(.3,.1)", "(.3,.3)(.55,.1)(.55,.9)",
    "(.15,.3)(.4,.1)(.75,.2)(.75,.4)(.15,.9)(.85,.9)", "(.15,.1)(.8,.1)(.45,.45)(.8,.65)(.6,.9)(.15,.85)",
    "(.65,.9)(.65,.1)(.1,.65)(.9,.65)", "(.8,.1)(.25,.1)(.2,.45)(.7,.45)(.8,.7)(.6,.9)(.15,.85)",
    "(.7,.1)(.3,.35)(.2,.7)(.45,.9)(.75,.75)(.65,.5)(.25,.6)", "(.15,.1)(.85,.1)(.4,.9)",
    "(.5,.5)(.25,.3)(.5,.1)(.75,.3)(.5,.5)(.8,.7)(.5,.9)(.2,.7)(.5,.5)",
    "(.75,.4)(.4,.5)(.25,.3)(.5,.1)(.75,.2)(.7,.9)",
)  # fmt: skip
"""The corners of each digit's line in a square of side 1, right and down."""


def corners(digit: int) -> np.ndarray:
    """Return the corners of a digit, float64 [corners, 2]."""
    pairs = (pair.split(",") for pair in _STROKES[digit].strip("()").split(")("))
    return np.array([[float(value) for value in pair] for pair in pairs])


def drawn(digit: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Return images of a digit, float32 [count, 1, side, side] from 0 to 1 in a few levels."""
    points = corners(digit) - 0.5
    points = points + random.normal(scale=0.04, size=(count, *points.shape))
    angle, shear = random.normal(scale=0.2, size=(2, count))
    width, height = random.uniform(0.6, 1.0, size=(2, count))
    turn = np.stack([width * np.cos(angle), shear - np.sin(angle), np.sin(angle), height * np.cos(angle)], axis=1)
    placed = points @ turn.reshape(count, 2, 2) * 0.8 + 0.5 + random.uniform(-0.1, 0.1, size=(count, 1, 2))
    across = (np.arange(SIDE) + 0.5) / SIDE
    pixels = np.stack(np.meshgrid(across, across), axis=-1).reshape(1, -1, 2)
    nearest = np.full((count, SIDE * SIDE), np.inf)
    for start, end in zip(placed[:, :-1].swapaxes(0, 1), placed[:, 1:].swapaxes(0, 1), strict=True):
        way = (end - start)[:, None]
        along = ((pixels - start[:, None]) * way).sum(-1) / ((way**2).sum(-1) + 1e-9)
        apart = np.linalg.norm(pixels - start[:, None] - np.clip(along, 0, 1)[..., None] * way, axis=-1)
        nearest = np.minimum(nearest, apart)
    thick = random.uniform(0.03, 0.08, size=(count, 1))
    ink = np.clip((thick + 0.04 - nearest) / 0.04, 0, 1)
    noisy = np.clip(ink * random.uniform(0.5, 1, size=(count, 1)) + random.normal(scale=0.12, size=ink.shape), 0, 1)
    return (np.round(noisy * LEVELS) / LEVELS).astype(np.float32).reshape(count, 1, SIDE, SIDE)


def digits(count: int, seed: int) -> Images:
    """Return as many images of each digit, shuffled, and which they show."""
    random = np.random.default_rng(seed)
    images = np.concatenate([drawn(digit, count, random) for digit in range(10)])
    order = random.permutation(len(images))
    return Images(torch.from_numpy(images[order]), torch.from_numpy(np.repeat(np.arange(10), count)[order]))


def network() -> nn.Sequential:
    """Return three convolutions and two layers, 79k parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * 16, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where to write.")
@click.option("--samples", default=150, show_default=True, help="Of each digit, beside the network.")
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, samples: int, seed: int) -> None:
    """Write digits.onnx and digits.npz, and print the accuracy on the samples."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    module = network()
    Loop(6, batch=128, learning_rate=2e-3).fit(module, digits(2000, seed), seed)
    export(module, folder / "digits.onnx", (1, SIDE, SIDE))
    kept = digits(samples, seed + 1)
    labels = kept.labels.numpy().astype(np.uint8)
    np.savez_compressed(folder / "digits.npz", image=kept.inputs.numpy(), labels=labels)
    click.echo(f"{100 * accuracy(module, kept):.2f} % of {len(kept)} samples")


if __name__ == "__main__":
    main()
