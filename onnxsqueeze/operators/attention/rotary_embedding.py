"""RotaryEmbedding of both domains: pairs of elements of each head are turned by angles from a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, any_along
from onnxsqueeze.abstract.interval import Interval
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.constraint import Classes, Constraint, Kept
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.attention.heads import Heads, heads_of
from onnxsqueeze.operators.attention.scores import everything
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.memo import per_node, refusal_of, view_or_error
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter


@dataclass(frozen=True)
class Rotation:
    """One node: its operand, [pairs, 2] the elements of a head that are turned together, and where its tables stand."""

    operand: Heads
    result: Heads
    pairs: Array
    tables: tuple[int, int]


@dataclass(frozen=True)
class SameInEachHead(Constraint):
    """One table serves all heads: each head that stays keeps the same elements, those of every column that stays.

    Attributes:
        heads: classes [heads, size]. pairs: [pairs, 2], which elements of a head are turned together.
        columns: for each computed table, the class of each of its columns, [pairs].
        operator: its name, for reports.
    """

    heads: Classes
    pairs: Array
    columns: tuple[Classes, ...]
    operator: str

    def enforce(self, kept: Kept) -> None:
        """Add what some head keeps to all heads that stay, and at least one pair."""
        mask = kept.mask[self.heads]
        heads, size = any_along(mask, 1), any_along(mask, 0)
        if not heads.any():
            return
        turned = any_along(size[self.pairs], 1)
        for column in self.columns:
            turned = turned | kept.mask[column]
        if not turned.any():
            turned = np.arange(len(turned)) == 0
        size = size.copy()
        size[self.pairs[turned]] = True
        kept.add(self.heads[heads[:, None] & size], Reason.REGULAR, self.operator)

    def coupled(self) -> Iterator[tuple[Classes, Classes]]:
        """An element with the same one of every head, with the other of its pair, and with the tables' columns."""
        yield self.heads, self.heads[:1]
        for column in self.columns:
            yield self.heads[0][self.pairs], column[:, None]
        yield self.heads[:, self.pairs[:, 0]], self.heads[:, self.pairs[:, 1]]


@per_node
def _view(node: Node, context: Context) -> Rotation | Refusal:
    tables = (2, 3) if node.domain else (1, 2)
    columns = context.shapes.get(node.inputs[tables[0]], (None,))[-1]
    shape = context.shape(node.inputs[0])
    heads = int(node.attributes.get("num_heads", 0))
    width = int(node.attributes.get("rotary_embedding_dim", 0))
    if not isinstance(columns, int) or node.attributes.get("is_packed_batching", 0):
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    if not heads and len(shape) == 3 and isinstance(shape[2], int):
        heads = shape[2] // (2 * columns)  # without a count a head is as wide as the table says
    operand = heads_of(context, node.inputs[0], 0, heads)
    result = heads_of(context, node.outputs[0], 0, heads)
    if operand is None or result is None or (width or operand.size) != 2 * columns or operand.size < 2 * columns:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    order = np.arange(2 * columns)
    pairs = order.reshape(-1, 2) if node.attributes.get("interleaved", 0) else order.reshape(2, -1).T
    return Rotation(operand, result, pairs, tables)


_viewed = view_or_error(_view)


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """A pair of zeros stays one; of any other the two bounds are lost. What is not turned passes."""
    view = _viewed(node, context)
    interval = view.operand.bounds(context)
    lower, upper = interval.lower.copy(), interval.upper.copy()
    zero = ((lower == 0) & (upper == 0))[:, view.pairs].all(axis=2)[:, :, None]
    lower[:, view.pairs] = np.where(zero, 0.0, -np.inf)
    upper[:, view.pairs] = np.where(zero, 0.0, np.inf)
    return [Interval(view.result.placed(lower), view.result.placed(upper))]


def _link(node: Node, context: Context) -> None:
    """Elements stay at their places; both of a pair go into both of the result's."""
    view, elements = _viewed(node, context), context.elements
    classes = view.operand.classes(context)
    elements.ids[node.outputs[0]] = view.result.placed(classes)
    elements.constraints.append(SameInEachHead(classes, view.pairs, _columns(node, context, view), node.operator))


def _columns(node: Node, context: Context, view: Rotation) -> tuple[Classes, ...]:
    """Return the classes of the columns of those tables that the graph computes."""
    found = []
    for name in (node.inputs[position] for position in view.tables):
        if context.is_activation(name):
            ids = context.elements.merge(context.ids(name), tuple(range(context.rank(name) - 1)))
            context.elements.ids[name] = ids
            found.append(np.broadcast_to(ids.ravel(), (len(view.pairs),)))
    return tuple(found)


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """What is needed of a pair needs both of its elements, which stay if constant: their result is none."""
    view = _viewed(node, context)
    live = view.result.table(outputs[0]).copy()
    turned = live[:, view.pairs].any(axis=2)
    live[:, view.pairs] = turned[:, :, None]
    hold = np.full(live.shape, False)
    hold[:, view.pairs] = turned[:, :, None]
    placed, held = view.operand.placed(live), view.operand.placed(hold)
    held = held & context.interval(node.inputs[0]).constant
    demands: list[Demand | None] = [everything(node) for _ in node.inputs]
    demands[0] = Demand(placed, held, Reason.CONSTANT_READ, node.operator)
    for position in view.tables:
        demands[position] = _columns_needed(node, context, position, any_along(turned, 0))
    return demands


def _columns_needed(node: Node, context: Context, position: int, turned: Bools) -> Demand:
    live = turned.reshape((1,) * (context.rank(node.inputs[position]) - 1) + (-1,))
    return Demand(live, live & context.interval(node.inputs[position]).constant, Reason.CONSTANT_READ, node.operator)


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the tables and write the counts."""
    view = _viewed(node, context)
    kept = view.operand.table(rewriter.mask(node.inputs[0]))
    turned = any_along(kept, 0)[view.pairs[:, 0]]
    for position in view.tables:
        array = context.value(node.inputs[position])
        if array is not None and not turned.all():
            rewriter.set_constant(node, position, array[..., turned])
    if node.attributes.get("num_heads", 0) and not any_along(kept, 1).all():
        rewriter.set_attribute(node, "num_heads", int(any_along(kept, 1).sum()))
    if node.attributes.get("rotary_embedding_dim", 0) and not turned.all():
        rewriter.set_attribute(node, "rotary_embedding_dim", 2 * int(turned.sum()))


def _shape(node: Node, context: Context) -> Sequence[Shape | None]:
    return [context.shapes.get(node.inputs[0])]


def _rule(domain: str, since: int) -> OpRule:
    return OpRule(
        "RotaryEmbedding",
        domain=domain,
        since=since,
        infer=_shape,
        applies=refusal_of(_view),
        forward=_forward,
        link=_link,
        need=_need,
        repair=_repair,
    )


register(_rule("", 23), _rule("com.microsoft", 1))
