"""Spatial sizes of sliding windows, symbolic ones included, so that equal images stay recognisably equal."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsqueeze.dimension import Dimension, Shape
from onnxsqueeze.graph import Node
from onnxsqueeze.rule import Context


def window_shape(node: Node, context: Context, channels: Dimension, kernel: Sequence[int]) -> Sequence[Shape | None]:
    """Return the output shape of a convolution or a pool, None where onnx's own inference should say.

    Args:
        channels: the output's channel count.
        kernel: the window's sides.
    """
    if node.inputs[0] not in context.shapes:
        return [None]
    batch, _, *space = context.shape(node.inputs[0])
    rank = len(space)
    if len(kernel) != rank or node.attributes.get("ceil_mode", 0):
        return [None]
    strides = node.attributes.get("strides", [1] * rank)
    dilations = node.attributes.get("dilations", [1] * rank)
    pads = node.attributes.get("pads", [0] * (2 * rank))
    mode = node.attributes.get("auto_pad", "NOTSET")
    sizes = []
    for axis, size in enumerate(space):
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            sizes.append(_strided(size, -1, strides[axis]))
        else:
            padding = 0 if mode == "VALID" else pads[axis] + pads[axis + rank]
            sizes.append(_strided(size, padding - extent, strides[axis]))
    return [(batch, channels, *sizes)]


def _strided(size: Dimension, change: int, stride: int) -> Dimension:
    """Return (size + change) // stride + 1."""
    if stride == 1:
        return _plus(size, change + 1)
    return _plus(_plus(size, change) // stride, 1)


def _plus(size: Dimension, change: int) -> Dimension:
    return size if change == 0 else size + change if change > 0 else size - (-change)
