"""Tile and Expand: positions repeated along axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Bools, aligned, any_along, fit_any
from onnxsqueeze.abstract.interval import Interval, rearranged
from onnxsqueeze.abstract.symbolic import Shape, Symbolic
from onnxsqueeze.coupling.constraint import Classes
from onnxsqueeze.coupling.constraints import Broadcast
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.channels import own_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal, ScoreRows
from onnxsqueeze.rules.parameter import Role
from onnxsqueeze.rules.parameters import operand_parameters
from onnxsqueeze.rules.passing import of_first
from onnxsqueeze.rules.queries import held_sizes, read_beside
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.score_rows import first_finite
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.shapes.computed_shapes import repair_requested_shape

_MOST_COPIES = 1 << 20  # elements of a repeated tensor that are told apart
_MERGING = ("Reshape",)
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")


def _source_ids(node: Node, context: Context) -> Classes:
    """Return the classes of what is repeated; a constant gets some of its own along one axis, since it is sliced."""
    name = node.inputs[0]
    value = None if context.is_activation(name) else context.value(name)
    if value is None or value.dtype.kind not in "fV":
        return context.ids(name)
    last = max((axis for axis, length in enumerate(value.shape) if length > 1), default=-1)
    once = last >= 0 and context.shape(node.outputs[0])[last - value.ndim] == value.shape[last]
    return own_ids(
        node, context, 0, tuple(length if axis == last and once else 1 for axis, length in enumerate(value.shape))
    )


def _link_copies(node: Node, context: Context, ids: Classes) -> None:
    """Copies along a new axis leave one by one.

    That is where a Reshape merges it with the one before (heads of a group), and where one number is repeated for each
    channel that it divides, says where each channel is taken from or written to, or fills up (a column of zeros before
    the scores of each head).
    """
    output, elements = node.outputs[0], context.elements
    elements.ids[output] = ids
    shape = context.shape(output)
    axes = tuple(axis for axis, size in enumerate(_padded(context.shape(node.inputs[0]), len(shape))) if size == 1)
    new = tuple(axis for axis in axes if not isinstance(shape[axis], Symbolic) and shape[axis] != 1)
    full = tuple(int(shape[axis]) if axis in new else length for axis, length in enumerate(ids.shape))  # type: ignore[arg-type]
    beside = read_beside(context, output, (Trait.BESIDE, Trait.JOINS)) or _read_by(output, context, _ELEMENTWISE)
    factor = ids.size == 1 and len(new) == 1 and beside
    merged = ids.size > 1 and bool(new) and _read_by(output, context, _MERGING, (0,))
    if not (factor or merged) or np.prod(full) > _MOST_COPIES:
        return
    elements.ids[output] = elements.fresh(full)
    elements.constraints.append(Broadcast(ids, elements.ids[output], new))
    if merged:
        elements.loose.add(output)  # its rows are copies, and the relation says which stay


def _copied(node: Node, context: Context, interval: Interval) -> Interval:
    """What leaves as one of several copies is still there in the original, so that nothing else stands for it."""
    return Interval(interval.lower, interval.upper) if _read_by(node.outputs[0], context, _MERGING, (0,)) else interval


def _padded(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _read_by(name: str, context: Context, operators: Sequence[str], positions: Sequence[int] = (0, 1)) -> bool:
    """Whether a tensor is only read by operators of some kind, at some of their inputs."""
    readers = context.graph.readers.get(name, ())
    alike = all(reader.op in operators and position in positions for reader, position in readers)
    return bool(readers) and alike and name not in context.graph.outputs


def _slice_constant(node: Node, context: Context, rewriter: Rewriter) -> None:
    value = context.value(node.inputs[0])
    if value is not None and rewriter.narrowed(node.outputs[0]):
        rewriter.set_constant(node, 0, rewriter.sliced(value, node.outputs[0]))


def _tile_applies(node: Node, context: Context) -> Refusal | None:
    """Refuse where it is not known how often something is repeated that is not the same everywhere."""
    repeats, interval = _repeats(node, context), context.interval(node.inputs[0])
    shape = np.broadcast_shapes(_source_ids(node, context).shape, interval.lower.shape)
    computed = any(count is None and length > 1 for count, length in zip(repeats, shape, strict=True))
    return Refusal(Reason.UNKNOWN_SHAPE, "Tile with computed repeats") if computed else None


def _repeats(node: Node, context: Context) -> list[int | None]:
    """Return how often a Tile repeats each axis, None where that is known only at run time."""
    sizes = context.sizes(node.inputs[1])
    if sizes is None:
        return [None] * context.rank(node.inputs[0])
    return [None if isinstance(size, Symbolic) else int(size) for size in sizes.ravel()]


def _tiled(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    counts = _repeats(node, context)
    return np.tile(array, [count or 1 if length > 1 else 1 for count, length in zip(counts, array.shape, strict=True)])


def _tile_forward(node: Node, context: Context) -> Sequence[Interval]:
    return [
        _copied(node, context, rearranged(context.interval(node.inputs[0]), lambda array: _tiled(node, context, array)))
    ]


def _tile_carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    return axis if position == 0 and _repeats(node, context)[axis] == 1 else None


def _tile_link(node: Node, context: Context) -> None:
    ids = _tiled(node, context, _source_ids(node, context))
    if context.value(node.inputs[1]) is None:
        context.elements.ids[node.outputs[0]] = ids
    else:
        _link_copies(node, context, ids)


def _tile_repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Of copies that can be told apart fewer are made."""
    _slice_constant(node, context, rewriter)
    counts, source = context.integers(node.inputs[1]), context.shape(node.inputs[0])
    lengths = [rewriter.new_length(node.outputs[0], axis) for axis in range(len(source))]
    fewer = [size == 1 and length is not None for size, length in zip(source, lengths, strict=True)]
    if counts is not None and any(fewer):
        now = [length if flag else count for count, length, flag in zip(counts, lengths, fewer, strict=True)]
        rewriter.set_constant(node, 1, np.array(now, dtype=np.int64))


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
        repair=_tile_repair,
        carries=_tile_carries,
        traits=frozenset({Trait.CARRIES_OVER}),
    )
)


def _expanded(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return aligned(array, context.rank(node.outputs[0]))


def _expand_forward(node: Node, context: Context) -> Sequence[Interval]:
    return [
        _copied(
            node, context, rearranged(context.interval(node.inputs[0]), lambda array: _expanded(node, context, array))
        )
    ]


def _expand_carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    alone = context.shape(node.inputs[0])[axis] == 1  # it becomes longer
    return None if position != 0 or alone else axis + context.rank(node.outputs[0]) - context.rank(node.inputs[0])


def _expand_link(node: Node, context: Context) -> None:
    _link_copies(node, context, _expanded(node, context, _source_ids(node, context)))


def _expand_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    extra = outputs[0].ndim - context.rank(node.inputs[0])
    return [Demand(any_along(outputs[0], tuple(range(extra)))), *held_sizes(node)[1:]]


def _expand_repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    _slice_constant(node, context, rewriter)
    repair_requested_shape(node, context, rewriter)


def _expand_infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """NarrowedShapes of 1 in the target leave the input's; symbolic ones equal to the input's stay recognisable."""
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


def _moved_back(node: Node, context: Context, array: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """An element of which there are several copies has one class if all of them have."""
    own = context.shape(node.inputs[0])
    array = aligned(array, len(own))
    padded = _padded(own, array.ndim)
    output = _padded(context.shape(node.outputs[0]), array.ndim)
    sizes: Iterable[tuple[int, Any, Any]] = zip(array.shape, padded, output, strict=True)
    if any(length > 1 and size != target for length, size, target in sizes):
        return None
    return array.reshape(array.shape[array.ndim - len(own) :])


register(
    OpRule(
        "Expand",
        evaluate=lambda node, inputs: [inputs[0] * np.ones([int(size) for size in inputs[1]], dtype=inputs[0].dtype)],
        infer=_expand_infer,
        forward=_expand_forward,
        link=_expand_link,
        need=_expand_need,
        repair=_expand_repair,
        carries=_expand_carries,
        sliced_from=of_first,
        traits=frozenset({Trait.REPEATS}),
        shape_input=1,
        parameters=operand_parameters(Role.SUMMAND),
        moved_back=_moved_back,
        rows=ScoreRows(finite=first_finite),
    )
)
