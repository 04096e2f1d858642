"""A small ViT on MNIST: heads, their dims, hidden units and channels of the stream leave; judged on the test images.

    python tools/recipes/reproduce_vit.py --data FOLDER

FOLDER holds mnist.npz. A run that is stopped goes on where it was when it is started again.
"""

from __future__ import annotations

from pathlib import Path

import click

from tools.recipes.data import mnist
from tools.recipes.fitting import Loop
from tools.recipes.networks import VisionTransformer
from tools.recipes.options import common, conclude, device
from tools.recipes.recipe import Recipe

_RATIOS = (2.0, 4.0, 7.0, 10.0, 15.0)
"""What each cycle goes for; the first two train a fifth as long as the dense network did, the others as long."""


@click.command()
@click.option("--epochs", default=10.0, show_default=True, help="Of the dense network; the cycles scale with it.")
@common
def main(data: Path, folder: Path, seeds: int, epochs: float) -> None:
    """Train, squeeze, and print what came out."""
    recipe = Recipe(
        name="vit",
        build=lambda: VisionTransformer(channels=1, image=28, patch=7, width=96, depth=4, heads=6),
        data=mnist(data).to(device()),
        dense=Loop(epochs, learning_rate=1e-3, weight_decay=0.05),
        squeezed=lambda phase: Loop(epochs if phase.cycle > 2 else epochs / 5, learning_rate=1e-3, weight_decay=0.05),
        goals=list(enumerate(_RATIOS, 1)),
        options={"round_to": 1, "release": False},  # whole units leave next to no zeros, not worth a training
    )
    conclude([recipe.run(folder, seed) for seed in range(seeds)], drops=(0.005, 0.01, 0.02))


if __name__ == "__main__":
    main()
