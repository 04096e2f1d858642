"""Channels along one axis of a tensor: their bounds and their classes; classes of a node's own constants."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Floats
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.memo import per_node
from onnxsqueeze.rules.weight_view import Linear


def channel_bounds(context: Context, name: str, axis: int) -> tuple[Floats, Floats]:
    """Return the bounds of each channel of a tensor, whatever the position: vectors of length C, or 1 if alike."""
    interval = context.interval(name)
    others = tuple(other for other in range(interval.lower.ndim) if other != axis)
    return interval.lower.min(axis=others), interval.upper.max(axis=others)


def channel_constants(context: Context, name: str, axis: int) -> Floats:
    """Return the value of each channel that is one constant at all positions, NaN elsewhere; [C], or [1] if alike."""
    lower, upper = channel_bounds(context, name, axis)
    return np.where((lower == upper) & np.isfinite(lower), lower, np.nan)


def channel_ids(context: Context, name: str, axis: int) -> npt.NDArray[np.int64]:
    """Return the classes along one axis of a tensor, the elements along all others made to share theirs; [C] or [1]."""
    others = tuple(other for other in range(context.rank(name)) if other != axis)
    merged = context.elements.merge(context.ids(name), others)
    context.elements.ids[name] = merged
    return merged.reshape(-1)


def ties_others(context: Context, linear: Linear) -> bool:
    """Whether elements are told apart along other axes than the one that a layer works along, and along that not."""
    shape = context.ids(linear.data).shape
    return bool(shape[linear.data_axis] == 1 and max(shape) > 1)


@per_node
def own_ids(node: Node, context: Context, position: int, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the classes of a compact shape for the constant at an input, which this node alone slices for itself."""
    return context.elements.fresh(shape)
