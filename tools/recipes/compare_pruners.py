"""Networks that are pruned in cycles and trained on: units by their loss beside Torch-Pruning's criteria.

    pip install '.[train]' onnxscript torch-pruning torch==2.13.0      # in an environment of its own
    python tools/recipes/compare_pruners.py --data FOLDER --folder runs/pruners --network mlp-300-100 --seeds 3

All start from the same dense network, which teaches them, go through the same sizes in the same cycles, and are trained
equally long on the same images in the same order. Torch-Pruning removes no columns of the input: so ours are run
without, too (``keep`` of the input), and its with the pixels that ours had left at the end. In each cycle it prunes the
whole network by one threshold and each layer alike, and goes on with what is better on the validation images before
training. Figures are of the ONNX files in onnxruntime, on test images that nothing is chosen by.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from onnxsqueeze.training import lessons
from tools.models.exporting import export
from tools.recipes.data import Data, mnist
from tools.recipes.dense_networks import lenet
from tools.recipes.fitting import Loop, accuracy
from tools.recipes.networks import fully_connected
from tools.recipes.options import DATA_VARIABLE, device
from tools.recipes.recipe import OUTCOME, Outcome, Point, Recipe, accuracy_of, elements_of
from tools.recipes.tables import markdown, spread
from tools.recipes.torch_pruning import smallest_share, torch_pruned

_SAMPLES = 1024  # that scores are found on, as ours
_HALVINGS = 14
_MOST = 0.98
UNITS, UNITS_OF_ALL_INPUTS, _DENSE = "units", "units, all inputs", "dense"
_INPUT = "input"  # of the exported networks
PEERS = ("magnitude", "Taylor", "Hessian")


@dataclass(frozen=True)
class Network:
    """What is pruned, and how it is trained.

    Attributes:
        build: makes the dense network. flat: whether it reads rows. dense: how that is trained.
        goals: the last cycle of each goal, and how many times fewer weight elements it is to leave.
        epochs: of training after a cycle, and after the last one of a goal but the first.
        learning_rate, hidden: see `Loop`.
    """

    build: Callable[[], nn.Module]
    flat: bool
    dense: Loop
    goals: tuple[tuple[int, float], ...]
    epochs: tuple[float, float]
    learning_rate: float = 2e-3
    hidden: float = 0.0

    def loop(self, cycle: int) -> Loop:
        """Return how a cycle trains."""
        long = cycle in [last for last, _ in self.goals[1:]]
        return Loop(self.epochs[long], learning_rate=self.learning_rate, hidden=self.hidden)


NETWORKS = {
    "mlp-300-100": Network(
        lambda: fully_connected((784, 300, 100, 10)),
        True,
        Loop(12),
        ((1, 4.0), (5, 11.1), (8, 17.8), (11, 26.7)),
        (4, 30),
        learning_rate=5e-3,
        hidden=0.2,
    ),
    "lenet-5": Network(lenet, False, Loop(8), ((2, 10.0), (6, 43.0), (10, 102.7)), (2, 20)),
}


class Picked(nn.Module):
    """Takes some columns of its input."""

    def __init__(self, places: Tensor) -> None:
        """Take these [count]."""
        super().__init__()
        self.register_buffer("places", places)

    def forward(self, x: Tensor) -> Tensor:
        """Return them of a batch [N, columns]."""
        return x.index_select(1, self.places)


@dataclass(frozen=True)
class Work:
    """One network and one seed, of which all ways are run.

    Attributes:
        name, network, data, seed: what. folder: for all that is written.
    """

    name: str
    network: Network
    data: Data
    folder: Path
    seed: int

    def recipe(self, way: str, **options: Any) -> Recipe:
        """Return how ours is run."""
        return Recipe(
            name=f"{self.name}, {way}",
            build=self.network.build,
            data=self.data,
            dense=self.network.dense,
            squeezed=lambda phase: self.network.loop(phase.cycle),
            goals=self.network.goals,
            options={"round_to": 1, "progress": False, **options},
        )

    def place(self, way: str) -> Path:
        """Return the folder of a way."""
        return self.recipe(way).place(self.folder, self.seed)

    def dense(self) -> nn.Module:
        """Return the dense network, trained once."""
        return self.recipe(_DENSE).trained_dense(self.place(_DENSE), self.seed)

    def ours(self, way: str, **options: Any) -> Outcome:
        """Run a way of ours, or go on with it."""
        return self.recipe(way, **options).run(self.folder, self.seed, self.place(_DENSE))

    def peers(self, importance: str, sizes: Sequence[Point], dense: Outcome, pixels: Tensor | None) -> Outcome:
        """Run a criterion of Torch-Pruning through the sizes that ours had.

        Args:
            importance: which. sizes: of ours, by cycle. dense: the outcome that says what the dense network gives.
            pixels: those that the network reads, None for all.
        """
        way = f"Torch-Pruning, {importance}" + (", our pixels" if pixels is not None else "")
        place, started = self.place(way), time.perf_counter()
        if (finished := place / OUTCOME).exists():
            return Outcome.read(finished)
        module, points = self.dense(), []
        taught = lessons(module, self.data.training.inputs, path=self.place(UNITS) / "lessons.pt")
        if pixels is not None:
            module = _reading(module, pixels)
        for size in sizes:
            if not size.cycle:
                continue
            module = self._pruned(module, importance, size.elements)
            self.network.loop(size.cycle).fit(module, self.data.training, 100 * self.seed + size.cycle, taught=taught)
            path = place / f"cycle-{size.cycle}.onnx"
            export(module, path, tuple(self.data.training.inputs.shape[1:]))
            elements = elements_of(path)
            figures = [accuracy_of(path, part) for part in (self.data.validation, self.data.test)]
            points.append(Point(size.cycle, elements, dense.dense_elements / elements, *figures))
        seconds = time.perf_counter() - started
        outcome = replace(dense, name=f"{self.name}, {way}", points=tuple(points), seconds=seconds)
        outcome.write(finished)
        return outcome

    def _pruned(self, module: nn.Module, importance: str, elements: int) -> nn.Module:
        """Return a module of at most so many elements: of both ways to choose the one that is better untrained."""
        found = [self._smallest_share(module, importance, everywhere, elements) for everywhere in (False, True)]
        fitting = [own for own in found if own is not None]
        if not fitting:
            raise click.ClickException(f"Torch-Pruning cannot leave {elements} elements")
        return max(fitting, key=lambda own: accuracy(own, self.data.validation))

    def _smallest_share(self, module: nn.Module, importance: str, everywhere: bool, elements: int) -> nn.Module | None:
        samples = self.data.training.inputs[:_SAMPLES], self.data.training.labels[:_SAMPLES]
        make = partial(torch_pruned, module, *samples, importance, everywhere)
        share = smallest_share(lambda own: _numbers(make(own)), elements, _MOST, _HALVINGS)
        return None if share is None else make(share)


def _numbers(module: nn.Module) -> int:
    return sum(entry.numel() for entry in (*module.parameters(), *module.buffers()))


def _reading(module: nn.Module, pixels: Tensor) -> nn.Module:
    first, *others = copy.deepcopy(module)
    narrow = nn.Linear(len(pixels), first.out_features)
    with torch.no_grad():
        narrow.weight.copy_(first.weight[:, pixels])
        narrow.bias.copy_(first.bias)
    return nn.Sequential(Picked(pixels), narrow, *others)


def pixels_of(path: Path) -> Tensor:
    """Return the columns of its input that a minimized network reads."""
    graph = onnx.load(path).graph
    (reader,) = (node for node in graph.node if graph.input[0].name in node.input)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if reader.op_type != "Gather":
        return torch.arange(graph.input[0].type.tensor_type.shape.dim[-1].dim_value)
    return torch.from_numpy(np.array(numpy_helper.to_array(stored[reader.input[1]]), dtype=np.int64))


def outcomes_of(work: Work) -> list[Outcome]:
    """Run all ways of a seed."""
    work.dense()
    ours = work.ours(UNITS)
    found = [ours]
    choices: list[Tensor | None] = [None]
    if work.network.flat:
        found.append(work.ours(UNITS_OF_ALL_INPUTS, keep=[_INPUT]))
        last = max(point.cycle for point in ours.points)
        choices.append(pixels_of(work.place(UNITS) / "cycles" / f"cycle-{last:02}" / "minimized.onnx"))
    for importance in PEERS:
        found += [work.peers(importance, ours.points, ours, pixels) for pixels in choices]
    for outcome in found:
        for cycle, _ in work.network.goals:
            (point,) = (point for point in outcome.points if point.cycle == cycle)
            click.echo(f"{outcome.name}, seed {work.seed}: {point.elements:,} elements, {point.test:.2%}")
    return found


def table(found: Sequence[Outcome], goals: Sequence[int]) -> str:
    """Return for each way the elements and the test accuracy at each goal, over seeds."""
    rows = [["way", *(f"cycle {goal}: elements, %" for goal in goals), "s"]]
    for name in dict.fromkeys(outcome.name for outcome in found):
        own = [outcome for outcome in found if outcome.name == name]
        cells = []
        for goal in goals:
            points = [point for outcome in own for point in outcome.points if point.cycle == goal]
            elements = sum(point.elements for point in points) / len(points)
            cells.append(f"{elements:,.0f}, {spread([100 * point.test for point in points], '.2f')}")
        rows.append([name, *cells, f"{sum(outcome.seconds for outcome in own) / len(own):.0f}"])
    return markdown(rows)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), envvar=DATA_VARIABLE, required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="For all that is written.")
@click.option("--network", "name", type=click.Choice(list(NETWORKS)), required=True)
@click.option("--seeds", default=3, show_default=True, help="How many, from 0.")
@click.option("--threads", default=1, show_default=True)
def main(data: Path, folder: Path, name: str, seeds: int, threads: int) -> None:
    """Prune a network in cycles by all ways and print a table."""
    torch.set_num_threads(threads)
    network = NETWORKS[name]
    images = mnist(data).to(device())
    if network.flat:
        images = images.flattened()
    run = partial(Work, name, network, images, folder)
    found = [outcome for seed in range(seeds) for outcome in outcomes_of(run(seed))]
    dense = spread([100 * outcome.dense_test for outcome in found[:: len(found) // seeds]], ".2f")
    click.echo(f"\ndense: {found[0].dense_elements:,} elements, {dense} %\n")
    click.echo(table(found, [cycle for cycle, _ in network.goals]))


if __name__ == "__main__":
    main()
