"""Operators that copy chosen positions along axes: forward on compact intervals and classes, backward on needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, any_along, fit_any
from onnxsqueeze.abstract.interval import Interval, rearranged
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.queries import held_sizes
from onnxsqueeze.rules.traits import Trait

Positions = dict[int, npt.NDArray[np.int64]]
"""By axis, which input position stands at each output position."""

Copied = Callable[[Node, Context], "list[Positions | None]"]


def with_length(shape: tuple[int, ...], axis: int, length: int) -> tuple[int, ...]:
    """Return a shape with another length along one axis."""
    return (*shape[:axis], length, *shape[axis + 1 :])


def divides_rows(ids: npt.NDArray[Any], axes: Iterable[int]) -> bool:
    """Whether one of ``axes`` is the last of several varying ones, in which rows could keep different places."""
    varying = [axis for axis, length in enumerate(ids.shape) if length > 1]
    return len(varying) > 1 and varying[-1] in axes


def taken(array: npt.NDArray[Any], positions: Positions) -> npt.NDArray[Any]:
    """Copy the chosen positions of a compact array."""
    for axis, chosen in positions.items():
        if array.shape[axis] > 1:
            array = np.take(array, chosen, axis=axis)
    return array


def given_back(mask: Bools, positions: Positions, shape: tuple[int, ...]) -> Bools:
    """Mark the input positions that marked output positions are copies of."""
    for axis, chosen in positions.items():
        if shape[axis] > 1:
            spread = np.moveaxis(np.broadcast_to(mask, with_length(mask.shape, axis, len(chosen))), axis, 0)
            target = np.zeros((shape[axis], *spread.shape[1:]), dtype=bool)
            np.logical_or.at(target, chosen, spread)
            mask = np.moveaxis(target, 0, axis)
        else:
            mask = any_along(mask, axis, keepdims=True)
    return mask


def index_selection_rule(op: str, copied: Copied, repair: Any, evaluate: Any, applies: Any, **fields: Any) -> OpRule:
    """Return the rule of an operator each of whose outputs copies chosen positions of its first input."""

    def forward(node: Node, context: Context) -> Sequence[Interval]:
        interval = context.interval(node.inputs[0])
        return [
            rearranged(interval, partial(taken, positions=positions))
            for positions in copied(node, context)
            if positions is not None
        ]

    def link(node: Node, context: Context) -> None:
        ids = context.ids(node.inputs[0])
        for name, positions in zip(node.outputs, copied(node, context), strict=True):
            if name and positions is not None:
                context.elements.ids[name] = taken(ids, positions)
                if divides_rows(ids, positions):
                    context.elements.strict.update((name, node.inputs[0]))

    def need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
        shape = context.ids(node.inputs[0]).shape
        live = np.zeros(shape, dtype=bool)
        for output, positions in zip(outputs, copied(node, context), strict=True):
            if positions is not None:
                live = live | fit_any(given_back(output, positions, shape), shape)
        return [Demand(live), *held_sizes(node)[1:]]

    def carries(node: Node, context: Context, position: int, axis: int) -> int | None:
        whole = all(positions is not None and axis not in positions for positions in copied(node, context))
        return axis if position == 0 and whole else None

    fields.setdefault("carries", carries)
    fields.setdefault("traits", frozenset({Trait.CARRIES_OVER}))
    return OpRule(
        op, evaluate=evaluate, applies=applies, forward=forward, link=link, need=need, repair=repair, **fields
    )
