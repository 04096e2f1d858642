"""Attention as torch code in the wild spells it; the scale is the wide network's in both networks of a pair."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.blocks.planting import Sizes, linear, tag

SCALE = 0.3


class Attention(nn.Module):
    """Self-attention with a projection each for queries, keys and values."""

    def __init__(self, sizes: Sizes, fused: bool = False, key_bias: bool = True) -> None:
        super().__init__()
        self.heads, self.fused = sizes["heads"], fused
        self.q, self.k = linear(sizes, "stream", "q"), linear(sizes, "stream", "k", bias=key_bias)
        self.v, self.o = linear(sizes, "stream", "v"), linear(sizes, "v", "stream")

    def split(self, x: Tensor) -> Tensor:
        """[batch, time, heads x dims] to [batch, heads, time, dims]."""
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """[batch, heads, queries, keys]"""
        return q @ k.transpose(2, 3) * SCALE

    def forward(self, x: Tensor) -> Tensor:
        """Attend within [batch, time, stream]."""
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        if self.fused:
            deferred = functional.scaled_dot_product_attention(q, k, v, scale=SCALE)
        else:
            deferred = torch.softmax(self.scores(q, k), dim=-1) @ v
        return self.o(deferred.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


class CausalAttention(nn.Module):
    """GPT-2: one projection for queries, keys and values, its weight [in, out]; a causal mask."""

    def __init__(self, sizes: Sizes, positions: int) -> None:
        super().__init__()
        self.heads = sizes["heads"]
        assert sizes["q"] == sizes["k"] == sizes["v"], "one layer makes them, and is cut in equal parts"
        self.qkv, self.o = Conv1D(sizes, "stream", "v", parts=3), Conv1D(sizes, "v", "stream")
        self.register_buffer("mask", torch.tril(torch.ones(1, 1, positions, positions, dtype=torch.bool)))

    def forward(self, x: Tensor) -> Tensor:
        """Attend within [batch, time, stream]."""
        q, k, v = (
            part.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2)
        )
        scores = q @ k.transpose(2, 3) * SCALE
        allowed = self.mask[:, :, : x.shape[1], : x.shape[1]]
        scores = scores.masked_fill(~allowed, torch.finfo(x.dtype).min)
        deferred = torch.softmax(scores, dim=-1) @ v
        return self.o(deferred.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


class Conv1D(nn.Module):
    """GPT-2's layer: addmm on a matrix of all positions, its weight stored [in, out]."""

    def __init__(self, sizes: Sizes, reads: str, writes: str, parts: int = 1) -> None:
        super().__init__()
        self.inner = tag(nn.Linear(sizes[reads], sizes[writes] * parts), reads, writes, parts=parts)

    def forward(self, x: Tensor) -> Tensor:
        """Run on [batch, time, in]."""
        y = torch.addmm(self.inner.bias, x.view(-1, x.shape[-1]), self.inner.weight.t())
        return y.view(x.shape[0], x.shape[1], -1)


class RotaryAttention(nn.Module):
    """Llama: rotated queries and keys, whose heads (and the values') are shared by groups of queries' heads."""

    def __init__(self, sizes: Sizes, positions: int) -> None:
        super().__init__()
        self.heads, self.shared = sizes["heads"], sizes["groups"]
        self.q, self.k = linear(sizes, "stream", "q", bias=False), linear(sizes, "stream", "k", bias=False)
        self.v, self.o = linear(sizes, "stream", "v", bias=False), linear(sizes, "o", "stream", bias=False)
        dims = sizes["q"] // self.heads
        angles = torch.arange(positions)[:, None] * 0.7 ** torch.arange(dims // 2)[None]
        self.register_buffer("cos", torch.cos(torch.cat([angles, angles], 1)))
        self.register_buffer("sin", torch.sin(torch.cat([angles, angles], 1)))

    def split(self, x: Tensor, heads: int) -> Tensor:
        """[batch, time, heads x dims] to [batch, heads, time, dims]."""
        return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    def turn(self, x: Tensor) -> Tensor:
        """Rotate each pair of dims by its position's angle."""
        time, half = x.shape[2], x.shape[3] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * self.cos[:time] + turned * self.sin[:time]

    def repeat(self, x: Tensor) -> Tensor:
        """Give each head of the queries its keys or values."""
        batch, heads, time, dims = x.shape
        groups = self.heads // heads
        x = x[:, :, None].expand(batch, heads, groups, time, dims)
        return x.reshape(batch, heads * groups, time, dims)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within [batch, time, stream]."""
        q, k = self.turn(self.split(self.q(x), self.heads)), self.turn(self.split(self.k(x), self.shared))
        v = self.split(self.v(x), self.shared)
        deferred = torch.softmax(q @ self.repeat(k).transpose(2, 3) * SCALE, dim=-1) @ self.repeat(v)
        return self.o(deferred.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
