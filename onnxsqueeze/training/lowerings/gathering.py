"""Gather, Scatter and their kin: elements taken from, or written to, places that an index names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxsqueeze.training.lowerings.numbers import number
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@leaf
def gather(data: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Take slices along an axis, as many and as arranged as the indices; negative ones count from the end."""
    axis = axis % data.ndim
    if data.ndim == 2 and axis == 0 and data.is_floating_point():
        return F.embedding(_from_front(indices, data.shape[0]), data)  # its gradient is the fastest
    taken = _selected(data, axis, _from_front(indices, data.shape[axis]).reshape(-1))
    if indices.ndim == 1:
        return taken
    return taken.reshape((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))


def _selected(data: Tensor, axis: int, places: Tensor) -> Tensor:
    """Take slices along an axis and leave the axes in memory in the order in which they are.

    torch would write them in their logical order. Behind a choice of channels, convolutions that found them last in
    memory would find them first, where depthwise ones are several times slower.
    """
    if data.is_contiguous():
        return data.index_select(axis, places)
    strides = data.stride()
    order = sorted(range(data.ndim), key=lambda place: -strides[place])
    taken = data.permute(order).index_select(order.index(axis), places)
    return taken.permute([order.index(place) for place in range(data.ndim)])


@leaf
def gather_elements(data: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Take one element for each index, which replaces its own place along an axis."""
    return torch.gather(data, axis, _from_front(indices, data.shape[axis]))


@leaf
def gather_nd(data: Tensor, indices: Tensor, batch_axes: int) -> Tensor:
    """Take the slices that the rows of the indices name, each batch its own."""
    batch = [
        torch.arange(size, device=data.device).reshape((1,) * axis + (size,) + (1,) * (indices.ndim - 2 - axis))
        for axis, size in enumerate(data.shape[:batch_axes])
    ]
    places: tuple[Tensor, ...] = (*batch, *indices.long().unbind(-1))
    return data[places]


@leaf
def scatter_elements(data: Tensor, indices: Tensor, updates: Tensor, axis: int, reduction: str) -> Tensor:
    """Write one update for each index, which replaces its own place along an axis, into a copy."""
    places = _from_front(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, places, updates)
    return data.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])


@leaf
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """Write updates to the slices that the rows of the indices name, in a copy."""
    places = tuple(indices.long().unbind(-1))
    if reduction in ("none", "add"):
        return data.index_put(places, updates, accumulate=reduction == "add")
    numbers = torch.arange(data.numel(), device=data.device).reshape(data.shape)[places].reshape(-1)
    flat = data.reshape(-1).scatter_reduce(0, numbers, updates.reshape(-1), _REDUCTIONS[reduction])
    return flat.reshape(data.shape)


@leaf
def one_hot(indices: Tensor, depth: int, values: Tensor, axis: int) -> Tensor:
    """Insert an axis with one of two values everywhere, the other where the index says; those out of range nowhere."""
    places = torch.arange(depth, device=indices.device)
    axis = axis % (indices.ndim + 1)
    wrapped = torch.where(indices < 0, indices + depth, indices)
    hot = wrapped.unsqueeze(axis) == places.reshape((depth,) + (1,) * (indices.ndim - axis))
    return torch.where(hot, values[1], values[0])


def _from_front(indices: Tensor, length: int) -> Tensor:
    """Return indices as torch wants them: int64, none of them negative."""
    places = indices.long()
    return torch.where(places < 0, places + length, places)


@lowering("Gather")
def _gather(call: NodeCall) -> Result:
    axis = int(call.node.attributes.get("axis", 0))
    places = call.integers(1)
    if places is not None and len(places) == 1 and call.rank(1) == 0:
        return torch.select(call.tensor(0), axis, places[0])
    return gather(call.tensor(0), call.tensor(1), axis)


@lowering("GatherElements")
def _gather_elements(call: NodeCall) -> Result:
    axis = int(call.node.attributes.get("axis", 0))
    return gather_elements(call.tensor(0), call.tensor(1), axis)


@lowering("GatherND")
def _gather_nd(call: NodeCall) -> Result:
    batch_axes = int(call.node.attributes.get("batch_dims", 0))
    return gather_nd(call.tensor(0), call.tensor(1), batch_axes)


@lowering("Scatter")
@lowering("ScatterElements")
def _scatter_elements(call: NodeCall) -> Result:
    attributes = call.node.attributes
    axis, reduction = int(attributes.get("axis", 0)), str(attributes.get("reduction", "none"))
    return scatter_elements(call.tensor(0), call.tensor(1), call.tensor(2), axis, reduction)


@lowering("ScatterND")
def _scatter_nd(call: NodeCall) -> Result:
    reduction = str(call.node.attributes.get("reduction", "none"))
    return scatter_nd(call.tensor(0), call.tensor(1), call.tensor(2), reduction)


@lowering("OneHot")
def _one_hot(call: NodeCall) -> Result:
    axis = int(call.node.attributes.get("axis", -1))
    return one_hot(call.tensor(0), number(call, 1), call.tensor(2), axis)
