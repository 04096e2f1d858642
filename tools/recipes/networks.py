"""The networks that the recipes train: fully connected, ConvNeXt and ViT, all in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fully_connected(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _ChannelsFirstNorm(nn.LayerNorm):
    """LayerNorm over axis 1 of [N, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, norm, MLP of four times the width, scale by layer, residual (arXiv 2201.03545)."""

    def __init__(self, width: int, scale: float, drop_path: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = (self.project(F.gelu(self.expand(y))) * self.scale).permute(0, 3, 1, 2)
        if self.training and self.drop_path:
            kept = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop_path
            y = y * kept / (1 - self.drop_path)
        return x + y


class ConvNeXt(nn.Module):
    """A ConvNeXt for small images.

    Args:
        widths, depths: channels and blocks of each stage.
        stem: stride and kernel of the first convolution; 4 in the published network, 1 or 2 for images of 32 x 32.
        scale: what the scales of the layers start from.
        drop_path: the share of samples that skip the last block in training; earlier blocks less, linearly.
        channels: of an image.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        stem: int = 2,
        classes: int = 10,
        scale: float = 1e-2,
        drop_path: float = 0.0,
        channels: int = 3,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        rates = iter(torch.linspace(0, drop_path, sum(depths)).tolist())
        previous = channels
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stride = stem if stage == 0 else 2
            conv = nn.Conv2d(previous, width, stride if stage or stem > 1 else 3, stride, 1 if stem + stage == 1 else 0)
            layers += [conv, _ChannelsFirstNorm(width)] if stage == 0 else [_ChannelsFirstNorm(previous), conv]
            layers += [_ConvNeXtBlock(width, scale, next(rates)) for _ in range(depth)]
            previous = width
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(previous)
        self.head = nn.Linear(previous, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean((2, 3))))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        parts = (layer(x).view(batch, tokens, self.heads, -1) for layer in (self.queries, self.keys, self.values))
        queries, keys, values = (part.transpose(1, 2) for part in parts)
        found = F.scaled_dot_product_attention(queries, keys, values)
        return self.output(found.transpose(1, 2).reshape(batch, tokens, -1))  # may be fewer than it reads


class _EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.project(F.gelu(self.expand(self.mlp_norm(x))))


class VisionTransformer(nn.Module):
    """A pre-norm ViT with a class token and learnt positions (arXiv 2010.11929)."""

    def __init__(
        self, *, channels: int, image: int, patch: int, width: int, depth: int, heads: int, classes: int = 10
    ) -> None:
        super().__init__()
        tokens = (image // patch) ** 2
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, tokens + 1, width) * 0.02)
        self.layers = nn.Sequential(*(_EncoderLayer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.layers(x))[:, 0])
