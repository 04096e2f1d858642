"""What all attention operators have in common: heads, caches, rotation, masks, and the attention itself."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.training.lowerings.patterns import guarded_softmax


def by_head(data: Tensor, heads: int | None) -> Tensor:
    """Return [batch, positions, channels] as [batch, heads, positions, size]; what has an axis for heads as it is."""
    if data.ndim == 4:
        return data
    assert heads
    return data.reshape(*data.shape[:2], heads, data.shape[2] // heads).transpose(1, 2)


def joined(data: Tensor) -> Tensor:
    """Return [batch, heads, positions, size] as [batch, positions, channels]."""
    return data.transpose(1, 2).flatten(2)


def appended(past: Tensor | None, new: Tensor) -> Tensor:
    """Return cached keys or values with the new ones behind them."""
    return new if past is None else torch.cat([past, new], 2)


def rotated(data: Tensor, cosines: Tensor, sines: Tensor, interleaved: bool) -> Tensor:
    """Turn pairs of elements of each head by angles that depend on the position.

    Args:
        data: [batch, heads, positions, size], of which the last axis may have more elements than are turned.
        cosines, sines: [batch or 1, positions, pairs].
        interleaved: whether a pair stands side by side, else its second element half of the turned ones further on.
    """
    pairs = cosines.shape[-1]
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    turned, rest = data[..., : 2 * pairs], data[..., 2 * pairs :]
    if interleaved:
        first, second = turned.reshape(*turned.shape[:-1], pairs, 2).unbind(-1)
        parts = torch.stack([first * cosines - second * sines, first * sines + second * cosines], -1).flatten(-2)
    else:
        first, second = turned[..., :pairs], turned[..., pairs:]
        parts = torch.cat([first * cosines - second * sines, first * sines + second * cosines], -1)
    return parts if rest.shape[-1] == 0 else torch.cat([parts, rest], -1)


def earlier(queries: int, keys: int, offset: Tensor | int, left: int, right: int, device: torch.device) -> Tensor:
    """Return which keys a query may see: from ``left`` before it to ``right`` behind it, no limit where negative.

    The first query stands at key ``offset``, an int or one for each of the batch.

    Returns:
        bool [queries, keys], or [batch, 1, queries, keys].
    """
    start = offset.reshape(-1, 1, 1, 1) if isinstance(offset, Tensor) else offset
    places = torch.arange(queries, device=device)[:, None] + start
    distance = places - torch.arange(keys, device=device)
    seen = torch.ones_like(distance, dtype=torch.bool)
    if left >= 0:
        seen = seen & (distance <= left)
    return seen & (distance >= -right) if right >= 0 else seen


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float, sink: Tensor | None
) -> Tensor:
    """Return the values averaged by what queries and keys say, [batch, heads, queries, value size].

    A query that sees no key gets zeros, and gives no gradient (so do torch's kernels since 2.5).

    Args:
        query: [batch, heads, queries, size]. key, value: [batch, groups, keys, ...], shared by equally many heads.
        mask: bool, True where a key is seen, or what is added to the scores; broadcasts against the scores.
        scale: what the products are multiplied by; 0 for the usual one.
        softcap: a bound of the scores before the mask, 0 for none.
        sink: [heads], a score without a value.
    """
    factor = scale or 1 / math.sqrt(query.shape[-1])
    if softcap or sink is not None:
        probabilities = attention_steps(query, key, mask, factor, softcap, sink)[3]
        return probabilities @ shared(value, query)
    key, value = shared(key, query), shared(value, query)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=factor)


def attention_steps(
    query: Tensor, key: Tensor, mask: Tensor | None, factor: float, softcap: float, sink: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the scores, the scores bounded, those masked, and the probabilities; arguments as for `attend`."""
    scores = query @ shared(key, query).transpose(-1, -2) * factor
    bounded = softcap * torch.tanh(scores / softcap) if softcap else scores
    masked = bounded if mask is None else _masked(bounded, mask)
    if sink is None:
        return scores, bounded, masked, guarded_softmax(masked, -1)
    column = sink.reshape(1, -1, 1, 1).expand(*masked.shape[:-1], 1)
    return scores, bounded, masked, torch.softmax(torch.cat([masked, column], -1), -1)[..., :-1]


def shared(data: Tensor, query: Tensor) -> Tensor:
    """Return keys or values once for each head of the queries."""
    repeats = query.shape[1] // data.shape[1]
    return data if repeats == 1 else data.repeat_interleave(repeats, 1)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
