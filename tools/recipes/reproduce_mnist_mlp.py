"""Fully connected networks on MNIST: how much smaller at how much less accuracy, judged on the test images.

    python tools/recipes/reproduce_mnist_mlp.py --data FOLDER        # both networks; --seeds 3 for three runs of each

FOLDER holds mnist.npz. A run that is stopped goes on where it was when it is started again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tools.recipes.data import mnist
from tools.recipes.fitting import Loop
from tools.recipes.networks import fully_connected
from tools.recipes.options import common, conclude, device
from tools.recipes.recipe import Recipe

if TYPE_CHECKING:
    from onnxsqueeze.training import Phase

_HIDDEN = 0.2
"""The share of pixels that are hidden from a small network while it learns; without, it learns the images by heart."""


@dataclass(frozen=True)
class _Network:
    """A fully connected network and what its cycles go for.

    Attributes:
        widths: of the layers. goals: see `Recipe`.
        epochs: of training after a squeeze, and of that in the last cycle of each goal but the first.
    """

    widths: tuple[int, ...]
    goals: tuple[tuple[int, float], ...]
    epochs: tuple[float, float]

    def loop(self, phase: Phase, scale: float) -> Loop:
        """Return how a phase trains."""
        long = phase.cycle in [cycle for cycle, _ in self.goals[1:]]
        return Loop(self.epochs[long] * scale, learning_rate=2e-3, hidden=_HIDDEN)


_NETWORKS = {
    "mlp-300-100": _Network((784, 300, 100, 10), ((1, 4.0), (9, 11.0), (14, 18.0)), (4.0, 30.0)),
    "mlp-1024-1024": _Network((784, 1024, 1024, 10), ((2, 31.0), (13, 102.0), (18, 160.0)), (6.0, 50.0)),
}


@click.command()
@click.option("--network", "networks", type=click.Choice(list(_NETWORKS)), multiple=True, help="By default both.")
@click.option("--scale", default=1.0, show_default=True, help="Of all numbers of epochs.")
@common
def main(data: Path, folder: Path, seeds: int, networks: tuple[str, ...], scale: float) -> None:
    """Train, squeeze, and print what came out."""
    images = mnist(data).flattened().to(device())
    outcomes = []
    for name in networks or _NETWORKS:
        network = _NETWORKS[name]
        recipe = Recipe(
            name=name,
            build=lambda widths=network.widths: fully_connected(widths),
            data=images,
            dense=Loop(12 * scale, learning_rate=1e-3),
            squeezed=partial(network.loop, scale=scale),
            goals=network.goals,
            options={"round_to": 1},
        )
        outcomes += [recipe.run(folder, seed) for seed in range(seeds)]
    conclude(outcomes, drops=(0.001, 0.003, 0.005, 0.01))


if __name__ == "__main__":
    main()
