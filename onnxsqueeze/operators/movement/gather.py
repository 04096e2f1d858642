"""Gather with constant indices, or along an axis on which nothing varies; from a constant table see `embedding`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools
from onnxsqueeze.abstract.interval import Interval, collapse, rearranged
from onnxsqueeze.coupling.constraints import Copies
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.movement.embedding import EMBEDDINGS, embedding_rule
from onnxsqueeze.operators.movement.index_copies import divides_rows, given_back, with_length
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.queries import held_sizes, known_axis
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait

_MOST_COPIES = 1 << 20  # elements of what is gathered more than once that are told apart


def _gather_axis(node: Node, context: Context) -> int:
    return int(node.attributes.get("axis", 0)) % max(1, context.rank(node.inputs[0]))


def _gather_value(node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    """Rows of a table are not written out where that would be more than the table."""
    table, indices = inputs
    axis = int(node.attributes.get("axis", 0))
    if (table.dtype.kind in "fV" or table.dtype.itemsize == 1) and indices.size > table.shape[axis]:
        return [None]
    return [np.take(table, indices.astype(np.int64), axis=axis)]


def _gather_choose(node: Node, context: Context) -> OpRule:
    return _GATHER if context.is_activation(node.inputs[0]) else embedding_rule(node.op, node, context)


def _gather_applies(node: Node, context: Context) -> Refusal | None:
    """Computed indices may follow an axis along which nothing varies, or not the elements alone."""
    ids = context.ids(node.inputs[0])
    if _anywhere(node, context) and ids.size == ids.shape[_gather_axis(node, context)] > 1:
        return Refusal(Reason.UNKNOWN_SHAPE, "Gather with computed indices")
    return None


def _anywhere(node: Node, context: Context) -> bool:
    """Whether any position may be gathered, so that those along the axis are not told apart."""
    unknown = known_axis(context, node.inputs[0], _gather_axis(node, context)) is None
    return unknown or context.value(node.inputs[1]) is None


def _gather_array(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    axis = _gather_axis(node, context)
    rank = context.rank(node.inputs[1])
    if array.shape[axis] == 1:
        return array.reshape(array.shape[:axis] + (1,) * rank + array.shape[axis + 1 :])
    indices = context.value(node.inputs[1])
    assert indices is not None
    return np.take(array, indices.astype(np.int64), axis=axis)


def _gather_forward(node: Node, context: Context) -> Sequence[Interval]:
    interval = context.interval(node.inputs[0])
    if _anywhere(node, context):
        interval = collapse(interval, (_gather_axis(node, context),))
    interval = rearranged(interval, lambda array: _gather_array(node, context, array))
    # what leaves as one of several copies is still there in the original, so that nothing else stands for it
    return [interval if _repeated(node, context) is None else Interval(interval.lower, interval.upper)]


def _gather_carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    gathered = _gather_axis(node, context)
    if position != 0 or axis == gathered:
        return None
    return axis if axis < gathered else axis + context.rank(node.inputs[1]) - 1


def _gather_link(node: Node, context: Context) -> None:
    """Positions that are gathered more than once may leave one by one."""
    elements, ids = context.elements, context.ids(node.inputs[0])
    axis, rank = _gather_axis(node, context), context.rank(node.inputs[1])
    if _anywhere(node, context):
        ids = elements.ids[node.inputs[0]] = elements.merge(ids, (axis,))
    repeated = _repeated(node, context)
    if repeated is None:
        elements.ids[node.outputs[0]] = _gather_array(node, context, ids)
    else:
        source = np.take(ids, repeated, axis=axis)
        output = elements.ids[node.outputs[0]] = elements.fresh(source.shape)
        elements.constraints.append(Copies(source, output, tuple({*range(output.ndim)} - {*range(axis, axis + rank)})))
    if divides_rows(ids, (axis,)):
        elements.strict.update((node.inputs[0], node.outputs[0]))


def _repeated(node: Node, context: Context) -> npt.NDArray[np.int64] | None:
    """Return the gathered positions if some of them are gathered more than once, and can be told apart."""
    indices, ids = context.value(node.inputs[1]), context.ids(node.inputs[0])
    axis = _gather_axis(node, context)
    length = known_axis(context, node.inputs[0], axis)
    if indices is None or length is None or ids.size == 1 or ids.shape[axis] != length:
        return None
    positions = indices.astype(np.int64) % length
    repeats = len(np.unique(positions)) < positions.size
    return positions if repeats and positions.size * ids.size // length <= _MOST_COPIES else None


def _gather_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An input position is live if one of its copies is needed."""
    ids = context.ids(node.inputs[0])
    axis, rank = _gather_axis(node, context), context.rank(node.inputs[1])
    mask = outputs[0]
    indices = context.value(node.inputs[1])
    if ids.shape[axis] == 1 or indices is None:
        live = mask.any(axis=tuple(range(axis, axis + rank)))
        return [Demand(np.expand_dims(live, axis)), *held_sizes(node)[1:]]
    spread = np.broadcast_to(mask, (*mask.shape[:axis], *indices.shape, *mask.shape[axis + rank :]))
    flat = spread.reshape(*mask.shape[:axis], indices.size, *mask.shape[axis + rank :])
    live = given_back(
        flat, {axis: indices.ravel().astype(np.int64) % ids.shape[axis]}, with_length(flat.shape, axis, ids.shape[axis])
    )
    return [Demand(live), None]


def _gather_repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Renumber the indices; those whose element left are dropped."""
    axis = _gather_axis(node, context)
    indices = context.value(node.inputs[1])
    made = range(axis, axis + context.rank(node.inputs[1]))
    changed = [
        rewriter.new_length(node.inputs[0], axis),
        *(rewriter.new_length(node.outputs[0], place) for place in made),
    ]
    if indices is None or all(length is None for length in changed):
        return
    kept = rewriter.positions(node.inputs[0], axis)
    places = np.cumsum(kept) - 1
    wrapped = indices.astype(np.int64) % len(kept)
    for place in range(indices.ndim):
        keep = rewriter.kept(node.outputs[0], axis + place)
        if len(keep) > 1:
            wrapped = np.compress(keep, wrapped, axis=place)
    rewriter.set_constant(node, 1, places[wrapped].astype(indices.dtype))


def _moved_back(node: Node, context: Context, array: Array) -> Array | None:
    axis = int(node.attributes.get("axis", 0)) % context.rank(node.inputs[0])
    end = axis + context.rank(node.inputs[1])
    if any(length > 1 for length in array.shape[axis:end]):
        return None
    return array.reshape(*array.shape[:axis], 1, *array.shape[end:])


_GATHER = OpRule(
    "Gather",
    evaluate=_gather_value,
    applies=_gather_applies,
    forward=_gather_forward,
    link=_gather_link,
    need=_gather_need,
    repair=_gather_repair,
    carries=_gather_carries,
    moved_back=_moved_back,
    traits=frozenset({Trait.CARRIES_OVER}),
)


register(replace(_GATHER, dispatch=_gather_choose, variants=(_GATHER, *EMBEDDINGS)))
