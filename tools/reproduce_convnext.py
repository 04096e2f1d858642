"""ConvNeXt on CIFAR-10: a dense network, then cycles; the whole front, judged on the test images in onnxruntime.

    python tools/reproduce_convnext.py --data FOLDER                 # about 0.9M parameters: for a CPU
    python tools/reproduce_convnext.py --data FOLDER --size tiny     # ConvNeXt-Tiny, 28M parameters, for one GPU

FOLDER holds cifar10_jpeg.npz. A run that is stopped at any moment goes on where it was when it is started again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recipes.data import cifar10  # noqa: E402
from recipes.fitting import Loop, flip_and_shift  # noqa: E402
from recipes.networks import ConvNeXt  # noqa: E402
from recipes.options import common, conclude, device  # noqa: E402
from recipes.recipe import Recipe  # noqa: E402

_SIZES = {
    "small": {"widths": (24, 48, 96, 192), "depths": (2, 2, 2, 2)},
    "tiny": {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3), "drop_path": 0.1},
}


@click.command()
@click.option("--size", type=click.Choice(list(_SIZES)), default="small", show_default=True)
@click.option("--ratio", default=14.0, show_default=True, help="How much smaller the last cycle should be.")
@click.option("--cycles", default=6, show_default=True)
@click.option("--epochs", default=15.0, show_default=True, help="Of the dense network; the cycles scale with it.")
@click.option("--dense-only", is_flag=True, help="Stop when the dense network is trained.")
@common
def main(
    data: Path, folder: Path, seeds: int, size: str, ratio: float, cycles: int, epochs: float, dense_only: bool
) -> None:
    """Train, squeeze, and print what came out."""
    images = cifar10(data).to(device())
    bfloat16 = device().type == "cuda"

    def loop(count: float, rate: float) -> Loop:
        return Loop(count, 128, rate, 0.05, augment=flip_and_shift, bfloat16=bfloat16)

    recipe = Recipe(
        name=f"convnext-{size}",
        build=lambda: ConvNeXt(stem=2, **_SIZES[size]),
        data=images,
        dense=loop(epochs, 2e-3),
        squeezed=lambda phase: loop(epochs if phase.cycle == phase.cycles else epochs / 7.5, 1e-3),
        ratio=ratio,
        cycles=cycles,
        options={"round_to": 1},
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
