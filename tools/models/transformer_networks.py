"""Networks with LayerNorm and attention for tools/measure/bench_minimize.py, tagged as those of networks.py are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.models.networks import IMAGE, Axis, linear, tagged

HEAD_DIM = 64
CONVNEXT_TINY = ((96, 3), (192, 3), (384, 9), (768, 3))
"""(channels, blocks) of each stage"""


def layer_norm(axis: Axis, writes: bool = False) -> nn.Module:
    """A LayerNorm over a stream; it ``writes`` the stream where its output goes on as that."""
    norm = tagged(nn.LayerNorm(axis.size, eps=1e-6), axis)
    norm.writes = writes  # type: ignore[assignment]
    return norm


class Scale(nn.Module):
    """A factor per channel of a channels-last tensor: ConvNeXt's layer scale."""

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((axis.size,), 0.1))
        tagged(self, axis)

    def forward(self, x: Tensor) -> Tensor:
        """Scale [..., channels]."""
        return x * self.weight


class ChannelsLast(nn.Module):
    """Runs a module on [batch, height, width, channels]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Run on [batch, channels, height, width]."""
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise convolution, LayerNorm and a scaled MLP beside the stream."""

    def __init__(self, stream: Axis, hidden: Axis) -> None:
        super().__init__()
        depthwise = nn.Conv2d(stream.size, stream.size, 7, padding=3, groups=stream.size)
        self.depthwise = tagged(depthwise, stream)
        mlp = nn.Sequential(
            layer_norm(stream), linear(stream, hidden), nn.GELU(), linear(hidden, stream), Scale(stream)
        )
        self.mlp = ChannelsLast(mlp)

    def forward(self, x: Tensor) -> Tensor:
        """Run on [batch, channels, height, width]."""
        return x + self.mlp(self.depthwise(x))


def convnext_tiny(inner: float = 1.0, stream: float = 1.0) -> nn.Sequential:
    """ConvNeXt-Tiny for RGB images, 28 million weights; ``inner`` scales its MLPs, ``stream`` its channels."""
    axes = [Axis(f"stage{index}", round(width * stream), True) for index, (width, _) in enumerate(CONVNEXT_TINY)]
    layers: list[nn.Module] = [tagged(nn.Conv2d(3, axes[0].size, 4, 4), axes[0], IMAGE)]
    layers.append(ChannelsLast(layer_norm(axes[0], writes=True)))
    for index, (axis, (width, depth)) in enumerate(zip(axes, CONVNEXT_TINY, strict=True)):
        if index:
            before = axes[index - 1]
            layers += [
                ChannelsLast(layer_norm(before)),
                tagged(nn.Conv2d(before.size, axis.size, 2, 2), axis, before),
            ]
        hidden = [Axis(f"stage{index}.block{block}", round(4 * width * inner)) for block in range(depth)]
        layers += [ConvNextBlock(axis, each) for each in hidden]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer_norm(axes[-1]), linear(axes[-1], Axis("classes", 1000))]
    return nn.Sequential(*layers, *head)


class SelfAttention(nn.Module):
    """Heads of 64 dims; queries, keys and values stand on one axis, so that a head is masked in all three."""

    def __init__(self, stream: Axis, heads: Axis) -> None:
        super().__init__()
        self.query, self.key, self.value = (linear(stream, heads) for _ in range(3))
        self.output = linear(heads, stream)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within [batch, tokens, channels]."""
        query, key, value = (
            layer(x).unflatten(2, (-1, HEAD_DIM)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


class PostNormBlock(nn.Module):
    """BERT's encoder layer: attention and MLP, each followed by a LayerNorm of the stream."""

    def __init__(self, stream: Axis, heads: Axis, hidden: Axis) -> None:
        super().__init__()
        self.attention, self.first = SelfAttention(stream, heads), layer_norm(stream)
        self.mlp = nn.Sequential(linear(stream, hidden), nn.GELU(), linear(hidden, stream))
        self.second = layer_norm(stream)

    def forward(self, x: Tensor) -> Tensor:
        """Run on [batch, tokens, channels]."""
        x = self.first(x + self.attention(x))
        return self.second(x + self.mlp(x))


class Embeddings(nn.Module):
    """Token and position tables and their LayerNorm."""

    def __init__(self, vocabulary: int, positions: int, stream: Axis) -> None:
        super().__init__()
        self.tokens = tagged(nn.Embedding(vocabulary, stream.size), Axis("vocabulary", vocabulary), stream)
        self.positions = tagged(nn.Embedding(positions, stream.size), Axis("positions", positions), stream)
        self.norm = layer_norm(stream)

    def forward(self, ids: Tensor) -> Tensor:
        """Look up [batch, tokens] of int64."""
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.norm(self.tokens(ids) + self.positions(places))


def bert_base(inner: float = 1.0) -> nn.Sequential:
    """BERT-base with a classifier of two classes, 109 million weights; ``inner`` scales its heads and MLPs."""
    stream = Axis("stream", 768)
    layers: list[nn.Module] = [Embeddings(30522, 512, stream)]
    for index in range(12):
        heads = Axis(f"block{index}.heads", round(12 * inner) * HEAD_DIM, block=HEAD_DIM)
        layers.append(PostNormBlock(stream, heads, Axis(f"block{index}.hidden", round(3072 * inner))))
    return nn.Sequential(*layers, _FirstToken(), linear(stream, Axis("classes", 2)))


class _FirstToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Select the first token of [batch, tokens, channels]."""
        return x[:, 0]
