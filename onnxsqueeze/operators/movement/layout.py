"""Operators that only rename positions: Transpose, Reshape, Flatten, Squeeze, Unsqueeze."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, any_along
from onnxsqueeze.abstract.interval import Interval, compact, rearranged
from onnxsqueeze.abstract.reshaping import blocks, reshape
from onnxsqueeze.abstract.symbolic import Dimension, Shape, Symbolic, divide, product, symbol
from onnxsqueeze.coupling.constraints import outer
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.kept import Kept, reordered
from onnxsqueeze.rules.queries import held_sizes
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.shapes.computed_shapes import repair_requested_shape
from onnxsqueeze.shapes.reader_hints import asks_for_last, length_expected


def _order(node: Node, rank: int) -> list[int]:
    return [int(axis) for axis in node.attributes.get("perm", range(rank)[::-1])]


def _transpose_intervals(node: Node, context: Context) -> Sequence[Interval]:
    interval = context.interval(node.inputs[0])
    order = _order(node, interval.lower.ndim)
    return [rearranged(interval, lambda array: array.transpose(order))]


def _transpose_link(node: Node, context: Context) -> None:
    """Where the last varying axis does not stay the last, rows may no longer keep different positions."""
    ids = context.ids(node.inputs[0])
    order = _order(node, ids.ndim)
    context.elements.ids[node.outputs[0]] = ids.transpose(order)
    varying = [axis for axis in order if ids.shape[axis] > 1]
    if varying and varying[-1] != max(varying):
        context.elements.strict.update((node.inputs[0], node.outputs[0]))


def _transpose_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    order = _order(node, outputs[0].ndim)
    return [Demand(outputs[0].transpose(np.argsort(order)))]


def _transpose_sliced(node: Node, context: Context, kept: Kept) -> Sequence[Kept | None]:
    order = _order(node, len(kept))
    return [tuple(kept[order.index(axis)] for axis in range(len(kept)))]


register(
    OpRule(
        "Transpose",
        evaluate=lambda node, inputs: [inputs[0].transpose(_order(node, inputs[0].ndim))],
        forward=_transpose_intervals,
        link=_transpose_link,
        need=_transpose_need,
        carries=lambda node, context, position, axis: _order(node, context.rank(node.inputs[0])).index(axis),
        traits=frozenset({Trait.REARRANGES}),
        permutes=_order,
        sliced_from=_transpose_sliced,
    )
)


def _shapes(node: Node, context: Context) -> tuple[Shape, Shape]:
    return context.shape(node.inputs[0]), context.shape(node.outputs[0])


def _reshape_intervals(node: Node, context: Context) -> Sequence[Interval]:
    source, target = _shapes(node, context)
    interval = context.interval(node.inputs[0])
    lower = reshape(interval.lower, source, target, lambda array, axes: array.min(axis=axes, keepdims=True))
    upper = reshape(interval.upper, source, target, lambda array, axes: array.max(axis=axes, keepdims=True))
    marks = [_reshaped(mark, interval, source, target) for mark in (interval.reconstructible, interval.exact)]
    shape = np.broadcast_shapes(*(array.shape for array in (lower, upper, *marks) if array is not None))
    lower, upper = np.broadcast_to(lower, shape), np.broadcast_to(upper, shape)
    return [
        compact(Interval(lower, upper, *(None if mark is None else np.broadcast_to(mark, shape) for mark in marks)))
    ]


def _reshaped(mark: Bools | None, interval: Interval, source: Shape, target: Shape) -> Bools | None:
    """Return a mark as it is after a reshape: of positions that become one, where all have it."""
    if mark is None:
        return None
    whole = np.broadcast_to(mark, interval.lower.shape)
    return reshape(whole, source, target, lambda array, axes: np.asarray(array.all(axis=axes, keepdims=True)))


def _reshape_link(node: Node, context: Context) -> None:
    source, target = _shapes(node, context)
    ids = reshape(context.ids(node.inputs[0]), source, target, context.elements.merge)
    context.elements.ids[node.outputs[0]] = ids
    shuffle = _shuffle(node, context)
    if shuffle is not None:
        first, transpose = shuffle
        context.elements.shuffles[node.outputs[0]] = first.inputs[0]
        inner = (first.outputs[0], transpose.inputs[0], transpose.outputs[0], node.inputs[0])
        context.elements.loose.update(inner)


def _shuffle(node: Node, context: Context) -> tuple[Node, Node] | None:
    """Return Reshape and Transpose of a channel shuffle that ends in a Reshape, with nothing else between them.

    It permutes the channels of one tensor, all else as it was, so that a Gather can do what is left of it.
    """
    transpose = _only_source(node, "Transpose", context)
    first = None if transpose is None else _only_source(transpose, "Reshape", context)
    if first is None or transpose is None:
        return None
    root, output = first.inputs[0], node.outputs[0]
    before, after = context.ids(root), context.ids(output)
    alone = before.size == max(before.shape, default=1) in context.shapes.get(root, ()) and before.size > 1
    if not context.is_activation(root) or not alone or context.shapes.get(root) != context.shape(output):
        return None
    same = before.shape == after.shape and np.array_equal(np.sort(before, axis=None), np.sort(after, axis=None))
    return (first, transpose) if same else None


def _only_source(node: Node, op: str, context: Context) -> Node | None:
    """Return the node of an operator that a node alone reads, through an Identity (a clone) at most."""
    source = context.graph.producers.get(node.inputs[0])
    if source is None or context.graph.sole_reader(node.inputs[0]) is None:
        return None
    if source.op == "Identity":
        return _only_source(source, op, context)
    return source if source.op == op else None


def _repair_shuffle(node: Node, context: Context, rewriter: Rewriter) -> bool:
    """Gather what is left of shuffled channels, unless the shuffle's own nodes still do it; return whether it did."""
    root = context.elements.shuffles.get(node.outputs[0])
    transpose = _only_source(node, "Transpose", context)
    if root is None or transpose is None or not rewriter.narrowed(root):
        return False
    rows = rewriter.mask(transpose.inputs[0])
    if np.array_equal(rows, outer(rows)):
        return False
    axis = int(np.argmax(context.ids(root).shape))
    places = np.arange(context.ids(root).size).reshape(context.ids(root).shape)
    inner = reshape(places, context.shape(root), context.shape(transpose.inputs[0]), _never)
    inner = inner.transpose(_order(transpose, inner.ndim))
    moved = reshape(inner, context.shape(node.inputs[0]), context.shape(node.outputs[0]), _never).ravel()
    rank = np.cumsum(rewriter.positions(root, axis)) - 1
    indices = rank[moved[rewriter.positions(node.outputs[0], axis)]]
    rewriter.replace(node, "Gather", [root, indices.astype(np.int64)], axis=axis)
    return True


def _never(array: Array, axes: tuple[int, ...]) -> Array:
    raise AssertionError("a shuffle whose classes are told apart has no axes to merge")


def _reshape_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    source, target = _shapes(node, context)
    live = reshape(outputs[0], target, source, lambda array, axes: any_along(array, axes, True))
    return [Demand(live), *held_sizes(node)[1:]]


def _carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    """An axis that is neither split nor merged with another that is longer than 1 stays an axis."""
    source, target = _shapes(node, context)
    for before, after in blocks(source, target) if position == 0 else ():
        outer = [place for place in after if target[place] != 1]
        if [place for place in before if source[place] != 1] == [axis] and len(outer) == 1:
            return outer[0]
    return None


def _reshape_value(node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    data, target = inputs
    sizes = [
        data.shape[axis] if size == 0 and not node.attributes.get("allowzero") else size
        for axis, size in enumerate(target)
    ]
    return [data.reshape([int(size) for size in sizes])]


def _reshape_infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """Resolve 0 and -1 with symbolic sizes."""
    target = context.sizes(node.inputs[1])
    if target is None or node.inputs[0] not in context.shapes:
        return [None]
    source = context.shape(node.inputs[0])
    sizes = [
        source[axis] if _is(size, 0) and not node.attributes.get("allowzero") else size
        for axis, size in enumerate(target)
    ]
    if not any(_is(size, -1) for size in sizes):
        return [tuple(size if isinstance(size, Symbolic) else int(size) for size in sizes)]
    missing = _quotient(source, [size for size in sizes if not _is(size, -1)])
    if missing is None:
        read = length_expected(context.graph, node.outputs[0], len(sizes)) if _is(sizes[-1], -1) else None
        missing = symbol(f"{node.outputs[0]}:-1") if read is None else read
    return [tuple(missing if _is(size, -1) else size if isinstance(size, Symbolic) else int(size) for size in sizes)]


def _quotient(source: Shape, sizes: Sequence[Any]) -> Dimension | None:
    """Return the size that is left over, None if that cannot be told; sizes on both sides cancel, whatever they are."""
    left, right = list(source), []
    for size in sizes:
        if size in left:
            left.remove(size)
        else:
            right.append(size)
    return divide(product(tuple(left)), product(tuple(right)))


def _is(size: Any, number: int) -> bool:
    return not isinstance(size, Symbolic) and int(size) == number


def _reshape_repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    if _repair_shuffle(node, context, rewriter):
        return
    output = node.outputs[0]
    lengths = [rewriter.new_length(output, axis) for axis in range(context.rank(output))]
    target = _constant_target(*_shapes(node, context), lengths)
    if target is not None and node.attributes.get("allowzero") and 0 in target:
        target = None  # there it is a length
    repair_requested_shape(node, context, rewriter, target)


def _constant_target(source: Shape, target: Shape, lengths: Sequence[Dimension | None]) -> Array | None:
    """Return a target that needs no computed sizes: 0 copies the input's, and one may be left to be found out as -1."""
    sizes: list[int] = []
    for axis, (size, length) in enumerate(zip(target, lengths, strict=True)):
        if not isinstance(size, Symbolic):
            sizes.append(length if isinstance(length, int) else size)
        else:
            sizes.append(0 if length is None and axis < len(source) and source[axis] == size else -1)
    return np.array(sizes, dtype=np.int64) if sizes.count(-1) <= 1 else None


def _flatten_value(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    axis = int(node.attributes.get("axis", 1))
    axis = axis + inputs[0].ndim if axis < 0 else axis
    return [inputs[0].reshape(int(np.prod(inputs[0].shape[:axis])), int(np.prod(inputs[0].shape[axis:])))]


def _flatten_infer(node: Node, context: Context) -> Sequence[Shape | None]:
    if node.inputs[0] not in context.shapes:
        return [None]
    source = context.shape(node.inputs[0])
    axis = int(node.attributes.get("axis", 1))
    axis = axis + len(source) if axis < 0 else axis
    return [(product(source[:axis]), product(source[axis:]))]


def _axes(node: Node, inputs: Sequence[Any]) -> tuple[int, ...] | None:
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(int(axis) for axis in inputs[1])
    return tuple(node.attributes["axes"]) if "axes" in node.attributes else None


def _squeeze_value(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    return [np.squeeze(inputs[0], _axes(node, inputs))]


def _unsqueeze_value(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    axes = _axes(node, inputs)
    assert axes is not None
    return [np.expand_dims(inputs[0], axes)]


def _squeeze_infer(node: Node, context: Context) -> Sequence[Shape | None]:
    axes = _given_axes(node, context)
    if node.inputs[0] not in context.shapes or axes is None:
        return [None]
    source = context.shape(node.inputs[0])
    gone = {axis % len(source) for axis in axes}
    return [tuple(size for axis, size in enumerate(source) if axis not in gone)]


def _unsqueeze_infer(node: Node, context: Context) -> Sequence[Shape | None]:
    axes = _given_axes(node, context)
    if node.inputs[0] not in context.shapes or axes is None:
        return [None]
    source = iter(context.shape(node.inputs[0]))
    rank = context.rank(node.inputs[0]) + len(axes)
    new = {axis % rank for axis in axes}
    return [tuple(1 if axis in new else next(source) for axis in range(rank))]


def _given_axes(node: Node, context: Context) -> list[int] | None:
    return context.integers(node.input(1)) if node.input(1) else node.attributes.get("axes")


def _reshape_sliced(node: Node, context: Context, kept: Kept) -> Sequence[Kept | None] | None:
    before, after = context.value(node.inputs[0]), context.value(node.outputs[0])
    found = None if before is None or after is None else reordered(kept, before.shape, after.shape)
    return None if found is None else [found, *(None for _ in node.inputs[1:])]


def _squeeze_sliced(node: Node, context: Context, kept: Kept) -> Sequence[Kept | None] | None:
    """Without given axes one of which a single position is left would go as well."""
    return None if _given_axes(node, context) is None else _reshape_sliced(node, context, kept)


def _same_elements(op: str, **fields: Any) -> OpRule:
    fields.setdefault("sliced_from", _reshape_sliced)
    fields.update(carries=_carries, traits=frozenset({Trait.REARRANGES}))
    return OpRule(op, forward=_reshape_intervals, link=_reshape_link, need=_reshape_need, **fields)


def _expects(node: Node, graph: Graph, position: int, rank: int) -> int | None:
    """What keeps the last axis as it is expects of it what its readers do."""
    if position or not asks_for_last(graph, node.inputs[1], node.inputs[0], rank):
        return None
    return length_expected(graph, node.outputs[0], 0)


register(
    _same_elements(
        "Reshape",
        since=5,
        evaluate=_reshape_value,
        infer=_reshape_infer,
        repair=_reshape_repair,
        shape_input=1,
        expects=_expects,
    ),
    _same_elements("Flatten", evaluate=_flatten_value, infer=_flatten_infer),
    _same_elements("Squeeze", evaluate=_squeeze_value, infer=_squeeze_infer, sliced_from=_squeeze_sliced),
    _same_elements("Unsqueeze", evaluate=_unsqueeze_value, infer=_unsqueeze_infer),
)
