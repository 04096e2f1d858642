"""How QuantizeLinear and DequantizeLinear, of the standard and of onnxruntime, say what codes stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Node
from onnxsqueeze.rules.codes import Codes
from onnxsqueeze.rules.contract import Context, Demand, Refusal
from onnxsqueeze.rules.kept import Kept, part_of
from onnxsqueeze.rules.memo import per_node
from onnxsqueeze.rules.rewriter import Rewriter

DOMAINS = (ONNX_DOMAIN, "com.microsoft")
SCALE, ZERO_POINT = 1, 2
_AXIS = 1  # by default


@per_node
def codes_at(node: Node, context: Context) -> Codes | Refusal:
    """Return how codes and real numbers belong together at a node; of a scale that is computed only the size counts.

    A scale that is computed at run time stands as NaN.
    """
    codes = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
    if codes not in context.dtypes or any(name and name not in context.shapes for name in node.inputs):
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    scale, zero = context.value(node.input(SCALE)), context.value(node.input(ZERO_POINT))
    if scale is None or (zero is None and node.input(ZERO_POINT)):
        if any(size != 1 for name in node.inputs[1:] if name for size in context.shape(name)):
            return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
        scale = np.full((), np.nan, tensor_dtype_to_np_dtype(context.dtypes[node.input(SCALE)]))
        return Codes(codes, tensor_dtype_to_np_dtype(context.dtypes[codes]), scale)
    if not np.isfinite(scale.astype(np.float64)).all() or (node.op == "QuantizeLinear" and not (scale > 0).all()):
        return Refusal(Reason.NOT_FINITE, node.input(SCALE))
    rank = context.rank(node.inputs[0])
    axis, block = int(node.attributes.get("axis", _AXIS)), int(node.attributes.get("block_size", 0))
    found = Codes(
        codes,
        tensor_dtype_to_np_dtype(context.dtypes[codes]),
        scale,
        zero,
        axis % max(1, rank),
        block if scale.ndim else 0,
    )
    return found if _fits(found, context.shape(node.inputs[0])) else Refusal(Reason.UNKNOWN_SHAPE, node.operator)


def _fits(codes: Codes, shape: Sequence[Any]) -> bool:
    """Whether scales have the shape that a tensor asks for."""
    if codes.per_tensor:
        return codes.zero_point is None or codes.zero_point.size == 1
    if codes.zero_point is not None and codes.zero_point.shape != codes.scale.shape:
        return False
    length = shape[codes.axis] if codes.axis < len(shape) else None
    if not isinstance(length, int):
        return False
    if not codes.block:
        return codes.scale.shape == (length,)
    blocks = -(-length // codes.block)
    return codes.scale.shape == (*shape[: codes.axis], blocks, *shape[codes.axis + 1 :])


def applies(node: Node, context: Context) -> Refusal | None:
    """Refuse what the scales do not fit, and blocks of activations, which are codes for few runtimes."""
    found = codes_at(node, context)
    if isinstance(found, Refusal):
        return found
    return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} of blocks") if found.block else None


def need(node: Node, context: Context, outputs: Sequence[Any]) -> Sequence[Demand | None]:
    """An element is live where its output is needed; scales are read whole."""
    everything = np.full((), True)
    read = [Demand(everything, everything, Reason.CONSTANT_READ, node.operator) for _ in node.inputs[1:]]
    return [Demand(outputs[0]), *read]


def repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the scales and zero points of channels."""
    found = codes_at(node, context)
    assert isinstance(found, Codes)
    if found.per_tensor:
        return
    kept = rewriter.positions(node.outputs[0], found.axis)
    if kept.all():
        return
    for position in (SCALE, ZERO_POINT):
        value = context.value(node.input(position)) if node.input(position) else None
        if value is not None:
            rewriter.set_constant(node, position, part_of(value, (kept,)), (kept,))


def sliced_from(node: Node, context: Context, kept: Kept) -> Sequence[Kept | None] | None:
    """A part of a constant is made of the same part of the other, and of the scales that belong to it."""
    found = codes_at(node, context)
    if isinstance(found, Refusal) or np.isnan(found.scale.astype(np.float64)).any():
        return None
    scales = found.kept_scales(kept)
    return None if scales is None else [kept, *(scales for _ in node.inputs[1:])]
