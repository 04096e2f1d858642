"""The dense networks that are squeezed by samples, beside those that other recipes train as well."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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


def residual(channels: int = 1, blocks_in_stage: int = 2, stride: int = 2) -> nn.Sequential:
    """Return a residual network of three stages of 16, 32 and 64 channels; with three blocks in each it is ResNet-20.

    Args:
        channels: of an image.
        blocks_in_stage: how many blocks of two convolutions each stage has.
        stride: of the first convolution.
    """
    plan = [(source, width, 1 + (source < width)) for source, width in ((16, 16), (16, 32), (32, 64))]
    stem = [nn.Conv2d(channels, 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [
        block
        for source, width, step in plan
        for block in (_Block(source, width, step), *(_Block(width, width, 1) for _ in range(blocks_in_stage - 1)))
    ]
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
