"""Concat, Split, Slice, Pad: tensors joined, cut and made larger along axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.training.lowerings.numbers import number, numbers, required
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering


@leaf
def slice_axes(
    data: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None, steps: Sequence[int] | None
) -> Tensor:
    """Cut runs of positions out of axes; a negative step goes backwards."""
    count = len(starts)
    for start, end, axis, step in zip(starts, ends, axes or range(count), steps or [1] * count, strict=True):
        first, last, stride = slice(start, end, step).indices(data.shape[axis])
        length = len(range(first, last, stride))
        if stride > 0 and length == data.shape[axis]:
            continue
        if stride == 1:
            data = data.narrow(axis, first if length else 0, length)
        elif stride > 0:
            data = data[(slice(None),) * (axis % data.ndim) + (slice(first, last, stride),)]
        else:
            data = data.index_select(axis, torch.arange(first, last, stride, device=data.device))
    return data


@leaf
def split(data: Tensor, axis: int, count: int, sizes: Sequence[int] | None) -> list[Tensor]:
    """Cut an axis into runs of given sizes, else into equal ones of which the last may be shorter."""
    if sizes is None:
        length = data.shape[axis]
        each = -(-length // count)
        sizes = [each] * (count - 1) + [length - each * (count - 1)]
    return list(torch.split(data, list(sizes), axis))


@leaf
def pad(
    data: Tensor, pads: Sequence[int], axes: Sequence[int] | None, mode: str, fill: Tensor | float | None
) -> Tensor:
    """Make axes longer at their ends, shorter where a pad is negative.

    Args:
        data: any tensor. axes: those that ``pads`` are for, all by default.
        pads: how much at the start of each axis, then how much at the end of each.
        mode: "constant", "reflect", "edge" or "wrap".
        fill: the number to fill up with, 0 if None.
    """
    axes = range(data.ndim) if axes is None else [axis % data.ndim for axis in axes]
    before, after = [0] * data.ndim, [0] * data.ndim
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[place + len(axes)]
    if mode == "constant":
        return _filled_up(data, before, after, fill)
    for axis, (left, right) in enumerate(zip(before, after, strict=True)):
        if left or right:
            places = torch.arange(-left, data.shape[axis] + right, device=data.device)
            data = data.index_select(axis, _source(places, data.shape[axis], mode))
    return data


def _filled_up(data: Tensor, before: Sequence[int], after: Sequence[int], fill: Tensor | float | None) -> Tensor:
    widths = [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]
    if not any(widths):
        return data
    value = fill.item() if isinstance(fill, Tensor) else fill or 0
    if data.dtype == torch.bool:
        return F.pad(data.to(torch.uint8), widths, value=int(value)).bool()
    return F.pad(data, widths, value=value)


def _source(places: Tensor, length: int, mode: str) -> Tensor:
    """Return where padded positions come from."""
    if mode == "edge":
        return places.clamp(0, length - 1)
    if mode == "wrap":
        return places % length
    period = max(2 * (length - 1), 1)
    return (length - 1) - ((length - 1) - places % period).abs()


@lowering("Concat")
def _concat(call: NodeCall) -> Result:
    return torch.cat(call.tensors(), int(call.node.attributes.get("axis", 1)))


@lowering("Slice")
def _slice(call: NodeCall) -> Result:
    attributes = call.node.attributes
    if "starts" in attributes:
        return slice_axes(call.tensor(0), attributes["starts"], attributes["ends"], attributes.get("axes"), None)
    return slice_axes(call.tensor(0), required(call, 1), required(call, 2), numbers(call, 3), numbers(call, 4))


@lowering("Split")
def _split(call: NodeCall) -> Result:
    attributes, count = call.node.attributes, len(call.node.outputs)
    sizes = numbers(call, 1) if call.has(1) else attributes.get("split")
    axis = int(attributes.get("axis", 0))
    parts = split(call.tensor(0), axis, count, sizes)
    return tuple(parts[place] for place in range(count))


@lowering("Pad")
def _pad(call: NodeCall) -> Result:
    attributes = call.node.attributes
    mode = str(attributes.get("mode", "constant"))
    if not call.has(1):  # attributes until opset 10
        pads = [int(width) for width in attributes.get("pads", attributes.get("paddings", ()))]
        return pad(call.tensor(0), pads, None, mode, float(attributes.get("value", 0.0)))
    value = call.value(2) if call.has(2) else None
    fill = call.operand(2) if value is None else value.reshape(()).item()
    return pad(call.tensor(0), required(call, 1), numbers(call, 3), mode, fill)


@lowering("ReverseSequence")
def _reverse_sequence(call: NodeCall) -> Result:
    attributes = call.node.attributes
    time, batch = int(attributes.get("time_axis", 0)), int(attributes.get("batch_axis", 1))
    return reverse_sequence(call.tensor(0), call.tensor(1), time, batch)


@leaf
def reverse_sequence(data: Tensor, lengths: Tensor, time: int, batch: int) -> Tensor:
    """Reverse the first elements of each sequence of a batch, as many as its length says."""
    steps = torch.arange(data.shape[time], device=data.device)[:, None]
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)  # [time, batch]
    if time > batch:
        places = places.T
    shape = [size if axis in (time, batch) else 1 for axis, size in enumerate(data.shape)]
    return torch.gather(data, time, places.reshape(shape).expand(data.shape))


@lowering("CumSum")
def _cumulative_sum(call: NodeCall) -> Result:
    flags = [bool(call.node.attributes.get(key, 0)) for key in ("exclusive", "reverse")]
    return cumulative_sum(call.tensor(0), number(call, 1), *flags)


@leaf
def cumulative_sum(data: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """Add up along an axis, from its end if ``reverse``, each element itself left out if ``exclusive``."""
    ordered = data.flip(axis) if reverse else data
    total = ordered.cumsum(axis, dtype=data.dtype)
    if exclusive:
        total = torch.cat(
            [torch.zeros_like(total.narrow(axis, 0, 1)), total.narrow(axis, 0, data.shape[axis] - 1)], axis
        )
    return total.flip(axis) if reverse else total
