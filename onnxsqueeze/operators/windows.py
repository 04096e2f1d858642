"""Spatial sizes of sliding windows, symbolic ones included, so that equal images stay recognisably equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.symbolic import Dimension, Shape
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context


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


def _pads(node: Node, context: Context) -> list[tuple[int, int]] | None:
    """Return (before, after) for each axis, None where they are computed."""
    rank = context.rank(node.inputs[0])
    given = node.attributes.get("pads") if "pads" in node.attributes else context.integers(node.input(1))
    if given is None:
        return None
    axes = context.integers(node.input(3)) if node.input(3) else list(range(len(given) // 2))
    if axes is None:
        return None
    pads = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        pads[axis % rank] = (int(given[place]), int(given[place + len(axes)]))
    return pads


def _value(node: Node, context: Context) -> float | None:
    if node.input(2):
        array = context.value(node.inputs[2])
        return None if array is None else float(array.astype(np.float64).ravel()[0])
    return float(node.attributes.get("value", 0.0))


def _mode(node: Node) -> str:
    return str(node.attributes.get("mode", "constant"))


def pads_image_by_zeros(node: Node, context: Context) -> bool:
    """Whether a node pads nothing but space, by zeros, for one convolution alone: it is that convolution's padding.

    Its output is then taken to have the intervals of its input, and the convolution knows that its border sees zeros.
    """
    if node.op != "Pad" or node.domain or _mode(node) != "constant" or _value(node, context) != 0.0:
        return False
    pads, reader = _pads(node, context), context.graph.sole_reader(node.outputs[0])
    if pads is None or reader is None or reader[1] != 0 or reader[0].op not in ("Conv", "ConvTranspose"):
        return False
    return pads[0] == pads[1] == (0, 0) and context.value(reader[0].inputs[1]) is not None
