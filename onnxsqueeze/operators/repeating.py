"""Tile and Expand: positions repeated along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.dimension import Shape, Symbolic
from onnxsqueeze.fact import Bools, Fact, any_along, fit_any
from onnxsqueeze.graph import Node
from onnxsqueeze.reason import Reason
from onnxsqueeze.rule import Context, Demand, OpRule, Refusal, held_sizes, register
from onnxsqueeze.sizes import patch_sizes


def _tile_applies(node: Node, context: Context) -> Refusal | None:
    return Refusal(Reason.UNKNOWN_SHAPE, "Tile with computed repeats") if _varies_unknown(node, context) else None


def _varies_unknown(node: Node, context: Context) -> bool:
    known = context.value(node.inputs[1]) is not None
    return not known and context.is_activation(node.inputs[0]) and context.ids(node.inputs[0]).size > 1


def _tiled(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    repeats = context.integers(node.inputs[1]) or [1] * array.ndim
    return np.tile(array, [count if length > 1 else 1 for count, length in zip(repeats, array.shape, strict=True)])


def _tile_forward(node: Node, context: Context) -> Sequence[Fact]:
    fact = context.fact(node.inputs[0])
    return [Fact(_tiled(node, context, fact.lower), _tiled(node, context, fact.upper))]


def _tile_link(node: Node, context: Context) -> None:
    context.elements.ids[node.outputs[0]] = _tiled(node, context, context.ids(node.inputs[0]))


def _tile_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An element is live if one of its copies is."""
    shape = context.ids(node.inputs[0]).shape
    mask = outputs[0]
    for axis, length in enumerate(shape):
        if mask.shape[axis] > length > 1:
            mask = any_along(mask.reshape(*mask.shape[:axis], -1, length, *mask.shape[axis + 1 :]), axis)
    return [Demand(fit_any(mask, shape)), *held_sizes(node)[1:]]


register(
    OpRule(
        "Tile",
        since=6,
        evaluate=lambda node, inputs: [np.tile(inputs[0], inputs[1].astype(np.int64))],
        applies=_tile_applies,
        forward=_tile_forward,
        link=_tile_link,
        need=_tile_need,
    )
)


def _expanded(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rank = context.rank(node.outputs[0])
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _expand_forward(node: Node, context: Context) -> Sequence[Fact]:
    fact = context.fact(node.inputs[0])
    return [Fact(_expanded(node, context, fact.lower), _expanded(node, context, fact.upper))]


def _expand_link(node: Node, context: Context) -> None:
    context.elements.ids[node.outputs[0]] = _expanded(node, context, context.ids(node.inputs[0]))


def _expand_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    extra = outputs[0].ndim - context.rank(node.inputs[0])
    return [Demand(any_along(outputs[0], tuple(range(extra)))), *held_sizes(node)[1:]]


def _expand_infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """Sizes of 1 in the target leave the input's; symbolic ones equal to the input's stay recognisable."""
    target = context.sizes(node.inputs[1])
    if target is None or node.inputs[0] not in context.shapes:
        return [None]
    source = context.shape(node.inputs[0])
    rank = max(len(source), target.size)
    own = (1,) * (rank - len(source)) + tuple(source)
    wanted = (1,) * (rank - target.size) + tuple(target)
    return [
        tuple(
            b if _is_one(a) else a
            for a, b in ((a, b if isinstance(b, Symbolic) else int(b)) for a, b in zip(own, wanted, strict=True))
        )
    ]


def _is_one(size: Any) -> bool:
    return not isinstance(size, Symbolic) and size == 1


register(
    OpRule(
        "Expand",
        evaluate=lambda node, inputs: [inputs[0] * np.ones([int(size) for size in inputs[1]], dtype=inputs[0].dtype)],
        infer=_expand_infer,
        forward=_expand_forward,
        link=_expand_link,
        need=_expand_need,
        repair=patch_sizes,
        sizes=1,
    )
)
