"""Operators that only rename positions, and those that read shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onnxsqueeze.training.lowerings.registry import NodeCall, leaf, lowering


@lowering("Transpose")
def transpose(call: NodeCall) -> Tensor:
    """Axes in another order, by default reversed."""
    order = call.attribute("perm", range(call.rank(0))[::-1])
    return torch.permute(call.tensor(0), [int(axis) for axis in order])


def _target(sizes: list[int | None] | None) -> list[int] | None:
    """Return static sizes with at most one left to torch, None where more or a zero are among them."""
    if sizes is None:
        return None
    target = [size if isinstance(size, int) else -1 for size in sizes]
    return target if target.count(-1) <= 1 and 0 not in target else None


@leaf
def reshape(x: Tensor, sizes: list[int], copy_zeros: bool) -> Tensor:
    """Reshape to sizes of which one may be -1, and 0 may stand for the size that the axis had."""
    if copy_zeros:
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return torch.reshape(x, sizes)


@lowering("Reshape", since=5)
def reshape_form(call: NodeCall) -> Tensor:
    """The same elements in other axes."""
    static = _target(call.output_sizes())
    if static is not None:
        return torch.reshape(call.tensor(0), static)
    sizes = call.numbers(1)
    if sizes is None:
        return reshape_as_told(call.tensor(0), call.tensor(1), not call.attribute("allowzero", 0))
    return reshape(call.tensor(0), sizes, not call.attribute("allowzero", 0))


@leaf
def reshape_as_told(x: Tensor, sizes: Tensor, copy_zeros: bool) -> Tensor:
    """Reshape to sizes that a tensor holds."""
    return reshape(x, [int(size) for size in sizes.tolist()], copy_zeros)


@leaf
def flatten(x: Tensor, axis: int) -> Tensor:
    """Return a matrix whose rows are all positions of the axes before one."""
    start = axis if axis >= 0 else axis + x.ndim
    return x.reshape(math.prod(x.shape[:start]), math.prod(x.shape[start:]))


@lowering("Flatten")
def flatten_form(call: NodeCall) -> Tensor:
    """Two axes out of all."""
    axis, rank = int(call.attribute("axis", 1)), call.rank(0)
    return torch.flatten(call.tensor(0), 1) if axis == 1 and rank > 1 else flatten(call.tensor(0), axis)


def _axes(call: NodeCall) -> list[int] | None:
    """Return the axes that an attribute, or from opset 13 on an input, lists."""
    given = call.attribute("axes") if call.attribute("axes") is not None else call.integers(1)
    return None if given is None else [int(axis) for axis in given]


@leaf
def squeeze(x: Tensor, axes: list[int] | None) -> Tensor:
    """Drop axes of length 1, by default all."""
    return torch.squeeze(x) if axes is None else torch.squeeze(x, tuple(axes))


@lowering("Squeeze")
def squeeze_form(call: NodeCall) -> Tensor:
    """Axes of length 1 dropped."""
    axes = _axes(call)
    if axes is None and call.has(1):
        return reshape_as_told(call.tensor(0), call.tensor(1), False)
    return squeeze(call.tensor(0), axes)


@leaf
def unsqueeze(x: Tensor, axes: list[int]) -> Tensor:
    """Insert axes of length 1, counted in the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = torch.unsqueeze(x, axis)
    return x


@lowering("Unsqueeze")
def unsqueeze_form(call: NodeCall) -> Tensor:
    """Axes of length 1 inserted."""
    axes = _axes(call) or call.numbers(1) or []
    return torch.unsqueeze(call.tensor(0), axes[0]) if len(axes) == 1 else unsqueeze(call.tensor(0), axes)


@leaf
def shape(x: Tensor, start: int, end: int | None) -> Tensor:
    """Return a tensor's shape, or a part of it."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


@lowering("Shape")
def shape_form(call: NodeCall) -> Tensor:
    """A shape that is not known before the tensor is."""
    return shape(call.tensor(0), int(call.attribute("start", 0)), call.attribute("end"))
