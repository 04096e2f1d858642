"""RotaryEmbedding of ONNX and of com.microsoft."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxsqueeze.training.lowerings.attending import by_head, joined, rotated
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering


@leaf
def rotary_embedding(
    data: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor | None, heads: int, interleaved: bool
) -> Tensor:
    """Turn pairs of elements of each head by the angles of their position.

    Args:
        data: [batch, heads, positions, size] or [batch, positions, channels].
        cosines, sines: [batch, positions, pairs], or with ``positions`` tables [longest, pairs].
        positions: [batch, positions], or one number, the first position.
        heads: their number, if they have no axis of their own; 0 if a head is as wide as the tables say.
        interleaved: see `rotated`.
    """
    heads = heads or data.shape[-1] // (2 * cosines.shape[-1])
    split = by_head(data, heads)
    if positions is not None:
        places = positions.long()
        if places.numel() == 1:
            places = places.reshape(1, 1) + torch.arange(split.shape[2], device=data.device)
        cosines, sines = cosines[places], sines[places]
    turned = rotated(split, cosines, sines, interleaved)
    return turned if data.ndim == 4 else joined(turned)


@lowering("RotaryEmbedding", since=23)
def _rotary_embedding(call: NodeCall) -> Result:
    heads, interleaved = int(call.attribute("num_heads", 0)), bool(call.attribute("interleaved", 0))
    return rotary_embedding(call.tensor(0), call.tensor(1), call.tensor(2), call.operand(3), heads, interleaved)


@lowering("RotaryEmbedding", domain="com.microsoft")
def _rotary_embedding_microsoft(call: NodeCall) -> Result:
    heads, interleaved = int(call.attribute("num_heads", 0)), bool(call.attribute("interleaved", 0))
    return rotary_embedding(call.tensor(0), call.tensor(2), call.tensor(3), call.operand(1), heads, interleaved)
