"""Operators that only rename positions: Transpose, Reshape, Flatten, Squeeze, Unsqueeze."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxsqueeze.dimension import Shape, Symbolic, divide, product, symbol
from onnxsqueeze.elements import Order
from onnxsqueeze.fact import Bools, Fact, any_along, compact
from onnxsqueeze.graph import Node
from onnxsqueeze.reshaping import blocks, reshape
from onnxsqueeze.rule import Array, Context, Demand, OpRule, absorbed_by_readers, held_sizes, register
from onnxsqueeze.sizes import patch_sizes

if TYPE_CHECKING:
    from onnxsqueeze.editor import Editor


def _order(node: Node, rank: int) -> list[int]:
    return [int(axis) for axis in node.attributes.get("perm", range(rank)[::-1])]


def _transpose_facts(node: Node, context: Context) -> Sequence[Fact]:
    fact = context.fact(node.inputs[0])
    order = _order(node, fact.lower.ndim)
    return [Fact(fact.lower.transpose(order), fact.upper.transpose(order))]


def _transpose_link(node: Node, context: Context) -> None:
    """Where two varying axes change places, their rows are interleaved, unless a reader wants them straight."""
    elements, data, output = context.elements, node.inputs[0], node.outputs[0]
    ids = context.ids(data)
    order = _order(node, ids.ndim)
    elements.ids[output] = ids.transpose(order)
    varying = [axis for axis in order if ids.shape[axis] > 1]
    if varying == sorted(varying):
        return
    if len(varying) == 2 and data not in elements.orders and context.is_activation(data):
        places, rows = varying
        elements.orders[output] = Order(data, ids.shape[rows], ids.shape[places], order.index(places), merged=False)
    else:
        elements.strict.update((data, output))


def _transpose_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    order = _order(node, outputs[0].ndim)
    return [Demand(outputs[0].transpose(np.argsort(order)))]


register(
    OpRule(
        "Transpose",
        evaluate=lambda node, inputs: [inputs[0].transpose(_order(node, inputs[0].ndim))],
        forward=_transpose_facts,
        link=_transpose_link,
        need=_transpose_need,
    )
)


def _shapes(node: Node, context: Context) -> tuple[Shape, Shape]:
    return context.shape(node.inputs[0]), context.shape(node.outputs[0])


def _reshape_facts(node: Node, context: Context) -> Sequence[Fact]:
    source, target = _shapes(node, context)
    fact = context.fact(node.inputs[0])
    lower = reshape(fact.lower, source, target, lambda array, axes: array.min(axis=axes, keepdims=True))
    upper = reshape(fact.upper, source, target, lambda array, axes: array.max(axis=axes, keepdims=True))
    lower, upper = np.broadcast_arrays(lower, upper)
    return [compact(Fact(lower, upper))]


def _reshape_link(node: Node, context: Context) -> None:
    source, target = _shapes(node, context)
    ids = reshape(context.ids(node.inputs[0]), source, target, context.elements.merge)
    context.elements.ids[node.outputs[0]] = ids
    order = context.elements.orders.get(node.inputs[0])
    axis = None if order is None or order.merged else _merged_axis(source, target, order.axis)
    if order is not None and axis is not None and ids.size == order.rows * order.places:
        context.elements.orders[node.outputs[0]] = replace(order, axis=axis, merged=True)


def _merged_axis(source: Shape, target: Shape, axis: int) -> int | None:
    """Return the target's axis that just an axis and its next neighbour of the source became, None if there is none."""
    for before, after in blocks(source, target):
        inner = [place for place in before if source[place] != 1]
        outer = [place for place in after if target[place] != 1]
        if inner == [axis, axis + 1] and len(outer) == 1:
            return outer[0]
    return None


def _reshape_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    source, target = _shapes(node, context)
    live = reshape(outputs[0], target, source, lambda array, axes: any_along(array, axes, True))
    return [Demand(live), *held_sizes(node)[1:]]


def _same_place(node: Node, context: Context, axis: int) -> bool:
    """Whether an axis stays where it is, as channels do when space of one pixel is flattened."""
    source, target = _shapes(node, context)
    return axis < min(len(source), len(target)) and source[: axis + 1] == target[: axis + 1]


def _absorbs(node: Node, context: Context, position: int, axis: int) -> bool:
    in_place = position == 0 and _same_place(node, context, axis)
    return in_place and absorbed_by_readers(context, node.outputs[0], axis)


def _hand_on(node: Node, editor: Editor) -> None:
    taken = editor.taken_offset(node.inputs[0])
    if taken is not None:
        editor.hand_on(node.outputs[0], *taken)


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
    rest = product(tuple(size for size in sizes if not _is(size, -1)))
    missing = divide(product(source), rest)
    if missing is None:
        missing = symbol(f"{node.outputs[0]}:-1")
    return [tuple(missing if _is(size, -1) else size if isinstance(size, Symbolic) else int(size) for size in sizes)]


def _is(size: Any, number: int) -> bool:
    return not isinstance(size, Symbolic) and int(size) == number


def _reshape_repair(node: Node, context: Context, editor: Editor) -> None:
    _hand_on(node, editor)
    output = node.outputs[0]
    lengths = [editor.new_length(output, axis) for axis in range(context.rank(output))]
    target = None if node.attributes.get("allowzero") else _constant_target(*_shapes(node, context), lengths)
    patch_sizes(node, context, editor, target)


def _constant_target(source: Shape, target: Shape, lengths: Sequence[int | None]) -> Array | None:
    """Return a target that needs no computed sizes: 0 copies the input's, and one may be left to be found out as -1."""
    sizes: list[int] = []
    for axis, (size, length) in enumerate(zip(target, lengths, strict=True)):
        if not isinstance(size, Symbolic):
            sizes.append(size if length is None else length)
        else:
            sizes.append(0 if axis < len(source) and source[axis] == size else -1)
    return np.array(sizes, dtype=np.int64) if sizes.count(-1) <= 1 else None


def _flatten_value(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    axis = int(node.attributes.get("axis", 1)) % max(1, inputs[0].ndim + 1)
    return [inputs[0].reshape(int(np.prod(inputs[0].shape[:axis])), -1)]


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


def _same_elements(op: str, **fields: Any) -> OpRule:
    fields.setdefault("repair", lambda node, context, editor: _hand_on(node, editor))
    return OpRule(op, forward=_reshape_facts, link=_reshape_link, need=_reshape_need, absorbs=_absorbs, **fields)


register(
    _same_elements("Reshape", since=5, evaluate=_reshape_value, infer=_reshape_infer, repair=_reshape_repair, sizes=1),
    _same_elements("Flatten", evaluate=_flatten_value, infer=_flatten_infer),
    _same_elements("Squeeze", evaluate=_squeeze_value, infer=_squeeze_infer),
    _same_elements("Unsqueeze", evaluate=_unsqueeze_value, infer=_unsqueeze_infer),
)
