"""Tiny networks of three kinds, and an image task that each learns in seconds."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from onnxsqueeze.training import Phase

SIDE, CLASSES = 8, 4


def images(samples: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy images with a bright quarter, and which quarter that is."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(CLASSES, (samples,), generator=generator)
    inputs = torch.randn(samples, 1, SIDE, SIDE, generator=generator)
    half = SIDE // 2
    for label in range(CLASSES):
        row, column = divmod(label, 2)
        inputs[labels == label, :, row * half : (row + 1) * half, column * half : (column + 1) * half] += 0.7
    return inputs, labels


def fit(module: nn.Module, epochs: int = 1, rate: float = 5e-3) -> None:
    """Train with weight decay on all but the last 128 images."""
    inputs, labels = images()
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.05)
    for _ in range(epochs):
        for chosen in torch.randperm(384).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()


def train(module: nn.Module, phase: Phase) -> None:
    """Train for two epochs."""
    fit(module, epochs=2)


def evaluate(module: nn.Module) -> float:
    """Return the accuracy on the last 128 images."""
    inputs, labels = images()
    with torch.no_grad():
        return float((module(inputs[384:]).argmax(1) == labels[384:]).float().mean())


class Residual(nn.Module):
    """Two convolutions with BatchNorm around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(inner)))


def convolutional(width: int = 16) -> nn.Module:
    """Return a network of convolutions with BatchNorm and a residual block."""
    stem = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, CLASSES)]
    return nn.Sequential(*stem, nn.MaxPool2d(2), Residual(width), *head)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of an image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, LayerNorm, and two linear layers with GELU, scaled, around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        inner = self.scale * self.narrow(functional.gelu(self.widen(inner)))
        return x + inner.permute(0, 3, 1, 2)


def convnext(width: int = 12) -> nn.Module:
    """Return two stages of one ConvNeXt block each."""
    first = [nn.Conv2d(1, width, 2, stride=2), ChannelNorm(width), ConvNeXtBlock(width)]
    second = [ChannelNorm(width), nn.Conv2d(width, 2 * width, 2, stride=2), ConvNeXtBlock(2 * width)]
    head = [nn.Flatten(), nn.LayerNorm(8 * width), nn.Linear(8 * width, CLASSES)]
    return nn.Sequential(*first, *second, *head)


class Attention(nn.Module):
    """Self-attention with a pre-norm, and an MLP with another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.widen, self.narrow = (
            nn.Linear(width, width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)
        queries, keys, values = (self.split(part(normed)) for part in (self.query, self.key, self.value))
        found = functional.scaled_dot_product_attention(queries, keys, values)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.gelu(self.widen(self.norm2(x))))


class Transformer(nn.Module):
    """A vision transformer: patches, positions, one block, and the mean of all tokens."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (SIDE // 2) ** 2, width))
        self.block, self.norm = Attention(width, heads), nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.block(tokens)).mean(1))
