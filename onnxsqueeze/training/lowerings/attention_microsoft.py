"""Attention, MultiHeadAttention and GroupQueryAttention of com.microsoft, as onnxruntime computes them on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.lowerings.attending import appended, attend, by_head, earlier, joined, rotated
from onnxsqueeze.training.lowerings.numbers import optional
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering

_DOMAIN = "com.microsoft"
_SHUT = -10000.0  # what masks add by default


def _added(
    queries: Tensor, keys: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, filler: float
) -> Tensor | None:
    """Return what is added to the scores: a bias, and a large negative number where masks shut out a key."""
    found = bias
    if mask is not None:
        shut = torch.zeros((), dtype=queries.dtype, device=queries.device).where(
            _open_keys(queries, keys, mask), filler
        )
        found = shut if found is None else found + shut
    if causal:
        length, total = queries.shape[2], keys.shape[2]
        seen = earlier(length, total, total - length, -1, 0, queries.device)
        later = torch.zeros((), dtype=queries.dtype, device=queries.device).where(seen, filler)
        found = later if found is None else found + later
    return found


def _open_keys(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Return a mask of any of the lowerings that the operators take as bool, to be broadcast against the scores."""
    batch, length, total = queries.shape[0], queries.shape[2], keys.shape[2]
    if mask.ndim == 1:  # where the keys of each sequence end, and where they start
        places = torch.arange(total, device=mask.device)
        inside = places < mask[:batch, None]
        if mask.shape[0] >= 2 * batch:
            inside = inside & (places >= mask[batch : 2 * batch, None])
        return inside[:, None, None]
    if mask.ndim == 2:
        return (mask > 0)[:, None, None]
    return (mask > 0)[:, None] if mask.ndim == 3 else mask[:, :, total - length : total, :total] > 0


@leaf
def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    added: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    heads: int,
    scale: float,
    causal: bool,
    filler: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the operator; keys and values of rank 4 were split by head before.

    Returns:
        The result [batch, positions, channels], keys and values with the cached ones.
    """
    if bias is not None:
        widths = [query.shape[-1], query.shape[-1]]
        parts = bias.tensor_split((widths[0], sum(widths)))
        query, key, value = query + parts[0], key + parts[1], value + parts[2]
    queries = by_head(query, heads)
    keys, values = appended(past_key, by_head(key, heads)), appended(past_value, by_head(value, heads))
    masks = _added(queries, keys, mask, added, causal, filler)
    return joined(attend(queries, keys, values, masks, scale, 0.0, None)), keys, values


@leaf
def projected_attention(
    data: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    past: Tensor | None,
    added: Tensor | None,
    heads: int,
    sizes: list[int] | None,
    scale: float,
    causal: bool,
    filler: float,
) -> tuple[Tensor, Tensor]:
    """Project the data to queries, keys and values of some widths and let them attend.

    Returns:
        The result, and keys and values with the cached ones in one tensor [2, batch, heads, positions, size].
    """
    widths = sizes or [weight.shape[1] // 3] * 3
    parts = torch.split(F.linear(data, weight.T, bias), widths, -1)
    queries, keys, values = (by_head(part, heads) for part in parts)
    if past is not None:
        keys, values = appended(past[0], keys), appended(past[1], values)
    masks = _added(queries, keys, mask, added, causal, filler)
    result = joined(attend(queries, keys, values, masks, scale, 0.0, None))
    return result, torch.stack([keys, values]) if keys.shape == values.shape else keys


@leaf
def group_query_attention(
    operands: tuple[Tensor, Tensor | None, Tensor | None],
    past: tuple[Tensor | None, Tensor | None],
    lengths: tuple[Tensor, Tensor],
    rotation: tuple[Tensor, Tensor, Tensor | None, bool] | None,
    added: Tensor | None,
    sink: Tensor | None,
    heads: tuple[int, int],
    numbers: tuple[float, float],
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the operator.

    Args:
        operands: queries, keys, values; or all three in one tensor.
        past: cached keys and values, which may have room for more.
        lengths: how many keys each of the batch has in all, less 1, and the largest of those numbers, not less 1.
        rotation: tables of cosines and sines, positions, and whether pairs are interleaved.
        added: to the scores. sink: a score without a value, one for each head.
        heads: of queries, and of keys. numbers: scale (0: the usual one) and softcap (0: none).
        causal: whether no later keys are seen. window: how many keys are seen, -1 for all.

    Returns:
        The result, keys and values with the cached ones.
    """
    queries, keys, values = _operands(operands, heads)
    length, total = queries.shape[2], int(lengths[1].reshape(-1)[0])
    ends = lengths[0].reshape(-1).long() + 1
    starts = torch.zeros_like(ends) if length == total else ends - length
    places = starts[:, None] + torch.arange(length, device=queries.device)
    if rotation is not None:
        cosines, sines, positions, interleaved = rotation
        turned = places if positions is None else positions.long()
        queries, keys = (rotated(data, cosines[turned], sines[turned], interleaved) for data in (queries, keys))
    keys, values = _stored(past[0], keys, places, total), _stored(past[1], values, places, total)
    room = min(total, keys.shape[2])
    seen = earlier(length, room, starts, window - 1 if window > 0 else -1, 0 if causal else -1, queries.device)
    seen = seen & (torch.arange(room, device=queries.device) < ends[:, None])[:, None, None]
    mask = seen if added is None else added[..., :room].masked_fill(~seen, -torch.inf)
    result = attend(queries, keys[:, :, :room], values[:, :, :room], mask, numbers[0], numbers[1], sink)
    return joined(result), keys, values


def _operands(operands: tuple[Tensor, Tensor | None, Tensor | None], heads: tuple[int, int]) -> tuple[Tensor, ...]:
    query, key, value = operands
    if key is None or value is None:
        size = query.shape[-1] // (heads[0] + 2 * heads[1])
        query, key, value = torch.split(query, [heads[0] * size, heads[1] * size, heads[1] * size], -1)
    return by_head(query, heads[0]), by_head(key, heads[1]), by_head(value, heads[1])


def _stored(past: Tensor | None, new: Tensor, places: Tensor, total: int) -> Tensor:
    """Write new keys or values to their places in a copy of the cache, which is made longer where need be."""
    if past is None or past.shape[2] == 0:
        return new
    room = max(past.shape[2], total)
    cache = F.pad(past, (0, 0, 0, room - past.shape[2]))
    return cache.scatter(2, places[:, None, :, None].expand(new.shape), new)


@lowering("MultiHeadAttention", domain=_DOMAIN)
def _multi_head_attention(call: NodeCall) -> Result:
    key, value = call.operand(1), call.operand(2)
    if key is None or value is None or call.rank(1) == 5 or call.has(8) or call.has(9) or _shows(call, 3):
        raise _unsupported(call, "packed keys and values, a shared cache or its scores as an output")
    bias, mask, added, past_key, past_value = optional(call, 3, 8)
    found = multi_head_attention(call.tensor(0), key, value, bias, mask, added, past_key, past_value, *_numbers(call))
    return tuple(found[place] for place in range(len(call.node.outputs)))


@lowering("Attention", domain=_DOMAIN)
def _projected_attention(call: NodeCall) -> Result:
    if call.attribute("do_rotary", 0) or call.has(6):
        raise _unsupported(call, "rotation or a shared cache")
    sizes = [int(size) for size in call.attribute("qkv_hidden_sizes", ())] or None
    bias, mask, past, added = optional(call, 2, 6)
    heads, scale, causal, filler = _numbers(call)
    weights = (call.tensor(1), bias)
    found = projected_attention(call.tensor(0), *weights, mask, past, added, heads, sizes, scale, causal, filler)
    return tuple(found[place] for place in range(len(call.node.outputs)))


@lowering("GroupQueryAttention", domain=_DOMAIN)
def _group_query_attention(call: NodeCall) -> Result:
    if any(call.has(position) for position in range(12, 16)) or call.attribute("sliding_window_cache", 0):
        raise _unsupported(call, "a quantized or sliding cache, or normalized queries and keys")
    if _shows(call, 3):
        raise _unsupported(call, "its scores as an output")
    rotation = None
    if call.attribute("do_rotary", 0):
        rotation = (call.tensor(7), call.tensor(8), call.operand(9), bool(call.attribute("rotary_interleaved", 0)))
    heads = int(call.attribute("num_heads"))
    sink = call.operand(11)
    if sink is None and call.attribute("smooth_softmax", 0) > 0:
        sink = call.floating.new_zeros(heads)
    found = group_query_attention(
        (call.tensor(0), call.operand(1), call.operand(2)),
        (call.operand(3), call.operand(4)),
        (call.tensor(5), call.tensor(6)),
        rotation,
        call.operand(10),
        sink,
        (heads, int(call.attribute("kv_num_heads"))),
        (float(call.attribute("scale", 0.0)), float(call.attribute("softcap", 0.0))),
        bool(call.attribute("causal", 1)),
        int(call.attribute("local_window_size", -1)),
    )
    return tuple(found[place] for place in range(len(call.node.outputs)))


def _numbers(call: NodeCall) -> tuple[int, float, bool, float]:
    """Return the attributes that both operators have: heads, scale, causal, and what masks add."""
    return (
        int(call.attribute("num_heads")),
        float(call.attribute("scale", 0.0)),
        bool(call.attribute("unidirectional", 0)),
        float(call.attribute("mask_filter_value", _SHUT)),
    )


def _shows(call: NodeCall, output: int) -> bool:
    return output < len(call.node.outputs) and bool(call.node.outputs[output])


def _unsupported(call: NodeCall, what: str) -> UsageError:
    return UsageError(f"node '{call.node.label}': {call.node.operator} cannot be trained with {what}")
