"""Slice and Split: runs of positions along axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.symbolic import Shape, symbol
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.movement.embedding import EMBEDDINGS, embedding_rule
from onnxsqueeze.operators.movement.index_copies import Positions, index_selection_rule
from onnxsqueeze.rules.contract import Context, OpRule, Refusal
from onnxsqueeze.rules.queries import known_axis, told_apart
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait


def _slice_arguments(node: Node, inputs: Sequence[Any], rank: int) -> list[tuple[int, int, int, int]] | None:
    """Return (axis, start, end, step) for each sliced axis, None where they are computed."""
    if "starts" in node.attributes:
        starts, ends = list(node.attributes["starts"]), list(node.attributes["ends"])
        axes, steps = list(node.attributes.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        given = [None if array is None else [int(entry) for entry in array.ravel()] for array in inputs[1:5]]
        given += [None] * (4 - len(given))
        if given[0] is None or given[1] is None:
            return None
        starts, ends = given[0], given[1]
        axes, steps = given[2] or list(range(len(starts))), given[3] or [1] * len(starts)
    return [(axis % rank, start, end, step) for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)]


def _slice_positions(node: Node, context: Context) -> list[Positions | None]:
    inputs = [context.value(name) if name else None for name in node.inputs]
    rank = context.rank(node.inputs[0])
    found: Positions = {}
    for axis, start, end, step in _slice_arguments(node, inputs, rank) or []:
        length = known_axis(context, node.inputs[0], axis)
        if length is not None:
            found[axis] = np.arange(length)[slice(*_python_slice(start, end, step, length))]
    return [found]


def _python_slice(start: int, end: int, step: int, length: int) -> tuple[int, int | None, int]:
    """ONNX clamps an end before the first element for negative steps; in Python that is None."""
    stop: int | None = end + length if end < 0 else end
    if step < 0 and stop is not None and stop < 0:
        stop = None
    first = max(start + length, 0) if start < 0 else start
    if step < 0 and start < -length:
        first = 0
        stop = 0 if stop is None and end >= -length else stop
    return first, max(stop, 0) if stop is not None else None, step


def _slice_value(node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    result = inputs[0]
    for axis, start, end, step in _slice_arguments(node, inputs, result.ndim) or []:
        chosen = slice(*_python_slice(start, end, step, result.shape[axis]))
        result = result[(slice(None),) * axis + (chosen,)]
    return [result]


def _slice_applies(node: Node, context: Context) -> Refusal | None:
    if any(_repeats(node, context, axis) for axis, *_ in _given_bounds(node, context) or []):
        return Refusal(Reason.UNKNOWN_SHAPE, "Slice of an axis of unknown length")
    inputs = [context.value(name) if name else None for name in node.inputs]
    if any(name and array is None for name, array in zip(node.inputs[1:], inputs[1:], strict=True)):
        ids = context.ids(node.inputs[0]) if context.is_activation(node.inputs[0]) else None
        axes = context.integers(node.input(3))
        fixed = ids is not None and axes is not None and all(ids.shape[axis % ids.ndim] == 1 for axis in axes)
        return None if fixed else Refusal(Reason.UNKNOWN_SHAPE, "Slice with computed bounds")
    return None


def _slice_infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """Computed bounds leave the axes alone that are not sliced."""
    axes = context.integers(node.input(3))
    computed = any(context.value(name) is None for name in node.inputs[1:3])
    if axes is None or not computed or node.inputs[0] not in context.shapes:
        return [None]
    source, output = context.shape(node.inputs[0]), node.outputs[0]
    cut = {axis % len(source) for axis in axes}
    return [tuple(symbol(f"{output}:{axis}") if axis in cut else size for axis, size in enumerate(source))]


def _given_bounds(node: Node, context: Context) -> list[tuple[int, int, int, int]] | None:
    inputs = [context.value(name) if name else None for name in node.inputs]
    return _slice_arguments(node, inputs, context.rank(node.inputs[0]))


def _repeats(node: Node, context: Context, axis: int) -> bool:
    """Whether elements can be told apart along an axis whose length is known only at run time."""
    name = node.inputs[0]
    return told_apart(context, name, axis) and known_axis(context, name, axis) is None


def _slice_repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Gather what is left of a sliced axis; a run of neighbours stays a Slice with new ends."""
    data = node.inputs[0]
    (positions,) = _slice_positions(node, context)
    assert positions is not None
    changed = {axis: chosen for axis, chosen in positions.items() if rewriter.new_length(data, axis) is not None}
    if not changed:
        return
    inputs = [context.value(name) if name else None for name in node.inputs]
    arguments = _slice_arguments(node, inputs, context.rank(data)) or []
    bounds, gathered = [], []
    for axis, start, end, step in arguments:
        if axis in changed:
            kept = rewriter.positions(data, axis)
            places = (np.cumsum(kept) - 1)[changed[axis][kept[changed[axis]]]]
            if len(places) and (np.diff(places) == 1).all():
                start, end, step = int(places[0]), int(places[-1]) + 1, 1
            else:
                gathered.append((axis, places))
                continue
        bounds.append((axis, start, end, step))
    _write_slice(node, rewriter, bounds)
    for axis, places in gathered:
        rewriter.insert_before(node, 0, "Gather", [None, places.astype(np.int64)], axis=axis)


def _write_slice(node: Node, rewriter: Rewriter, bounds: Sequence[tuple[int, int, int, int]]) -> None:
    columns = [np.array([entry[place] for entry in bounds], dtype=np.int64) for place in (1, 2, 0, 3)]
    if "starts" in node.attributes:
        for name, column in zip(("starts", "ends", "axes"), columns, strict=False):
            rewriter.set_attribute(node, name, [int(entry) for entry in column])
        return
    for position, column in enumerate(columns, start=1):
        rewriter.set_constant(node, position, column)


def _slice_choose(node: Node, context: Context) -> OpRule:
    """A run of rows of a constant table that starts or ends at a computed place is looked up in it."""
    computed = any(context.value(name) is None for name in node.inputs[1:3])
    axes = context.integers(node.input(3))
    table = not context.is_activation(node.inputs[0]) and context.value(node.inputs[0]) is not None
    return embedding_rule("Slice", node, context) if table and computed and axes and len(axes) == 1 else _SLICE


def _moved_back(node: Node, context: Context, array: Array) -> Array | None:
    """What does not vary along the axes of which a part is taken is the same before."""
    before, after = context.value(node.inputs[0]), context.value(node.outputs[0])
    if before is None or after is None:
        return None
    chosen = [axis for axis, pair in enumerate(zip(before.shape, after.shape, strict=True)) if pair[0] != pair[1]]
    return None if any(array.shape[axis] > 1 for axis in chosen) else array


_SLICE = index_selection_rule(
    "Slice",
    _slice_positions,
    _slice_repair,
    _slice_value,
    _slice_applies,
    infer=_slice_infer,
    traits=frozenset({Trait.SELECTS}),
    moved_back=_moved_back,
)
register(replace(_SLICE, dispatch=_slice_choose, variants=(_SLICE, *EMBEDDINGS)))


def _split_sizes(node: Node, context: Context) -> list[int] | None:
    axis = int(node.attributes.get("axis", 0)) % context.rank(node.inputs[0])
    if node.input(1):
        return context.integers(node.inputs[1])
    if "split" in node.attributes:
        return [int(size) for size in node.attributes["split"]]
    length = known_axis(context, node.inputs[0], axis)
    if length is None:
        return None
    count = len(node.outputs)
    chunk = -(-length // count)
    return [chunk] * (count - 1) + [length - chunk * (count - 1)]


def _split_positions(node: Node, context: Context) -> list[Positions | None]:
    axis = int(node.attributes.get("axis", 0)) % context.rank(node.inputs[0])
    sizes = _split_sizes(node, context)
    if sizes is None:
        return [{} for _ in node.outputs]
    ends = np.cumsum(sizes)
    return [{axis: np.arange(end - size, end)} for size, end in zip(sizes, ends, strict=True)]


def _split_applies(node: Node, context: Context) -> Refusal | None:
    axis = int(node.attributes.get("axis", 0)) % context.rank(node.inputs[0])
    sizes = _split_sizes(node, context)
    varies = context.is_activation(node.inputs[0]) and told_apart(context, node.inputs[0], axis)
    computed = (sizes is None and varies) or _repeats(node, context, axis)
    if computed or (sizes is not None and len(sizes) != len(node.outputs)):
        return Refusal(Reason.UNKNOWN_SHAPE, "Split with computed sizes")
    return None


def _split_value(node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    axis = int(node.attributes.get("axis", 0))
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else node.attributes.get("split")
    if sizes is None:
        return np.array_split(inputs[0], len(node.outputs), axis=axis)
    return np.split(inputs[0], np.cumsum(sizes)[:-1], axis=axis)


def _split_repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """New sizes; outputs of which nothing stays are dropped."""
    axis = int(node.attributes.get("axis", 0)) % context.rank(node.inputs[0])
    sizes = _split_sizes(node, context)
    if (
        sizes is None
        or rewriter.new_length(node.inputs[0], axis) is None
        and not any(map(rewriter.plan.gone, node.outputs))
    ):
        return
    lengths = [
        int(np.broadcast_to(rewriter.kept(name, axis), (size,)).sum())
        for name, size in zip(node.outputs, sizes, strict=True)
    ]
    left = [length for length in lengths if length]
    if len(left) == 1:
        rewriter.bypass(node, 0, lengths.index(left[0]))
        return
    for position in reversed(range(len(lengths))):
        if lengths[position] == 0:
            rewriter.drop_output(node, position)
    rewriter.set_attribute(node, "num_outputs", None)
    if node.version < 13:
        rewriter.set_attribute(node, "split", left)
    else:
        rewriter.set_constant(node, 1, np.array(left, dtype=np.int64))


def _split_carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    """The axis that is split goes on nowhere, whether its sizes are known or not."""
    split = int(node.attributes.get("axis", 0)) % context.rank(node.inputs[0])
    return axis if position == 0 and axis != split else None


register(
    index_selection_rule(
        "Split", _split_positions, _split_repair, _split_value, _split_applies, since=2, carries=_split_carries
    )
)
