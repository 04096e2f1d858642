"""Blocks of convolutional networks, as torch code in the wild writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[], nn.Module]


def conv(
    inputs: int,
    outputs: int,
    kernel: Any = 3,
    stride: int = 1,
    groups: int = 1,
    activation: Activation | None = nn.ReLU,
) -> nn.Sequential:
    """A zero-padded convolution without a bias, BatchNorm and an activation."""
    pads = tuple(size // 2 for size in kernel) if isinstance(kernel, tuple) else kernel // 2
    layer = nn.Conv2d(inputs, outputs, kernel, stride, pads, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), *([activation()] if activation else []))


class SqueezeExcitation(nn.Module):
    """Channels gated by a function of their own means, with MobileNetV3's activations."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate [batch, channels, height, width]."""
        gate = F.relu(self.reduce(self.pool(x)))
        return F.hardsigmoid(self.expand(gate)) * x


class MobileV3Block(nn.Module):
    """1x1, depthwise, gate, 1x1, and a residual where shapes allow."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, stride: int, squeeze: bool, activation: Activation
    ) -> None:
        super().__init__()
        self.residual = inputs == outputs and stride == 1
        self.body = nn.Sequential(
            conv(inputs, hidden, 1, activation=activation),
            conv(hidden, hidden, 5, stride, groups=hidden, activation=activation),
            *([SqueezeExcitation(hidden, 8)] if squeeze else []),
            conv(hidden, outputs, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        return x + self.body(x) if self.residual else self.body(x)


class ShuffleBlock(nn.Module):
    """ShuffleNetV2: half of the channels pass, the others are transformed, then both are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv(half, half, 1), conv(half, half, 3, groups=half, activation=None), conv(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        passing, transformed = x.chunk(2, dim=1)
        return shuffled(torch.cat((passing, self.branch(transformed)), dim=1), 2)


class ShuffleDown(nn.Module):
    """ShuffleNetV2's strided block: both branches see all channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.first = nn.Sequential(conv(inputs, inputs, 3, 2, inputs, activation=None), conv(inputs, half, 1))
        self.second = nn.Sequential(
            conv(inputs, half, 1), conv(half, half, 3, 2, half, activation=None), conv(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        return shuffled(torch.cat((self.first(x), self.second(x)), dim=1), 2)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Interleave groups of channels."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)


class DenseLayer(nn.Module):
    """DenseNet: pre-activation bottleneck whose output joins its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer."""
        return torch.cat([x, self.layers(x)], 1)


class Inception(nn.Module):
    """Branches of 1x1, 5x5, factorized 3x3, and a pool, side by side."""

    def __init__(self, inputs: int, width: int, pool: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv(inputs, width, 1),
                nn.Sequential(conv(inputs, width, 1), conv(width, width, 5)),
                nn.Sequential(conv(inputs, width, 1), conv(width, width, (1, 3)), conv(width, width, (3, 1))),
                nn.Sequential(pool, conv(inputs, width, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the branches."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Fire(nn.Module):
    """SqueezeNet: squeeze, then 1x1 and 3x3 side by side; biases and no BatchNorm."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1, self.expand3 = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the module."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1(x)), F.relu(self.expand3(x))], 1)


class GroupedBlock(nn.Module):
    """RegNet and ResNeXt: a bottleneck whose 3x3 convolution has groups."""

    def __init__(self, inputs: int, width: int, groups: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, width, 1), conv(width, width, 3, stride, groups), conv(width, width, 1, activation=None)
        )
        self.shortcut = conv(inputs, width, 1, stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        return F.relu(self.shortcut(x) + self.body(x))


class CausalBlock(nn.Module):
    """WaveNet: a dilated causal convolution, a gate, a residual and a skip."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.left = 2 * dilation
        self.dilated = nn.Conv1d(channels, 2 * channels, 3, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what goes on and what is skipped to the end."""
        content, gate = self.dilated(F.pad(x, (self.left, 0))).chunk(2, dim=1)
        hidden = torch.tanh(content) * torch.sigmoid(gate)
        return x + self.residual(hidden), self.skip(hidden)


class TemporalBlock(nn.Module):
    """TCN: two padded, chomped convolutions and a residual."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.chomp = 2 * dilation
        self.first = nn.Conv1d(inputs, outputs, 3, padding=self.chomp, dilation=dilation)
        self.second = nn.Conv1d(outputs, outputs, 3, padding=self.chomp, dilation=dilation)
        self.shortcut = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        hidden = F.relu(self.first(x)[:, :, : -self.chomp])
        hidden = F.relu(self.second(hidden)[:, :, : -self.chomp])
        return F.relu(hidden + self.shortcut(x))


class Decoder(nn.Module):
    """U-Net: upsample, join the skip, convolve.

    Attributes:
        how: "transposed", "nearest" or "bilinear" by a factor, or "size" for bilinear to the skip's size.
    """

    def __init__(self, inputs: int, skip: int, outputs: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.up: nn.Module = nn.Identity()
        if how == "transposed":
            self.up = nn.ConvTranspose2d(inputs, inputs, 2, stride=2)
        self.body = nn.Sequential(conv(inputs + skip, outputs), conv(outputs, outputs))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Run the block."""
        if self.how == "size":
            x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
        elif self.how != "transposed":
            x = F.interpolate(x, scale_factor=2, mode=self.how)
        return self.body(torch.cat([skip, self.up(x)], dim=1))
