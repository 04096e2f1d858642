"""Reductions over axes: means, sums, norms, extremes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from onnxsqueeze.training.lowerings.numbers import number, numbers
from onnxsqueeze.training.lowerings.registry import NodeCall, Result, leaf, lowering

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _mean(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if data.is_floating_point():
        return data.mean(axes, keepdim=keep)
    return data.double().mean(axes, keepdim=keep).trunc().to(data.dtype)


def _sum(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return data.sum(axes, keepdim=keep, dtype=data.dtype)


def _prod(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        data = data.prod(axis, keepdim=keep, dtype=data.dtype)
    return data


def _max(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return data.amax(axes, keepdim=keep)


def _min(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return data.amin(axes, keepdim=keep)


def _l1(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _sum(data.abs(), axes, keep)


def _l2(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """At zero, torch gives the norm a gradient of zero."""
    norm: Tensor = torch.linalg.vector_norm(data, 2, axes, keepdim=keep)
    return norm


def _sum_square(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _sum(data.square(), axes, keep)


def _log_sum(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _sum(data, axes, keep).log()


def _log_sum_exp(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.logsumexp(data, axes, keepdim=keep)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "ReduceProd": _prod,
    "ReduceMax": _max,
    "ReduceMin": _min,
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceSumSquare": _sum_square,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
}


@leaf
def reduce(data: Tensor, op: str, axes: Sequence[int] | None, keep: bool, empty_means_none: bool) -> Tensor:
    """Reduce by an operator of ONNX, over all axes if none are given unless ``empty_means_none``.

    Over no axis the elementwise part of the operator remains, such as the square of ReduceSumSquare.
    """
    if not axes and empty_means_none:
        return _REDUCTIONS[op](data.unsqueeze(0), (0,), False)
    chosen = tuple(axis % data.ndim for axis in axes) if axes else tuple(range(data.ndim))
    return _REDUCTIONS[op](data, chosen, keep) if chosen else _REDUCTIONS[op](data.reshape(1), (0,), False)


@leaf
def extreme_place(data: Tensor, axis: int, keep: bool, largest: bool, last: bool) -> Tensor:
    """Return the place of the largest or smallest element along an axis, of equal ones the first or the last."""
    find = torch.argmax if largest else torch.argmin
    if not last:
        return find(data, axis, keepdim=keep)
    return data.shape[axis] - 1 - find(data.flip(axis), axis, keepdim=keep)


@leaf
def top_k(data: Tensor, count: int, axis: int, largest: bool) -> tuple[Tensor, Tensor]:
    """Return the largest or smallest elements along an axis and their places, of equal ones the first."""
    values, places = torch.sort(data, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@leaf
def non_zero(data: Tensor) -> Tensor:
    """Return the places of what is not zero, [rank, count]."""
    return torch.nonzero(data).T


def _reduction(call: NodeCall) -> Result:
    attributes = call.node.attributes
    axes = numbers(call, 1) if call.has(1) else attributes.get("axes")
    keep, none = bool(attributes.get("keepdims", 1)), bool(attributes.get("noop_with_empty_axes", 0))
    return reduce(call.tensor(0), call.node.op, axes, keep, none)


lowering(*_REDUCTIONS)(_reduction)


@lowering("ArgMax")
@lowering("ArgMin")
def _extreme_place(call: NodeCall) -> Result:
    attributes = call.node.attributes
    keep, last = bool(attributes.get("keepdims", 1)), bool(attributes.get("select_last_index", 0))
    axis = int(attributes.get("axis", 0))
    return extreme_place(call.tensor(0), axis, keep, call.node.op == "ArgMax", last)


@lowering("TopK")
def _top_k(call: NodeCall) -> Result:
    attributes = call.node.attributes
    count = int(attributes["k"]) if "k" in attributes else number(call, 1)
    axis, largest = int(attributes.get("axis", -1)), bool(attributes.get("largest", 1))
    found = top_k(call.tensor(0), count, axis, largest)
    return found[0], found[1]


@lowering("NonZero")
def _non_zero(call: NodeCall) -> Result:
    return non_zero(call.tensor(0))
