"""ConvNeXt on CIFAR-10: a dense network, then cycles; the whole front, judged on the test images in onnxruntime.

    python tools/recipes/reproduce_convnext.py --data FOLDER               # about 0.9M parameters: for a CPU
    python tools/recipes/reproduce_convnext.py --data FOLDER --size tiny   # ConvNeXt-Tiny, 28M parameters, for one GPU

FOLDER holds cifar10_jpeg.npz. A run that is stopped at any moment goes on where it was when it is started again.
"""

from __future__ import annotations

from pathlib import Path

import click

from tools.recipes.data import cifar10
from tools.recipes.fitting import Loop, flip_and_shift
from tools.recipes.networks import ConvNeXt
from tools.recipes.options import common, conclude, device
from tools.recipes.recipe import Recipe

_COPIES = 8  # of the training images, on which the dense network is asked
_SIZES = {
    "small": {"widths": (24, 48, 96, 192), "depths": (2, 2, 2, 2)},
    "tiny": {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3), "drop_path": 0.1},
}
_RATIOS = {"small": (2.0, 3.5, 6.0, 10.5, 15.0), "tiny": (2.0, 4.0, 8.0, 14.8, 20.0)}
"""What each cycle goes for; the last but one trains as long as the dense network did, the others a fifth of it."""


@click.command()
@click.option("--size", type=click.Choice(list(_SIZES)), default="small", show_default=True)
@click.option("--epochs", default=15.0, show_default=True, help="Of the dense network; the cycles scale with it.")
@click.option("--dense-only", is_flag=True, help="Stop when the dense network is trained.")
@common
def main(data: Path, folder: Path, seeds: int, size: str, epochs: float, dense_only: bool) -> None:
    """Train, squeeze, and print what came out."""
    images = cifar10(data).to(device())
    bfloat16 = device().type == "cuda"
    ratios = _RATIOS[size]

    def loop(count: float) -> Loop:
        return Loop(count, 128, 2e-3, 0.05, augment=flip_and_shift, bfloat16=bfloat16)

    recipe = Recipe(
        name=f"convnext-{size}",
        build=lambda: ConvNeXt(stem=2, **_SIZES[size]),
        data=images,
        dense=loop(epochs),
        squeezed=lambda phase: loop(epochs if phase.cycle == len(ratios) - 1 else epochs / 5),
        goals=list(enumerate(ratios, 1)),
        options={"round_to": 1, "release": False},  # whole units leave next to no zeros, not worth a training
        copies=_COPIES,
    )
    if dense_only:
        for seed in range(seeds):
            place = folder / recipe.name / f"seed-{seed}"
            place.mkdir(parents=True, exist_ok=True)
            recipe.trained_dense(place, seed)
        return
    conclude([recipe.run(folder, seed) for seed in range(seeds)], drops=(0.005, 0.01, 0.02))


if __name__ == "__main__":
    main()
