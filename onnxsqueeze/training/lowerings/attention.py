"""Attention of ONNX, opset 23 and later."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onnxsqueeze.training.lowerings.attending import appended, attend, attention_steps, by_head, earlier, joined, shared
from onnxsqueeze.training.lowerings.numbers import optional
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering

Settings = tuple[int | None, int | None, bool, float, float, int, int]


@leaf
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    lengths: Tensor | None,
    settings: Settings,
    shown: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Compute the operator.

    Args:
        query, key, value: [batch, heads, positions, size] or [batch, positions, channels].
        mask: bool or added to the scores; one that is too short shuts out the keys that it does not mention.
        past_key, past_value: cached ones. lengths: how many of the keys are no padding, for each of the batch.
        settings: how many heads queries and keys have, whether they are causal, scale (0: the usual one), softcap,
            and the window to the left and to the right (-1: none).
        shown: which step of the scores to return as well, None for none.

    Returns:
        The result, keys and values with the cached ones, and scores.
    """
    query_heads, key_heads, causal, scale, softcap, left, right = settings
    queries = by_head(query, query_heads)
    keys, values = (appended(past, by_head(new, key_heads)) for past, new in ((past_key, key), (past_value, value)))
    offset = 0 if past_key is None else past_key.shape[2]
    seen = _seen(queries, keys, mask, lengths, offset, (left, 0 if causal else right))
    scores = None
    if shown is None:
        result = attend(queries, keys, values, seen, scale, softcap, None)
    else:
        steps = attention_steps(queries, keys, seen, scale or 1 / math.sqrt(queries.shape[-1]), softcap)
        result, scores = steps[3] @ shared(values, queries), steps[shown]
    return result if query.ndim == 4 else joined(result), keys, values, scores


def _seen(
    queries: Tensor,
    keys: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    offset: int,
    window: tuple[int, int],
) -> Tensor | None:
    """Return everything that masks scores as one tensor, None if nothing does."""
    total = keys.shape[2]
    found = None
    if max(window) >= 0:
        start = offset if lengths is None else lengths - queries.shape[2]
        found = earlier(queries.shape[2], total, start, *window, queries.device)
    if lengths is not None:
        inside = (torch.arange(total, device=queries.device) < lengths[:, None])[:, None, None]
        found = inside if found is None else found & inside
    if mask is None:
        return found
    missing = total - mask.shape[-1]
    if missing > 0:
        value = False if mask.dtype == torch.bool else -torch.inf
        mask = torch.cat([mask, mask.new_full((*mask.shape[:-1], missing), value)], -1)
    if found is None:
        return mask
    return mask & found if mask.dtype == torch.bool else mask.masked_fill(~found, -torch.inf)


@lowering("Attention", since=23)
def _attention(call: NodeCall) -> Result:
    settings = (
        call.attribute("q_num_heads"),
        call.attribute("kv_num_heads"),
        bool(call.attribute("is_causal", 0)),
        float(call.attribute("scale", 0.0)),
        float(call.attribute("softcap", 0.0)),
        int(call.attribute("left_window_size", -1)),
        int(call.attribute("right_window_size", -1)),
    )
    outputs = call.node.outputs
    shown = int(call.attribute("qk_matmul_output_mode", 0)) if len(outputs) > 3 and outputs[3] else None
    mask, past_key, past_value, lengths = optional(call, 3, 7)
    operands = (call.tensor(0), call.tensor(1), call.tensor(2))
    found = attention(*operands, mask, past_key, past_value, lengths, settings, shown)
    return tuple(found[place] for place in range(len(outputs)))
