"""Fully connected networks on MNIST: how much smaller at how much less accuracy, judged on the test images.

    python tools/reproduce_mnist_mlp.py --data FOLDER                # both networks; --seeds 3 for three runs of each

FOLDER holds mnist.npz. A run that is stopped goes on where it was when it is started again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recipes.data import mnist  # noqa: E402
from recipes.fitting import Loop  # noqa: E402
from recipes.networks import fully_connected  # noqa: E402
from recipes.options import common, conclude, device  # noqa: E402
from recipes.recipe import Recipe  # noqa: E402

_NETWORKS = {
    "mlp-300-100": ((784, 300, 100, 10), 40.0),
    "mlp-1024-1024": ((784, 1024, 1024, 10), 160.0),
}


@click.command()
@click.option("--network", "networks", type=click.Choice(list(_NETWORKS)), multiple=True, help="By default both.")
@click.option("--cycles", default=8, show_default=True)
@common
def main(data: Path, folder: Path, seeds: int, networks: tuple[str, ...], cycles: int) -> None:
    """Train, squeeze, and print what came out."""
    images = mnist(data).flattened().to(device())
    outcomes = []
    for name in networks or _NETWORKS:
        widths, ratio = _NETWORKS[name]
        recipe = Recipe(
            name=name,
            build=lambda widths=widths: fully_connected(widths),
            data=images,
            dense=Loop(12, learning_rate=1e-3),
            squeezed=lambda phase: Loop(4 if phase.cycle < phase.cycles // 2 else 20, learning_rate=2e-3),
            ratio=ratio,
            cycles=cycles,
            options={"round_to": 1},
        )
        outcomes += [recipe.run(folder, seed) for seed in range(seeds)]
    conclude(outcomes, drops=(0.001, 0.003, 0.005, 0.01))


if __name__ == "__main__":
    main()
