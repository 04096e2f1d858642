"""Pad: of space, where constants survive only some modes, and of channels by constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.abstract.interval import Interval, collapse, hull
from onnxsqueeze.abstract.specials import FINITE, Specials, along, scattered, specials_of
from onnxsqueeze.coupling.constraints import NotEmpty
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.movement.index_copies import with_length
from onnxsqueeze.operators.windows import _mode, _pads, _value, pads_image_by_zeros
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.parameters import setting_parameters
from onnxsqueeze.rules.passing import mixed_specials
from onnxsqueeze.rules.queries import held_sizes, known_axis
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter

_MOST_POSITIONS = 1 << 16


def _tracked(node: Node, context: Context, axis: int) -> bool:
    """Whether positions along a padded axis are told apart; then it is constants that are added (see `_applies`)."""
    return bool(context.ids(node.inputs[0]).shape[axis] > 1)


def _applies(node: Node, context: Context) -> Refusal | None:
    pads = _pads(node, context)
    if pads is None:
        return Refusal(Reason.UNKNOWN_SHAPE, "Pad with computed amounts")
    if _mode(node) == "constant" and _value(node, context) is None:
        return Refusal(Reason.UNKNOWN_SHAPE, "Pad with a computed value")
    for axis, pad in enumerate(pads):
        if pad != (0, 0) and context.ids(node.inputs[0]).shape[axis] > 1:
            length = known_axis(context, node.inputs[0], axis)
            if _mode(node) != "constant" or min(pad) < 0 or length is None or length + sum(pad) > _MOST_POSITIONS:
                return Refusal(Reason.UNKNOWN_SHAPE, f"Pad of varying channels, mode {_mode(node)}")
    return None


def _padded(node: Node, context: Context, array: npt.NDArray[Any], filler: Any) -> npt.NDArray[Any]:
    """Lay constant elements before and after along each tracked axis."""
    pads = _pads(node, context)
    assert pads is not None
    for axis, (before, after) in enumerate(pads):
        if (before or after) and _tracked(node, context, axis):
            length = known_axis(context, node.inputs[0], axis) or 1
            array = np.broadcast_to(array, with_length(array.shape, axis, length))
            ends = [
                filler(with_length(array.shape, axis, count), axis, side) for side, count in enumerate((before, after))
            ]
            array = np.concatenate([ends[0], array, ends[1]], axis=axis)
    return array


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Padding along an untracked axis by another value than the constant ends the constant."""
    interval, pads = context.interval(node.inputs[0]), _pads(node, context)
    assert pads is not None
    if not np.any(pads):
        return [interval]
    untracked = [axis for axis, pad in enumerate(pads) if pad != (0, 0) and not _tracked(node, context, axis)]
    interval = collapse(interval, untracked)
    if pads_image_by_zeros(node, context):
        return [interval]
    value = _value(node, context) if _mode(node) == "constant" else None
    if untracked and value is not None and any(max(pads[axis]) > 0 for axis in untracked):
        interval = hull([interval, Interval(np.float64(value), np.float64(value))])

    def filled(shape: tuple[int, ...], axis: int, side: int) -> npt.NDArray[Any]:
        return np.full(shape, value)

    return [Interval(_padded(node, context, interval.lower, filled), _padded(node, context, interval.upper, filled))]


def _specials(node: Node, context: Context) -> Sequence[Specials | None]:
    """What is laid around is there at the borders alone, unless those are told apart."""
    value = _value(node, context) if _mode(node) == "constant" else None
    laid, flags = specials_of(np.asarray(value or 0.0)), context.special(node.inputs[0])
    pads = _pads(node, context)
    if pads is None or (_mode(node) == "constant" and value is None):
        return mixed_specials(node, context)
    if laid is None and flags is None:
        return [None]
    border = FINITE if laid is None else laid[()]
    rank = context.rank(node.inputs[0])
    untracked = [axis for axis, pad in enumerate(pads) if pad != (0, 0) and not _tracked(node, context, axis)]
    found = np.full((1,) * rank, FINITE) if flags is None else along(flags, untracked)
    if untracked:
        found = scattered(found | border)
    return [_padded(node, context, found, lambda shape, axis, side: np.full(shape, border))]


def _link(node: Node, context: Context) -> None:
    """Added channels have classes of their own, so that they may leave again: each for itself, and with its head."""
    ids = context.ids(node.inputs[0])

    added: list[npt.NDArray[np.int64]] = []

    def fresh(shape: tuple[int, ...], axis: int, side: int) -> npt.NDArray[Any]:
        apart = math.prod(shape) <= _MOST_POSITIONS
        added.append(context.elements.fresh(shape if apart else with_length((1,) * len(shape), axis, shape[axis])))
        return np.broadcast_to(added[-1], shape)

    output = context.elements.ids[node.outputs[0]] = _padded(node, context, ids, fresh)
    if output.size > ids.size:
        context.elements.constraints.append(NotEmpty(ids, output))
        if _pads_space(node, context):
            # one added channel stays: onnxruntime fuses a Pad of space alone into a pool behind it, whatever its value
            context.elements.constraints.append(NotEmpty(np.concatenate([part.ravel() for part in added]), output))
    if sum(length > 1 for length in ids.shape) > 1:
        context.elements.strict.update((node.inputs[0], node.outputs[0]))


def _pads_space(node: Node, context: Context) -> bool:
    """Whether a Pad that adds channels pads other axes as well."""
    pads = _pads(node, context)
    assert pads is not None
    return any(pad != (0, 0) and not _tracked(node, context, axis) for axis, pad in enumerate(pads))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    live = outputs[0][_inside(node, context, outputs[0].shape)]
    return [Demand(live), *held_sizes(node)[1:]]


def _inside(node: Node, context: Context, shape: tuple[int, ...]) -> tuple[slice, ...]:
    pads = _pads(node, context)
    assert pads is not None
    return tuple(
        slice(before, length - after) if length > 1 and _tracked(node, context, axis) else slice(None)
        for axis, ((before, after), length) in enumerate(zip(pads, shape, strict=True))
    )


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Pad by as many channels as are left of those added."""
    pads = _pads(node, context)
    assert pads is not None
    new = list(pads)
    for axis, (before, after) in enumerate(pads):
        if (before or after) and _tracked(node, context, axis):
            kept = rewriter.positions(node.outputs[0], axis)
            new[axis] = (int(kept[:before].sum()), int(kept[len(kept) - after :].sum()))
    if new == pads:
        return
    flat = [before for before, _ in new] + [after for _, after in new]
    if "pads" in node.attributes:
        rewriter.set_attribute(node, "pads", flat)
        return
    if node.input(3):
        rewriter.set_constant(node, 3, np.arange(len(new), dtype=np.int64))
    rewriter.set_constant(node, 1, np.array(flat, dtype=np.int64))


def _carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    return axis if position == 0 and not np.any(_pads(node, context)) else None


register(
    OpRule(
        "Pad",
        since=2,
        applies=_applies,
        forward=_forward,
        specials=_specials,
        link=_link,
        need=_need,
        repair=_repair,
        carries=_carries,
        parameters=setting_parameters,
    )
)
