"""DynamicQuantizeLSTM's weights: codes [D, I, G H] with one scale and zero point for each direction or each column."""

from __future__ import annotations

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, all_finite
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Refusal
from onnxsqueeze.rules.rewriter import Rewriter

KERNEL, RECURRENT = 1, 2
NUMBERS = {KERNEL: (8, 9), RECURRENT: (10, 11)}
"""By the position of a weight those of its scales and zero points, [D] or [D, G H]."""


def coded_weight(node: Node, context: Context, position: int) -> tuple[Array, Array] | Refusal:
    """Return a weight in real numbers and its codes, both [D, G H, I] as views, or why there is none."""
    codes = context.value(node.input(position))
    scale, zero = (context.value(node.input(place)) for place in NUMBERS[position])
    if codes is None or scale is None or zero is None:
        return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
    if codes.dtype not in (np.int8, np.uint8) or zero.dtype != codes.dtype:
        return Refusal(Reason.UNSUPPORTED_DTYPE, f"{node.operator} {codes.dtype}")
    if codes.ndim != 3 or any(number.shape not in (codes.shape[:1], codes.shape[::2]) for number in (scale, zero)):
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    if not all_finite(scale):
        return Refusal(Reason.NOT_FINITE, node.inputs[NUMBERS[position][0]])
    zeros, scales = (number.reshape(len(codes), 1, -1).astype(np.float64) for number in (zero, scale))
    real = ((codes.astype(np.float64) - zeros) * scales).astype(scale.dtype)
    return real.swapaxes(1, 2), codes.swapaxes(1, 2)


def slice_numbers(node: Node, rewriter: Rewriter, position: int, kept: Bools) -> None:
    """Write the scales and zero points of the directions and units [D, H] that stay, equally many in each direction."""
    directions = kept.any(axis=1)
    for place in NUMBERS[position]:
        array = rewriter.constant_at(node, place)
        assert array is not None
        if array.ndim == 1:
            rewriter.set_constant(node, place, array[directions])
            continue
        gates = array.shape[1] // kept.shape[1]
        chosen = np.tile(kept, (1, gates))
        rewriter.set_constant(node, place, array[chosen].reshape(int(directions.sum()), -1))
