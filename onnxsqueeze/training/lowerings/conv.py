"""Conv and ConvTranspose in one to three dimensions."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering
from onnxsqueeze.training.lowerings.windows import padded, window_of

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _kernel(call: NodeCall) -> tuple[int, ...]:
    shape = call.shape(1) or ()
    sizes = [size for size in shape[2:] if isinstance(size, int)]
    given = call.attribute("kernel_shape", sizes)
    if len(given) not in _CONV:
        raise UsageError(f"node '{call.node.label}': a convolution over {len(given)} dimensions cannot be trained")
    return tuple(int(size) for size in given)


def _bias(call: NodeCall) -> Tensor | None:
    """Leave out the zeros that an exporter computed for a missing bias."""
    value = call.value(2)
    return None if value is not None and not value.any() else call.operand(2)


@lowering("Conv")
def convolution(call: NodeCall) -> Tensor:
    """torch's convolution; padding that differs between the sides comes before it."""
    kernel = _kernel(call)
    window = window_of(call, kernel)
    x = call.tensor(0) if window.symmetric else padded(call.tensor(0), window)
    padding = window.before if window.symmetric else (0,) * len(kernel)
    groups = int(call.attribute("group", 1))
    result: Tensor = _CONV[len(kernel)](
        x, call.tensor(1), _bias(call), window.strides, padding, window.dilations, groups
    )
    return result


@leaf
def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    groups: int,
    pads: tuple[tuple[int, int], ...] | None,
    output: tuple[int, ...] | None,
    extra: tuple[int, ...],
    lower: bool,
) -> Tensor:
    """Compute the whole transposed convolution and cut off what padding leaves out.

    Args:
        pads: positions to cut off each axis on both sides, None where ``output`` decides.
        output: the sizes to be left, None where ``pads`` decide.
        extra: positions added behind. lower: whether the larger half is cut off in front.
    """
    rank = len(strides)
    whole = _TRANSPOSED[rank](x, weight, bias, strides, 0, 0, groups, dilations)
    for axis in range(rank):
        place = x.ndim - rank + axis
        length = whole.shape[place] + extra[axis]
        if output is None:
            assert pads is not None
            low, high = pads[axis]
        else:
            total = length - output[axis]
            low = (total + 1) // 2 if lower else total // 2
            high = total - low
        whole = _cut(whole, place, low, length - low - high, bias)
    result: Tensor = whole
    return result


def _cut(x: Tensor, axis: int, start: int, length: int, bias: Tensor | None) -> Tensor:
    """Take positions of an axis; those that lie outside hold nothing but the bias."""
    before, after = max(-start, 0), max(start + length - x.shape[axis], 0)
    inside = x.narrow(axis, max(start, 0), length - before - after)
    if not before and not after:
        return inside
    pads = [0] * (2 * (x.ndim - axis))
    pads[-2:] = [before, after]
    if bias is None:
        return F.pad(inside, pads)
    column = bias.reshape(-1, *[1] * (x.ndim - 2))
    return F.pad(inside - column, pads) + column


@lowering("ConvTranspose")
def convolution_transposed(call: NodeCall) -> Tensor:
    """torch's own where it can express the padding, else the whole one, cut."""
    kernel = _kernel(call)
    window = window_of(call, kernel)
    extra = tuple(int(size) for size in call.attribute("output_padding") or [0] * len(kernel))
    asked = call.attribute("output_shape")
    groups = int(call.attribute("group", 1))
    fits = all(
        size < max(stride, dilation)
        for size, stride, dilation in zip(extra, window.strides, window.dilations, strict=True)
    )
    if window.symmetric and asked is None and fits:
        result: Tensor = _TRANSPOSED[len(kernel)](
            call.tensor(0), call.tensor(1), _bias(call), window.strides, window.before, extra, groups, window.dilations
        )
        return result
    pads: tuple[tuple[int, int], ...] | None = tuple(zip(window.before, window.after, strict=True))
    output: tuple[int, ...] | None = None
    if asked is not None:
        output, pads = tuple(int(size) for size in asked)[-len(kernel) :], None
    elif window.automatic:
        sizes = call.sizes(0) or ()
        output, pads = tuple(size * stride for size, stride in zip(sizes[2:], window.strides, strict=True)), None
    return transposed_convolution(
        call.tensor(0),
        call.tensor(1),
        _bias(call),
        window.strides,
        window.dilations,
        groups,
        pads,
        output,
        extra,
        window.automatic == "SAME_LOWER" or (asked is not None and not window.automatic),
    )
