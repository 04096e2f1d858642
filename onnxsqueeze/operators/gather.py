"""Gather with constant indices, or along an axis on which nothing varies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.fact import Bools, Fact
from onnxsqueeze.graph import Node
from onnxsqueeze.positions import given_back, known_axis, with_length
from onnxsqueeze.reason import Reason
from onnxsqueeze.rule import Context, Demand, OpRule, Refusal, held_sizes, register

if TYPE_CHECKING:
    from onnxsqueeze.editor import Editor


def _gather_axis(node: Node, context: Context) -> int:
    return int(node.attributes.get("axis", 0)) % max(1, context.rank(node.inputs[0]))


def _gather_value(node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [np.take(inputs[0], inputs[1].astype(np.int64), axis=int(node.attributes.get("axis", 0)))]


def _gather_applies(node: Node, context: Context) -> Refusal | None:
    """Computed indices may follow an axis along which nothing varies."""
    data = node.inputs[0]
    if not context.is_activation(data):
        return Refusal(Reason.UNKNOWN_OPERATOR, "Gather from a constant table")
    axis = _gather_axis(node, context)
    length = known_axis(context, data, axis)
    if context.ids(data).shape[axis] == 1 and context.fact(data).lower.shape[axis] == 1:
        return None
    if context.value(node.inputs[1]) is None or length is None:
        return Refusal(Reason.UNKNOWN_SHAPE, "Gather with computed indices")
    return None


def _gather_array(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    axis = _gather_axis(node, context)
    rank = context.rank(node.inputs[1])
    if array.shape[axis] == 1:
        return array.reshape(array.shape[:axis] + (1,) * rank + array.shape[axis + 1 :])
    indices = context.value(node.inputs[1])
    assert indices is not None
    return np.take(array, indices.astype(np.int64), axis=axis)


def _gather_forward(node: Node, context: Context) -> Sequence[Fact]:
    fact = context.fact(node.inputs[0])
    return [Fact(_gather_array(node, context, fact.lower), _gather_array(node, context, fact.upper))]


def _gather_link(node: Node, context: Context) -> None:
    ids = context.ids(node.inputs[0])
    axis = _gather_axis(node, context)
    context.elements.ids[node.outputs[0]] = _gather_array(node, context, ids)
    if ids.shape[axis] > 1 and sum(length > 1 for length in ids.shape) > 1:
        context.elements.strict.update((node.inputs[0], node.outputs[0]))


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


def _gather_repair(node: Node, context: Context, editor: Editor) -> None:
    """Renumber the indices; those whose element left are dropped."""
    axis = _gather_axis(node, context)
    if editor.new_length(node.inputs[0], axis) is None:
        return
    indices = context.value(node.inputs[1])
    assert indices is not None
    kept = editor.positions(node.inputs[0], axis)
    places = np.cumsum(kept) - 1
    wrapped = indices.astype(np.int64) % len(kept)
    for place in range(indices.ndim):
        keep = editor.kept(node.outputs[0], axis + place)
        if len(keep) > 1:
            wrapped = np.compress(keep, wrapped, axis=place)
    editor.set_constant(node, 1, places[wrapped].astype(indices.dtype))


register(
    OpRule(
        "Gather",
        evaluate=_gather_value,
        applies=_gather_applies,
        forward=_gather_forward,
        link=_gather_link,
        need=_gather_need,
        repair=_gather_repair,
    )
)
