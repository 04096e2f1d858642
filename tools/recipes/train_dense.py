"""Train dense networks on MNIST, and ResNet-20 on CIFAR-10, and write each beside samples, for `onnxsqueeze squeeze`.

Writes NAME.onnx, NAME.npz and NAME.pt into a folder: the samples are training images with their labels; the last is for
tools that take a module (`tools/recipes/squeeze_peers.py`). Also ``test-NAME.npz``, the test images, for the figures of
`tools/recipes/squeeze_dense.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn

from tools.models.exporting import export
from tools.models.make_models import RECIPES
from tools.recipes.data import Data, Images, cifar10, mnist
from tools.recipes.dense_networks import RowReader, convolutional, lenet, residual
from tools.recipes.fitting import Loop, accuracy, flip_and_shift
from tools.recipes.networks import ConvNeXt, VisionTransformer, fully_connected


@dataclass(frozen=True)
class _Network:
    """What is trained, how, and how it is written; on MNIST where no other data are named."""

    build: Callable[[], nn.Module]
    loop: Loop
    flat: bool = False
    dynamo: bool = False
    read: Callable[[Path], Data] = mnist


def _fast(epochs: float, rate: float) -> Loop:
    return Loop(epochs, learning_rate=rate, bfloat16=True)


def _transformer() -> VisionTransformer:
    return VisionTransformer(image=28, patch=7, width=64, depth=3, heads=4, channels=1)


NETWORKS = {
    "mlp-300": _Network(lambda: fully_connected((784, 300, 100, 10)), Loop(12), flat=True),
    "mlp-1024": _Network(lambda: fully_connected((784, 1024, 1024, 10)), Loop(8), flat=True),
    "cnn": _Network(convolutional, _fast(4, 1e-3)),
    "lenet": _Network(lenet, Loop(8)),
    "vgg": _Network(RECIPES["vgg"].build, _fast(4, 1e-3)),
    "resnet": _Network(residual, _fast(4, 4e-3), dynamo=True),
    "bottlenecks": _Network(RECIPES["resnet"].build, _fast(4, 2e-3), dynamo=True),
    "gru": _Network(RowReader, Loop(5, learning_rate=3e-3)),
    "vit": _Network(_transformer, Loop(6, learning_rate=2e-3)),
    "convnext": _Network(lambda: ConvNeXt((24, 48, 96), (2, 2, 2), channels=1), _fast(4, 2e-3)),
    "resnet20": _Network(
        lambda: residual(3, 3, 1),
        Loop(40, 128, 2e-3, 0.05, augment=flip_and_shift, bfloat16=True),
        dynamo=True,
        read=cifar10,
    ),
}


def _saved(path: Path, images: Images) -> None:
    np.savez(path, image=images.inputs.numpy(), labels=images.labels.numpy())


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="With mnist.npz and cifar10_jpeg.npz.")
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where to write.")
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), default=tuple(NETWORKS))
@click.option("--samples", default=12288, show_default=True, help="Training images to write as samples.")
@click.option("--seed", default=0, show_default=True)
def main(data: Path, folder: Path, names: tuple[str, ...], samples: int, seed: int) -> None:
    """Train dense networks on one thread and write them with samples."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        network = NETWORKS[name]
        images = network.read(data)
        parts = images.flattened() if network.flat else images
        torch.manual_seed(seed)
        module = network.build()
        module.to(memory_format=torch.channels_last)  # convolutions are trained in half of the time
        network.loop.fit(module, parts.training, seed)
        module.eval().to(memory_format=torch.contiguous_format)
        shape = tuple(parts.training.inputs.shape[1:])
        export(module, folder / f"{name}.onnx", shape, opset=18 if network.dynamo else 17, dynamo=network.dynamo)
        torch.save(module.state_dict(), folder / f"{name}.pt")
        chosen = torch.randperm(len(parts.training), generator=torch.Generator().manual_seed(seed))[:samples]
        _saved(folder / f"{name}.npz", Images(parts.training.inputs[chosen], parts.training.labels[chosen]))
        _saved(folder / f"test-{name}.npz", parts.test)
        click.echo(f"{name}: {100 * accuracy(module, parts.test):.2f} % on the test images")


if __name__ == "__main__":
    main()
