"""What was measured of squeezed networks, a line of JSON each; as a command prints the table over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part
from tools.recipes.tables import markdown, spread


@dataclass(frozen=True)
class Record:
    """One squeezed network.

    Attributes:
        network, seed: of `tools/recipes/train_dense.py`. goal: how many times smaller it was to be.
        way: how it was squeezed; a column of the table. ratio, macs: how many times fewer weights and
            multiply-accumulates it has. dense, accuracy: on the test images, in percent. seconds: that it took.
    """

    network: str
    seed: int
    goal: float
    way: str
    ratio: float
    macs: float
    dense: float
    accuracy: float
    seconds: float


def test_images(folder: Path, network: str) -> Part:
    """Return the images of which nothing was chosen, and their labels."""
    with np.load(folder / f"test-{network}.npz") as file:
        return Part({"image": file["image"]}, np.arange(len(file["labels"])), {}, 500, labels=file["labels"])


def accuracy(model: Model | Path, images: Part) -> float:
    """Return the share of the images, in percent, that a network gets right in onnxruntime."""
    scores = outputs_of(load(model) if isinstance(model, Path) else model, images)[0]
    return 100 * float((scores.argmax(axis=1) == images.labels).mean())


def note(path: Path | None, record: Record) -> None:
    """Add a line to a file."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def noted(paths: Iterable[Path]) -> list[Record]:
    """Return what was noted in files; of what was measured twice the last."""
    records = [Record(**json.loads(line)) for path in paths for line in path.read_text().splitlines()]
    return list({(each.network, each.seed, each.goal, each.way): each for each in records}.values())


def table(records: Sequence[Record]) -> str:
    """Return the accuracies: a row for each network and size, a column for each way; mean and deviation over seeds."""
    ways = list(dict.fromkeys(each.way for each in records))
    rows = [["network", "dense", "smaller", *ways]]
    for network, goal in dict.fromkeys((each.network, each.goal) for each in records):
        own = [each for each in records if (each.network, each.goal) == (network, goal)]
        dense = {each.seed: each.dense for each in own}
        cells = [network, spread(list(dense.values()), ".2f"), f"{goal:g}x"]
        for way in ways:
            found = [each for each in own if each.way == way]
            cells.append(_cell(found, goal) if found else "")
        rows.append(cells)
    return markdown(rows)


def _cell(records: Sequence[Record], goal: float) -> str:
    """Return the accuracy, and how much smaller the network is where that is not what was asked for."""
    text = spread([each.accuracy for each in records], ".2f")
    ratio = float(np.mean([each.ratio for each in records]))
    return text if abs(ratio / goal - 1) < 0.05 else f"{text} ({ratio:.1f}x)"


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
def main(paths: tuple[Path, ...]) -> None:
    """Print the accuracies that are noted in files."""
    click.echo(table(noted(paths)))


if __name__ == "__main__":
    main()
