"""Conv and ConvTranspose in any number of dimensions, with groups, dilations, strides and auto_pad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.rule import linear_rule
from onnxsqueeze.operators.linear.view import constant_weight, linear_view
from onnxsqueeze.operators.windows import pads_image_by_zeros, window_shape
from onnxsqueeze.rules.contract import Context, Refusal, ScoreRows
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.weight_view import Linear


def _common(node: Node, context: Context) -> Array | Refusal:
    weight = constant_weight(node, context, 1)
    if isinstance(weight, Refusal):
        return weight
    if weight.size == 0 or context.rank(node.inputs[0]) != weight.ndim:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    transposed, groups = node.op == "ConvTranspose", int(node.attributes.get("group", 1))
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    if node.input(2) and context.shapes.get(node.inputs[2]) != (channels,):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} with a bias of another shape than [channels]")
    return weight


def _pads_zeros(node: Node, kernel: tuple[int, ...]) -> bool:
    """Whether some position sees fewer than all taps of the kernel."""
    if node.attributes.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return any(size > 1 for size in kernel)  # the amount depends on the image size
    return any(pad > 0 for pad in node.attributes.get("pads", ())) and node.attributes.get("auto_pad") != "VALID"


def _behind_pad(node: Node, context: Context) -> bool:
    """Whether a Pad in front of the convolution does its padding."""
    producer = context.graph.producers.get(node.inputs[0])
    return producer is not None and pads_image_by_zeros(producer, context)


def _linear(node: Node, matrix: Array, zero_padded: bool, restore: Callable[[Array], Array]) -> Linear:
    return Linear(
        data=node.inputs[0],
        weight=node.inputs[1],
        bias=node.input(2),
        position=1,
        data_axis=1,
        output_axis=1,
        matrix=matrix,
        zero_padded=zero_padded,
        restore=restore,
    )


@linear_view
def _conv(node: Node, context: Context) -> Linear | Refusal:
    """y[o] = b[o] + sum over i, t of W[o, i, t] x[i, position + t], per group."""
    weight = _common(node, context)
    if isinstance(weight, Refusal):
        return weight
    out, inner, *kernel = weight.shape
    groups = int(node.attributes.get("group", 1))
    matrix = weight.reshape(groups, out // groups, inner, -1)
    zero_padded = _pads_zeros(node, tuple(kernel)) or _behind_pad(node, context)
    return _linear(node, matrix, zero_padded, lambda array: array.reshape(-1, array.shape[2], *kernel))


@linear_view
def _conv_transpose(node: Node, context: Context) -> Linear | Refusal:
    """The transpose of Conv, W[in, out per group, taps]: positions differ in how many taps reach them."""
    weight = _common(node, context)
    if isinstance(weight, Refusal):
        return weight
    inner, out, *kernel = weight.shape
    groups = int(node.attributes.get("group", 1))
    matrix = weight.reshape(groups, inner // groups, out, -1).transpose(0, 2, 1, 3)
    zero_padded = bool(np.prod(kernel) > 1 or any(stride > 1 for stride in node.attributes.get("strides", ())))
    return _linear(
        node, matrix, zero_padded, lambda array: array.transpose(0, 2, 1, 3).reshape(-1, array.shape[1], *kernel)
    )


def _conv_shape(node: Node, context: Context) -> Sequence[Shape | None]:
    shape = context.shapes.get(node.inputs[1])
    kernel = [] if shape is None else [size for size in shape[2:] if isinstance(size, int)]
    return [None] if shape is None else window_shape(node, context, shape[0], kernel)


def _window(node: Node, linear: Linear) -> tuple[list[int], list[int], list[int]]:
    """Return the strides and dilations of a kernel, and over how many places it reaches along each axis of space."""
    kernel = linear.restore(linear.matrix).shape[2:]
    strides, dilations = (list(node.attributes.get(name, [1] * len(kernel))) for name in ("strides", "dilations"))
    return strides, dilations, [step * (size - 1) + 1 for step, size in zip(dilations, kernel, strict=True)]


def _patches(node: Node, linear: Linear, data: Array) -> Array:
    """Return what the kernel sees at each place of images [N, C, *space], as a view [N, *places, C, *kernel]."""
    strides, dilations, extents = _window(node, linear)
    rank = len(extents)
    pads = _pads(node, data.shape[2:], extents, strides)
    padded = np.pad(data, [(0, 0), (0, 0), *pads]) if any(map(any, pads)) else data
    axes = tuple(range(2, 2 + rank))
    seen = np.lib.stride_tricks.sliding_window_view(padded, extents, axes)
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    seen = seen[tuple([slice(None)] * 2 + steps)]
    return np.moveaxis(seen, 1, 1 + rank)


def _pads(node: Node, space: Sequence[int], extents: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return the zeros before and after each axis of images of a size."""
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return [(0, 0)] * len(space)
    if mode == "NOTSET":
        pads = list(node.attributes.get("pads", [0] * (2 * len(space))))
        return list(zip(pads[: len(space)], pads[len(space) :], strict=True))
    found = []
    for size, extent, stride in zip(space, extents, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + extent - size)
        less, more = total // 2, total - total // 2
        found.append((less, more) if mode == "SAME_UPPER" else (more, less))
    return found


def _transposed_patches(node: Node, linear: Linear, data: Array) -> Array:
    """Return what each place of the output sums up, as `_patches` does of Conv: between the inputs there are zeros."""
    strides, dilations, extents = _window(node, linear)
    rank, space = len(extents), data.shape[2:]
    stuffed = np.zeros(
        (*data.shape[:2], *((n - 1) * step + 1 for n, step in zip(space, strides, strict=True))), data.dtype
    )
    stuffed[tuple([slice(None)] * 2 + [slice(None, None, step) for step in strides])] = data
    for axis, (cut, size) in enumerate(_places_of_transposed(node, space, extents, strides), start=2):
        stuffed = _shifted(stuffed, axis, extents[axis - 2] - 1 - cut, size + extents[axis - 2] - 1)
    axes = tuple(range(2, 2 + rank))
    seen = np.lib.stride_tricks.sliding_window_view(stuffed, extents, axes)
    seen = seen[tuple([slice(None)] * (2 + rank) + [slice(None, None, -step) for step in dilations])]
    return np.moveaxis(seen, 1, 1 + rank)


def _places_of_transposed(
    node: Node, space: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Return for each axis of a ConvTranspose how much is cut off in front, and how many places are left."""
    rank, mode = len(space), node.attributes.get("auto_pad", "NOTSET")
    more = list(node.attributes.get("output_padding", [0] * rank))
    whole = [(n - 1) * step + extent for n, step, extent in zip(space, strides, extents, strict=True)]
    wanted = list(node.attributes.get("output_shape", ()))[-rank:]
    if not wanted and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * step for n, step in zip(space, strides, strict=True)]
    if not wanted:
        pads = list(node.attributes.get("pads", [0] * (2 * rank))) if mode == "NOTSET" else [0] * (2 * rank)
        return [(pads[i], whole[i] - pads[i] - pads[i + rank] + more[i]) for i in range(rank)]
    found = []
    for axis, size in enumerate(wanted):
        total = max(0, whole[axis] + more[axis] - size)
        found.append((total // 2 if mode == "SAME_UPPER" else total - total // 2, size))
    return found


def _shifted(array: Array, axis: int, front: int, length: int) -> Array:
    """Return an array with zeros in front along an axis, or less of it, and of a length."""
    own = np.take(array, np.arange(max(0, -front), array.shape[axis]), axis)
    widths = [(0, 0)] * array.ndim
    widths[axis] = (max(0, front), max(0, length - max(0, front) - own.shape[axis]))
    return np.take(np.pad(own, widths), np.arange(length), axis)


def _alignment(node: Node, context: Context) -> tuple[int, int]:
    """Grouped convolutions, unless depthwise, are blocked group by group."""
    linear = _conv(node, context)
    grouped = isinstance(linear, Linear) and linear.groups > 1 and not linear.depthwise
    return (int(node.attributes["group"]), 16) if grouped else (1, 4)


def _bias(node: Node, context: Context) -> Array | None:
    bias = context.value(node.input(2))
    return None if bias is None else bias.reshape(-1, *(1,) * (context.rank(node.outputs[0]) - 2))


register(
    replace(
        linear_rule("Conv", _conv, beside=True),
        infer=_conv_shape,
        alignment=_alignment,
        patches=_patches,
        optional_bias=_bias,
        rows=ScoreRows(finite=lambda node, context: True),
    ),
    replace(linear_rule("ConvTranspose", _conv_transpose), patches=_transposed_patches),
)
