"""Fully-connected and convolutional architectures with narrow layers, to be exported and minimized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.exports.blocks import (
    CausalBlock,
    Decoder,
    DenseLayer,
    Fire,
    GroupedBlock,
    Inception,
    MobileV3Block,
    ShuffleBlock,
    ShuffleDown,
    TemporalBlock,
    conv,
)
from tools.models import networks
from tools.models.networks import Axis, Stage

CLASSES = 10


class Mixer(nn.Module):
    """Fully-connected layers on the last axis of [batch, tokens, channels], with a residual and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up = nn.Linear(12, 32), nn.Linear(32, 48)
        self.down, self.gate, self.head = nn.Linear(48, 32), nn.Linear(32, 48), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        x = F.relu(self.embed(x))
        x = x + self.down(F.gelu(self.up(x)) * torch.sigmoid(self.gate(x)))
        return self.head(x.mean(dim=1))


class Gated(nn.Module):
    """Gated linear units over channels, in convolutions and in a fully-connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(16, 32, 3)
        self.hidden, self.head = nn.Linear(16, 32), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        x = F.glu(self.second(F.glu(self.first(x), dim=1)), dim=1)
        return self.head(F.glu(self.hidden(x.mean((2, 3)))))


class ShuffleNet(nn.Module):
    """ShuffleNetV2 with two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 12, 3, 2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential(ShuffleDown(12, 24), ShuffleBlock(24), ShuffleDown(24, 32))
        self.last, self.head = conv(32, 40, 1), nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        return self.head(self.last(self.stages(self.stem(x))).mean([2, 3]))


class UNet(nn.Module):
    """Two levels down, two up with skips, each in its own way (see Decoder); the output is an image."""

    def __init__(self, lower: str, upper: str) -> None:
        super().__init__()
        self.first, self.second, self.bottom = conv(3, 12), conv(12, 20), conv(20, 28)
        self.lower, self.upper = Decoder(28, 20, 20, lower), Decoder(20, 12, 12, upper)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        first = self.first(x)
        second = self.second(F.max_pool2d(first, 2))
        bottom = self.bottom(F.max_pool2d(second, 2))
        return self.head(self.upper(self.lower(bottom, second), first))


class WaveNet(nn.Module):
    """Gated causal convolutions over a signal, their skips summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 20, 1)
        self.blocks = nn.ModuleList([CausalBlock(20, 1), CausalBlock(20, 2)])
        self.hidden, self.head = nn.Conv1d(20, 16, 1), nn.Conv1d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        x, total = self.stem(x), torch.zeros((), dtype=x.dtype)
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.head(F.relu(self.hidden(F.relu(total))))


class Autoencoder(nn.Module):
    """Strided convolutions to a code and transposed ones back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(1, 12, 3, 2), nn.Conv2d(12, 16, 3, 2, 1), nn.LeakyReLU(0.1))
        self.narrow, self.widen = nn.Linear(16 * 2 * 2, 24), nn.Linear(24, 16 * 4 * 4)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(16, 12, 3, 2, 1, output_padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ELU(),
            nn.ConvTranspose2d(12, 1, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        code = self.narrow(torch.flatten(F.adaptive_avg_pool2d(self.encoder(x), (2, 2)), 1))
        return self.decoder(F.relu(self.widen(code)).view(-1, 16, 4, 4))


class SuperResolution(nn.Module):
    """Sub-pixel convolution: features at low resolution, then a pixel shuffle, and a global residual."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 5, padding=2), nn.PReLU(24), nn.Conv2d(24, 20, 3, padding=1), nn.PReLU()
        )
        self.sub = nn.Sequential(nn.Conv2d(20, 32, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())
        self.last = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        fine = F.pixel_shuffle(self.last(self.sub(self.features(x))), 2)
        return fine + F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)


class Patchwork(nn.Module):
    """What code in the wild does between layers: paddings, split, view, clipped and leaky activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 32, 3, bias=False)
        self.norm, self.third, self.fourth = nn.BatchNorm2d(32), nn.Conv2d(16, 16, 3), nn.Conv2d(20, 16, 3, 2)
        self.slope, self.hidden, self.head = nn.PReLU(16), nn.Linear(16 * 16, 30), nn.Linear(30, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        x = F.relu6(self.first(F.pad(x, (1, 1, 1, 1), mode="reflect")))
        x = self.norm(self.second(F.pad(x, (1, 1, 1, 1), mode="reflect")))
        left, middle, right = torch.split(x, [16, 4, 12], dim=1)
        left = F.hardtanh(self.third(F.pad(left, (1, 1, 1, 1))), -2.0, 1.5)
        x = torch.cat([left, F.elu(middle)], dim=1) + F.pad(F.leaky_relu(right), (0, 0, 0, 0, 0, 8))
        x = self.slope(self.fourth(F.pad(x, (0, 1, 0, 1))))
        x = x.view(x.size(0), -1)
        return self.head(F.silu(self.hidden(x)))


def perceptron() -> nn.Module:
    """Fully-connected layers with BatchNorm, Dropout, GELU and SiLU."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 48),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(48, 40),
        nn.GELU(),
        nn.Linear(40, 32),
        nn.GELU(approximate="tanh"),
        nn.Linear(32, 32, bias=False),
        nn.BatchNorm1d(32),
        nn.SiLU(),
        nn.Linear(32, CLASSES),
    )


def residual(block: Callable[[Axis, Axis, int, int, str], nn.Module]) -> nn.Module:
    """A ResNet for small images with a stream of its own in each stage."""
    source = Axis("stem", 16)
    stem = nn.Sequential(networks.conv_norm(networks.IMAGE, source, 3), nn.MaxPool2d(3, 2, 1))
    stages = [Stage(block, 16, 16, 2, 1), Stage(block, 24, 20, 1, 2)]  # type: ignore[arg-type]
    return networks.resnet(stem, source, stages, CLASSES)


def inverted(activation: Callable[[], nn.Module], squeeze: bool) -> nn.Module:
    """A MobileNetV2, or an EfficientNet with squeeze-and-excitation."""
    plan = ((1, 8, 1, 1, 3), (3, 12, 2, 2, 3), (3, 16, 1, 1, 5))
    return networks.inverted_residuals(plan, activation, squeeze, CLASSES)


def mobile_v3() -> nn.Module:
    """A MobileNetV3 with its classifier of two layers."""
    return nn.Sequential(
        conv(3, 12, 3, 2, activation=nn.Hardswish),
        MobileV3Block(12, 24, 12, 1, True, nn.ReLU),
        MobileV3Block(12, 32, 16, 2, False, nn.Hardswish),
        MobileV3Block(16, 36, 16, 1, True, nn.Hardswish),
        conv(16, 40, 1, activation=nn.Hardswish),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(40, 48),
        nn.Hardswish(),
        nn.Dropout(0.2),
        nn.Linear(48, CLASSES),
    )


def dense() -> nn.Module:
    """A DenseNet of two blocks with a transition between them."""
    return nn.Sequential(
        conv(3, 16, 3, 1),
        DenseLayer(16, 8),
        DenseLayer(24, 8),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 16, 1, bias=False),
        nn.AvgPool2d(2, 2),
        DenseLayer(16, 8),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


def inception() -> nn.Module:
    """An Inception network whose pools pad, with and without counting the padding."""
    return nn.Sequential(
        conv(3, 16),
        Inception(16, 8, nn.AvgPool2d(3, 1, 1)),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Inception(32, 8, nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def google() -> nn.Module:
    """GoogLeNet's pools: overlapping with ceil_mode, padded inside the blocks, adaptive at the end."""
    return nn.Sequential(
        conv(3, 16, 7, 2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Inception(16, 8, nn.MaxPool2d(3, 1, 1, ceil_mode=True)),
        nn.AvgPool2d(2, ceil_mode=True),
        Inception(32, 6, nn.MaxPool2d(3, 1, 1, ceil_mode=True)),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(24, CLASSES),
    )


def squeeze() -> nn.Module:
    """A SqueezeNet, whose classifier is a convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(16, 8, 12),
        Fire(24, 8, 16),
        nn.Dropout(),
        nn.Conv2d(32, CLASSES, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )


def grouped() -> nn.Module:
    """A RegNet or ResNeXt: groups of four channels."""
    blocks = [GroupedBlock(12, 24, 6, 2), GroupedBlock(24, 32, 4, 1)]
    return nn.Sequential(conv(3, 12), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def temporal() -> nn.Module:
    """A temporal convolutional network."""
    return nn.Sequential(
        TemporalBlock(4, 16, 1),
        TemporalBlock(16, 20, 2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(20, CLASSES),
    )


def volumetric() -> nn.Module:
    """Convolutions, BatchNorm and pools over volumes (with biases: the newer exporter gets a missing one wrong)."""
    return nn.Sequential(
        nn.Conv3d(1, 12, 3, padding=1),
        nn.BatchNorm3d(12),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(12, 16, 3, padding=1),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        nn.Conv3d(16, 20, (1, 3, 3)),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(20, CLASSES),
    )


@dataclass(frozen=True)
class Architecture:
    """A network and what it is fed with.

    Attributes:
        build: makes it with random weights.
        sample: shape of one input.
        dynamic: axes of the input, besides the batch, that are dynamic.
        extents: two sizes of the dynamic axes to run with.
        sparsity: share of the weights that mask B zeroes: enough that channels die, and not all of them.
    """

    build: Callable[[], nn.Module]
    sample: tuple[int, ...]
    dynamic: tuple[int, ...] = ()
    extents: tuple[int, int] = (12, 17)
    sparsity: float = 0.95


IMAGE = (2, 3)
ARCHITECTURES = {
    "mlp": Architecture(perceptron, (1, 8, 8)),
    "lenet": Architecture(lambda: networks.lenet((8, 12, 24)), (1, 28, 28), sparsity=0.98),
    "vgg": Architecture(
        lambda: networks.vgg([16, "pool", 24, 24, "pool"], networks.IMAGE, 32, positions=9), (3, 12, 12), sparsity=0.98
    ),
    "resnet": Architecture(lambda: residual(networks.basic), (3, 16, 16), IMAGE, sparsity=0.98),
    "bottleneck": Architecture(lambda: residual(networks.bottleneck), (3, 16, 16), IMAGE),
    "mobilenet": Architecture(lambda: inverted(nn.ReLU6, False), (3, 16, 16), IMAGE, sparsity=0.8),
    "mobilenetv3": Architecture(mobile_v3, (3, 16, 16), IMAGE, sparsity=0.9),
    "efficientnet": Architecture(lambda: inverted(nn.SiLU, True), (3, 16, 16), IMAGE, sparsity=0.9),
    "shufflenet": Architecture(ShuffleNet, (3, 32, 32), IMAGE, (24, 33), 0.9),
    "densenet": Architecture(dense, (3, 12, 12), IMAGE),
    "inception": Architecture(inception, (3, 13, 13), IMAGE),
    "googlenet": Architecture(google, (3, 30, 30), IMAGE, (30, 37)),
    "squeezenet": Architecture(squeeze, (3, 21, 21), IMAGE, (21, 30)),
    "regnet": Architecture(grouped, (3, 12, 12), IMAGE),
    "unet": Architecture(lambda: UNet("transposed", "nearest"), (3, 16, 16), IMAGE, (8, 12)),
    "unet-resized": Architecture(lambda: UNet("size", "bilinear"), (3, 14, 14), IMAGE, (10, 16)),
    "superresolution": Architecture(SuperResolution, (3, 8, 8), IMAGE, sparsity=0.98),
    "wavenet": Architecture(WaveNet, (4, 24), (2,), (24, 31)),
    "tcn": Architecture(temporal, (4, 24), (2,), (24, 31)),
    "volumes": Architecture(volumetric, (1, 8, 8, 8), (2, 3, 4), (8, 10), 0.98),
    "autoencoder": Architecture(Autoencoder, (1, 16, 16), sparsity=0.9),
    "gated": Architecture(Gated, (3, 12, 12), IMAGE),
    "mixer": Architecture(Mixer, (6, 12), (1,)),
    "patchwork": Architecture(Patchwork, (3, 8, 8), sparsity=0.98),
}
