"""Train dense networks on MNIST and write each beside samples, for `onnxsqueeze squeeze`.

Writes NAME.onnx and NAME.npz into a folder: the samples are training images with their labels. Also ``test-NAME.npz``,
the test images, for the figures of `tools/recipes/squeeze_dense.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.models.exporting import export
from tools.recipes.data import Images, mnist
from tools.recipes.fitting import Loop, accuracy
from tools.recipes.networks import VisionTransformer, fully_connected


def convolutional() -> nn.Sequential:
    """Return a plain network of four convolutions and two layers, 871k parameters."""

    def conv(source: int, target: int) -> list[nn.Module]:
        return [nn.Conv2d(source, target, 3, padding=1), nn.ReLU()]

    return nn.Sequential(
        *conv(1, 32), *conv(32, 32), nn.MaxPool2d(2), *conv(32, 64), *conv(64, 64), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 49, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip


def lenet() -> nn.Sequential:
    """Return LeNet-5 as Caffe has it: 20 and 50 channels, 500 hidden units."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


class _Block(nn.Module):
    def __init__(self, source: int, target: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(source, target, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(target)
        self.second = nn.Conv2d(target, target, 3, 1, 1, bias=False)
        self.last = nn.BatchNorm2d(target)
        self.short: nn.Module = nn.Identity()
        if stride > 1:
            self.short = nn.Sequential(nn.Conv2d(source, target, 1, stride, bias=False), nn.BatchNorm2d(target))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.last(self.second(F.relu(self.norm(self.first(x))))) + self.short(x))


def residual() -> nn.Sequential:
    """Return a residual network of three stages of two blocks: 16, 32 and 64 channels."""
    plan = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    stem = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [_Block(*sizes) for sizes in plan]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class RowReader(nn.Module):
    """A GRU that reads an image row by row."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layer = nn.GRU(28, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.layer(x.squeeze(1).transpose(0, 1))
        return self.head(states[-1])


@dataclass(frozen=True)
class _Network:
    build: Callable[[], nn.Module]
    epochs: float
    flat: bool = False
    rate: float = 1e-3
    dynamo: bool = False


NETWORKS = {
    "mlp-300": _Network(lambda: fully_connected((784, 300, 100, 10)), 12, True),
    "mlp-1024": _Network(lambda: fully_connected((784, 1024, 1024, 10)), 8, True),
    "cnn": _Network(convolutional, 4),
    "lenet": _Network(lenet, 8),
    "resnet": _Network(residual, 4, rate=4e-3, dynamo=True),
    "gru": _Network(RowReader, 5, rate=3e-3),
    "vit": _Network(lambda: VisionTransformer(image=28, patch=7, width=64, depth=3, heads=4, channels=1), 6, rate=2e-3),
}


def _saved(path: Path, images: Images) -> None:
    np.savez(path, image=images.inputs.numpy(), labels=images.labels.numpy())


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The folder that holds mnist.npz.")
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where to write.")
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), default=tuple(NETWORKS))
@click.option("--samples", default=12288, show_default=True, help="Training images to write as samples.")
@click.option("--seed", default=0, show_default=True)
def main(data: Path, folder: Path, names: tuple[str, ...], samples: int, seed: int) -> None:
    """Train dense networks on one thread and write them with samples."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    images = mnist(data)
    for name in names:
        network = NETWORKS[name]
        parts = images.flattened() if network.flat else images
        torch.manual_seed(seed)
        module = network.build()
        Loop(network.epochs, learning_rate=network.rate).fit(module, parts.training, seed)
        module.eval()
        shape = tuple(parts.training.inputs.shape[1:])
        export(module, folder / f"{name}.onnx", shape, opset=18 if network.dynamo else 17, dynamo=network.dynamo)
        chosen = torch.randperm(len(parts.training), generator=torch.Generator().manual_seed(seed))[:samples]
        _saved(folder / f"{name}.npz", Images(parts.training.inputs[chosen], parts.training.labels[chosen]))
        _saved(folder / f"test-{name}.npz", parts.test)
        click.echo(f"{name}: {100 * accuracy(module, parts.test):.2f} % on the test images")


if __name__ == "__main__":
    main()
