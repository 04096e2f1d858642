"""Slicing a recurrent node by direction, unit and input feature, and folding what constants contributed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools, Floats, any_along
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.recurrent.coded_weight import KERNEL, RECURRENT, slice_numbers
from onnxsqueeze.operators.recurrent.layer import BIAS, CELL, DATA, HIDDEN, PEEPHOLE, Layer, written
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.lessons import FoldOverflow, Lesson
from onnxsqueeze.rules.rewriter import Rewriter


def repair(
    node: Node,
    context: Context,
    rewriter: Rewriter,
    layer: Layer,
    features: Floats,
    states: Floats,
    zero_states: Sequence[int],
) -> None:
    """Rewrite a node whose inputs or units were narrowed.

    Args:
        node, context, rewriter: what is rewritten.
        layer: its view.
        features: the value of each input feature that is constant, NaN elsewhere; [I].
        states: the value of each unit that is the same before any step, NaN elsewhere; [D, H].
        zero_states: the positions of initial states that are zeros.
    """
    kept = layer.by_unit(rewriter.mask(next(name for name in node.outputs if name)))
    kept_in = np.broadcast_to(rewriter.kept(node.inputs[DATA], 2), (layer.features,))
    values = np.where(kept_in, 0.0, np.nan_to_num(features))
    taken = rewriter.deferred_offset(node.inputs[DATA])
    lesson: Callable[[], Lesson] = partial(FoldOverflow, node.inputs[DATA])
    if taken is not None:
        lesson = lesson if values.any() else taken.lesson
        values[kept_in] = taken.vector
    _rebias(node, rewriter, layer, kept, lesson, _shifts(layer, values, np.where(kept, 0.0, np.nan_to_num(states))))
    if not (kept.all() and kept_in.all()):
        _set_weight(node, rewriter, layer, KERNEL, _rows(layer.stored(KERNEL), kept)[..., kept_in])
    if not kept.all():
        _narrow(node, context, rewriter, layer, kept, zero_states)


def _rows(array: npt.NDArray[Any], kept: Bools) -> npt.NDArray[Any]:
    """Return the directions and units that stay of an array [D, .., H, I]."""
    return np.asarray(_columns(array.swapaxes(-1, -2), kept).swapaxes(-1, -2))


def _columns(array: npt.NDArray[Any], kept: Bools) -> npt.NDArray[Any]:
    """Return the directions and units that stay of an array [D, .., H]; each direction keeps equally many."""
    return np.stack([part[..., chosen] for part, chosen in zip(array, kept, strict=True) if chosen.any()])


def _set_weight(node: Node, rewriter: Rewriter, layer: Layer, position: int, weight: Array) -> None:
    """Store a weight [D, G, H, I], in codes if it has some, as the operator has it."""
    flat = weight.reshape(weight.shape[0], -1, weight.shape[3])
    rewriter.set_constant(node, position, np.ascontiguousarray(flat.swapaxes(1, 2)) if layer.codes else flat)


def _shifts(layer: Layer, values: Floats, states: Floats) -> Floats:
    """Return what constants add to the biases, float64 [2, D, G, H]."""
    shifts = np.zeros_like(layer.biases)
    features = np.flatnonzero(values)
    if features.size:
        shifts[0] = layer.kernel[..., features].astype(np.float64) @ values[features]
    for place, gone in enumerate(states):
        units = np.flatnonzero(gone)
        if units.size:
            shifts[1, place] = layer.recurrent[place][..., units].astype(np.float64) @ gone[units]
    return shifts


def _rebias(
    node: Node, rewriter: Rewriter, layer: Layer, kept: Bools, lesson: Callable[[], Lesson], shifts: Floats
) -> None:
    """Slice the biases and add what was folded, in float64, cast once."""
    if (kept.all() or not node.input(BIAS)) and not shifts.any():
        return
    total = _columns((layer.biases + shifts).swapaxes(0, 1), kept)
    dtype = layer.kernel.dtype
    rewriter.check_finite(total, dtype, lesson)
    rewriter.set_constant(node, BIAS, total.reshape(total.shape[0], -1).astype(dtype))


def _narrow(
    node: Node, context: Context, rewriter: Rewriter, layer: Layer, kept: Bools, zero_states: Sequence[int]
) -> None:
    """Slice all that has the units along some axis."""
    recurrent = _rows(_columns(layer.stored(RECURRENT), kept), kept[any_along(kept, 1)])
    _set_weight(node, rewriter, layer, RECURRENT, recurrent)
    for position in layer.codes:
        slice_numbers(node, rewriter, position, kept)
    if node.input(PEEPHOLE):
        part = _columns(layer.peephole, kept)
        rewriter.set_constant(node, PEEPHOLE, part.reshape(len(part), -1).astype(layer.kernel.dtype))
    rewriter.clear_inputs(node, zero_states)
    for position in (HIDDEN, CELL):
        value = context.value(node.input(position)) if node.input(position) and position not in zero_states else None
        if value is not None:
            axis = layer.direction_axis(value.ndim)
            sliced = _columns(np.moveaxis(value, axis, 0), kept)
            rewriter.set_constant(node, position, np.moveaxis(sliced, 0, axis))
    rewriter.set_attribute(node, "hidden_size", int(kept.sum(axis=1).max()))
    if not kept.any(axis=1).all():
        _one_direction(node, rewriter, layer, int(kept.any(axis=1).argmax()))


def _one_direction(node: Node, rewriter: Rewriter, layer: Layer, place: int) -> None:
    """Of two directions one is left."""
    rewriter.set_attribute(node, "direction", ("forward", "reverse")[place])
    for name, listed in written(layer.activations[place]).items():
        if name in node.attributes:
            rewriter.set_attribute(node, name, listed or None)
