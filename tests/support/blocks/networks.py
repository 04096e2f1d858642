"""One or two blocks of each kind of network between a stem and a head, in as many channels as asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.blocks.attention import Attention, CausalAttention, Conv1D, RotaryAttention
from tests.support.blocks.planting import Sizes, linear, tag

FEATURES, CLASSES, POSITIONS, VOCABULARY = 6, 5, 16, 24


def stem(sizes: Sizes) -> nn.Module:
    """From features into the stream."""
    return tag(nn.Linear(FEATURES, sizes["stream"]), "", "stream")


def head(sizes: Sizes, reads: str = "stream") -> nn.Module:
    """From the stream to classes."""
    return tag(nn.Linear(sizes[reads], CLASSES), reads)


def table(sizes: Sizes, count: int) -> nn.Embedding:
    """A table whose rows are written into the stream."""
    embedding = nn.Embedding(count, sizes["stream"])
    tag(embedding, "", "stream")
    return embedding


def perceptron(sizes: Sizes, activation: nn.Module, bias: bool = True) -> nn.Sequential:
    """Two layers, from the stream and back."""
    return nn.Sequential(linear(sizes, "stream", "hidden", bias), activation, linear(sizes, "hidden", "stream", bias))


class Scale(nn.Module):
    """A factor for each channel: layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale [..., width]."""
        return x * self.weight


class RMSNorm(nn.Module):
    """Llama's and T5's, as the library spells it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + 1e-6))


class ConvNext(nn.Module):
    """Depthwise convolution, LayerNorm with channels last, MLP, layer scale, residual."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes["stream"]
        self.stem = tag(nn.Conv2d(3, width, 4, 4), "", "stream", quiet=True)
        self.depthwise = tag(nn.Conv2d(width, width, 7, padding=3, groups=width), "", "stream")
        self.norm, self.mlp, self.scale = nn.LayerNorm(width), perceptron(sizes, nn.GELU()), Scale(width)
        self.last, self.head = nn.LayerNorm(width), head(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify [batch, 3, height, width]."""
        x = self.stem(x)
        y = self.scale(self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(self.last(x.mean((2, 3))))


class Swin(nn.Module):
    """Attention within windows of 4 x 4, shifted in the second block, on an image of 8 x 8 tokens."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes["stream"]
        self.stem = stem(sizes)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])
        self.attentions = nn.ModuleList([WindowAttention(sizes) for _ in range(2)])
        self.mlps = nn.ModuleList([perceptron(sizes, nn.GELU()) for _ in range(2)])
        self.last, self.head = nn.LayerNorm(width), head(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify [batch, 8, 8, features]."""
        x = self.stem(x)
        for block, shift in enumerate((0, 2)):
            y = torch.roll(self.norms[2 * block](x), (-shift, -shift), (1, 2)) if shift else self.norms[2 * block](x)
            y = self.attentions[block](windows(y))
            y = together(y, x.shape[0])
            x = x + (torch.roll(y, (shift, shift), (1, 2)) if shift else y)
            x = x + self.mlps[block](self.norms[2 * block + 1](x))
        return self.head(self.last(x).mean((1, 2)))


def windows(x: Tensor) -> Tensor:
    """[batch, 8, 8, channels] to [batch x 4, 16, channels]."""
    channels = x.shape[3]
    x = x.view(-1, 2, 4, 2, 4, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, channels)


def together(x: Tensor, batch: int) -> Tensor:
    """Undo `windows`."""
    x = x.view(batch, 2, 2, 4, 4, x.shape[2])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, 8, 8, -1)


class WindowAttention(Attention):
    """Scores get a bias of their places in the window from a table."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.table = nn.Embedding(49, sizes["heads"])
        place = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        apart = (place[:, :, None] - place[:, None, :]).permute(1, 2, 0) + 3
        self.register_buffer("index", apart[:, :, 0] * 7 + apart[:, :, 1])

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """[batch x windows, heads, 16, 16]"""
        return super().scores(q, k) + self.table.weight[self.index.view(-1)].view(16, 16, -1).permute(2, 0, 1)[None]


class PreNorm(nn.Module):
    """Each branch normalises what it reads, and a last norm follows."""

    def __init__(self, sizes: Sizes, fused: bool = False, key_bias: bool = True) -> None:
        super().__init__()
        self.stem, self.positions = self.read(sizes), table(sizes, POSITIONS)
        self.norms = nn.ModuleList([nn.LayerNorm(sizes["stream"]) for _ in range(3)])
        self.attention = Attention(sizes, fused, key_bias)
        self.mlp, self.head = perceptron(sizes, QuickGelu()), head(sizes)

    def read(self, sizes: Sizes) -> nn.Module:
        """The layer that reads the input."""
        return stem(sizes)

    def embed(self, x: Tensor) -> Tensor:
        """Into the stream."""
        return self.stem(x) + self.positions.weight[: x.shape[1]]

    def forward(self, x: Tensor) -> Tensor:
        """Classify each of [batch, time, features]."""
        x = self.embed(x)
        x = x + self.attention(self.norms[0](x))
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x))


class QuickGelu(nn.Module):
    """CLIP's activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return x * torch.sigmoid(1.702 * x)


class Whisper(PreNorm):
    """Convolutions over features by time, fused attention, keys without a bias."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes, fused=True, key_bias=False)

    def read(self, sizes: Sizes) -> nn.Module:
        """The layers that read [batch, features, time]."""
        last = tag(nn.Conv1d(8, sizes["stream"], 3, stride=2, padding=1), "", "stream")
        return nn.Sequential(nn.Conv1d(FEATURES, 8, 3, padding=1), nn.GELU(), last)

    def embed(self, x: Tensor) -> Tensor:
        """Into the stream."""
        return self.stem(x).permute(0, 2, 1) + self.positions.weight


class Clip(PreNorm):
    """A class token before the others."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.token = table(sizes, 1)
        for layer in (self.stem, self.token):  # a constant of theirs would not be one at all places
            tag(layer, "", "stream", quiet=True)

    def embed(self, x: Tensor) -> Tensor:
        """Into the stream."""
        token = self.token.weight[None].expand(x.shape[0], -1, -1)
        return torch.cat([token, self.stem(x)], dim=1) + self.positions.weight[: x.shape[1] + 1]


class PostNorm(nn.Module):
    """BERT: the stream itself is normalised; a channel leaves it only where that gives a constant."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.words, self.positions = table(sizes, VOCABULARY), table(sizes, POSITIONS)
        norms = [tag(nn.LayerNorm(sizes["stream"]), "", "stream") for _ in range(3)]
        self.norms = nn.ModuleList(norms)
        self.attention, self.mlp, self.head = Attention(sizes), perceptron(sizes, nn.GELU()), head(sizes)

    def forward(self, ids: Tensor) -> Tensor:
        """Classify each token of [batch, time]."""
        x = self.norms[0](self.words(ids) + self.positions.weight[: ids.shape[1]])
        x = self.norms[1](x + self.attention(x))
        x = self.norms[2](x + self.mlp(x))
        return self.head(x)


class Gpt2(nn.Module):
    """Fused projections, and a head that shares the table of words."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.words, self.positions = table(sizes, VOCABULARY), table(sizes, POSITIONS)
        self.norms = nn.ModuleList([nn.LayerNorm(sizes["stream"]) for _ in range(3)])
        self.attention = CausalAttention(sizes, POSITIONS)
        self.up, self.down = Conv1D(sizes, "stream", "hidden"), Conv1D(sizes, "hidden", "stream")

    def forward(self, ids: Tensor) -> Tensor:
        """Predict the word after each of [batch, time]."""
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        x = x + self.attention(self.norms[0](x))
        x = x + self.down(functional.gelu(self.up(self.norms[1](x)), approximate="tanh"))
        return functional.linear(self.norms[2](x), self.words.weight)


class Llama(nn.Module):
    """RMSNorm, rotary positions, grouped queries, SwiGLU; no biases."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.words = table(sizes, VOCABULARY)
        self.norms = nn.ModuleList([RMSNorm(sizes["stream"]) for _ in range(3)])
        self.attention = RotaryAttention(sizes, POSITIONS)
        self.gate, self.up, self.down = (
            linear(sizes, *axes, bias=False)
            for axes in (("stream", "hidden"), ("stream", "hidden"), ("hidden", "stream"))
        )
        self.head = tag(nn.Linear(sizes["stream"], VOCABULARY, bias=False), "stream")

    def forward(self, ids: Tensor) -> Tensor:
        """Predict the word after each of [batch, time]."""
        x = self.words(ids)
        x = x + self.attention(self.norms[0](x))
        y = self.norms[1](x)
        x = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return self.head(self.norms[2](x))


class T5(nn.Module):
    """RMSNorm, scores with a bias of the distance, no scale, no biases, ReLU."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.words, self.heads = table(sizes, VOCABULARY), sizes["heads"]
        self.norms = nn.ModuleList([RMSNorm(sizes["stream"]) for _ in range(3)])
        self.q, self.k = linear(sizes, "stream", "q", bias=False), linear(sizes, "stream", "k", bias=False)
        self.v, self.o = linear(sizes, "stream", "v", bias=False), linear(sizes, "v", "stream", bias=False)
        self.distances = nn.Embedding(8, sizes["heads"])
        self.mlp, self.head = perceptron(sizes, nn.ReLU(), bias=False), head(sizes)

    def forward(self, ids: Tensor) -> Tensor:
        """Classify each token of [batch, time]."""
        x = self.words(ids)
        batch, time = ids.shape
        y = self.norms[0](x)
        q, k, v = (layer(y).view(batch, time, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        places = torch.arange(time)
        buckets = (places[None] - places[:, None]).abs().clamp(max=7)
        scores = q @ k.transpose(2, 3) + self.distances(buckets).permute(2, 0, 1)[None]
        deferred = torch.softmax(scores, dim=-1) @ v
        x = x + self.o(deferred.transpose(1, 2).reshape(batch, time, -1))
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x))
