"""Pools over windows and over all positions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering
from onnxsqueeze.training.lowerings.windows import Window, padded, window_of

_MAXIMUM: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(call: NodeCall) -> Window:
    kernel = tuple(int(size) for size in call.attribute("kernel_shape"))
    if len(kernel) not in _MAXIMUM:
        raise UsageError(f"node '{call.node.label}': a pool over {len(kernel)} dimensions cannot be trained")
    return window_of(call, kernel)


def _fits_torch(window: Window) -> bool:
    """torch pads both sides alike, by at most half a window."""
    return window.symmetric and all(2 * pad <= size for pad, size in zip(window.before, window.kernel, strict=True))


@lowering("MaxPool")
def max_pool(call: NodeCall) -> Result:
    """The largest element in each window, and its place among all elements where that is read.

    Raises:
        UsageError: for places where torch cannot pad by itself, or that are counted in another order.
    """
    window = _window(call)
    plain = _fits_torch(window)
    if len(call.node.outputs) > 1 and call.node.outputs[1]:
        if not plain or call.attribute("storage_order", 0):
            raise UsageError(f"node '{call.node.label}': a MaxPool padded so, whose places are read, cannot be trained")
        found = max_pool_places(call.tensor(0), window)
        return found[0], found[1]
    x = call.tensor(0) if plain else padded(call.tensor(0), window, -math.inf)
    padding = window.before if plain else (0,) * len(window.kernel)
    result: Tensor = _MAXIMUM[len(window.kernel)](
        x, window.kernel, window.strides, padding, window.dilations, window.ceil
    )
    return result


@leaf
def max_pool_places(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Return the maxima [N, C, *places] and where each lies in ``x``, counted through all of it."""
    values, places = _MAXIMUM[len(window.kernel)](
        x, window.kernel, window.strides, window.before, window.dilations, window.ceil, return_indices=True
    )
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * math.prod(x.shape[2:])
    return values, places + planes.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))


@leaf
def max_unpool(x: Tensor, places: Tensor, shape: list[int]) -> Tensor:
    """Put elements to places counted through a tensor of zeros of a shape."""
    flat = x.new_zeros(math.prod(int(size) for size in shape))
    return flat.scatter(0, places.reshape(-1), x.reshape(-1)).reshape([int(size) for size in shape])


@lowering("MaxUnpool", since=9, fixed=(2,))
def _max_unpool(call: NodeCall) -> Tensor:
    """The output's size is given, or follows from the window."""
    if call.has(2):
        sizes = call.numbers(2)
        if sizes is None:
            raise UsageError(f"node '{call.node.label}': MaxUnpool to a shape that is not known cannot be trained")
        return max_unpool(call.tensor(0), call.tensor(1), sizes)
    window, shape = _window(call), call.sizes(0)
    assert shape is not None
    lengths = [
        (size - 1) * stride + kernel - before - after
        for size, stride, kernel, before, after in zip(
            shape[2:], window.strides, window.kernel, window.before, window.after, strict=True
        )
    ]
    return max_unpool(call.tensor(0), call.tensor(1), [*shape[:2], *lengths])


@lowering("AveragePool")
def average_pool(call: NodeCall) -> Tensor:
    """The mean over each window, with or without the padding."""
    window = _window(call)
    counted = bool(call.attribute("count_include_pad", 0))
    if _fits_torch(window) and set(window.dilations) == {1}:
        result: Tensor = _AVERAGE[len(window.kernel)](
            call.tensor(0), window.kernel, window.strides, window.before, window.ceil, counted
        )
        return result
    return mean_of_windows(call.tensor(0), window, counted)


@leaf
def sum_of_windows(x: Tensor, window: Window) -> Tensor:
    """Return the sum over each window of an explicitly padded tensor; one that sticks out sums what is there."""
    first = x.ndim - len(window.kernel)
    for axis, (dilation, stride) in enumerate(zip(window.dilations, window.strides, strict=True)):
        reach, length = window.reach(axis), x.shape[first + axis]
        missing = -(length - reach) % stride if window.ceil else 0
        if missing and length + missing - reach < length:  # the last window has to begin inside
            x = F.pad(x, [0, 0] * (x.ndim - 1 - first - axis) + [0, missing])
        x = x.unfold(first + axis, reach, stride)[..., ::dilation].sum(-1)
    return x


@leaf
def mean_of_windows(x: Tensor, window: Window, counted: bool) -> Tensor:
    """Return the mean over each window, of all positions or only of those that are no padding."""
    whole = padded(x, window)
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    members = torch.ones_like(whole[:1, :1]) if counted else padded(ones, window)
    return sum_of_windows(whole, window) / sum_of_windows(members, window)


@lowering("LpPool")
def lp_pool(call: NodeCall) -> Tensor:
    """The p-norm over each window."""
    window, p = _window(call), float(call.attribute("p", 2))
    powers = torch.pow(torch.abs(padded(call.tensor(0), window)), p)
    return root(sum_of_windows(powers, window), p)


@leaf
def root(x: Tensor, p: float) -> Tensor:
    """Return the p-th root of numbers that are not negative, with the gradient 0 at 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).pow(1.0 / p), 0.0)


def _positions(call: NodeCall) -> list[int]:
    return list(range(2, call.rank(0)))


@lowering("GlobalAveragePool")
def global_average_pool(call: NodeCall) -> Tensor:
    """The mean over all positions."""
    return torch.mean(call.tensor(0), dim=_positions(call), keepdim=True)


@lowering("GlobalMaxPool")
def global_max_pool(call: NodeCall) -> Tensor:
    """The largest element over all positions."""
    return torch.amax(call.tensor(0), dim=_positions(call), keepdim=True)


@lowering("GlobalLpPool")
def global_lp_pool(call: NodeCall) -> Tensor:
    """The p-norm over all positions."""
    p = float(call.attribute("p", 2))
    powers = torch.pow(torch.abs(call.tensor(0)), p)
    return root(torch.sum(powers, dim=_positions(call), keepdim=True), p)
