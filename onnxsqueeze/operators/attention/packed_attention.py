"""Attention of com.microsoft, which projects its input to queries, keys and values by a weight of its own.

PackedAttention does the same for the tokens of all sequences in one row, without those that only fill up sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools, all_finite, any_along
from onnxsqueeze.abstract.interval import Interval, top
from onnxsqueeze.abstract.symbolic import Shape, symbol
from onnxsqueeze.coupling.constraint import Classes, Constraint, Kept
from onnxsqueeze.coupling.constraints import NotEmpty
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.attention.heads import HeadSizes
from onnxsqueeze.operators.attention.scores import (
    Scores,
    cancelled_products,
    everything,
    head_classes,
    masked_specials,
    mean,
    per_head,
    reading_specials,
    scores_demand,
    slack,
    slice_scores,
)
from onnxsqueeze.operators.linear.bounds import bounds
from onnxsqueeze.operators.linear.repair import absorbs, reconstructs, repair
from onnxsqueeze.operators.linear.rule import need
from onnxsqueeze.operators.linear.view import constant_weight
from onnxsqueeze.rules.channels import channel_ids
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.memo import per_node, refusal_of, view_or_error
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.parameters import along
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Rewriter
from onnxsqueeze.rules.tied_weights import tie
from onnxsqueeze.rules.weight_source import codes_of
from onnxsqueeze.rules.weight_view import Linear

_SIZES = "qkv_hidden_sizes"


@dataclass(frozen=True)
class Projected:
    """One node.

    Attributes:
        linear: its weight and bias, as of a linear node with queries, keys and values as one output.
        heads: how many. size, value_size: elements of each head of queries and keys, and of values.
        cached: whether it reads or writes a cache of keys and values, in which heads and sizes are fixed.
        scores: see `Attention`.
        alike: whether queries and values must have one size: QAttention, as which a node of codes is written again,
            knows no sizes but that.
    """

    linear: Linear
    heads: int
    size: int
    value_size: int
    cached: bool
    scores: Scores
    alike: bool

    def split(self, row: Array) -> tuple[Array, Array, Array]:
        """Return queries, keys and values of a vector over all outputs of the weight, each as [heads, size]."""
        inner = self.heads * self.size
        query, key, value = np.split(row.reshape(-1), [inner, 2 * inner])
        return query.reshape(self.heads, -1), key.reshape(self.heads, -1), value.reshape(self.heads, -1)


@dataclass(frozen=True)
class Products(Constraint):
    """A head that stays keeps each product of queries and keys that makes a difference.

    Attributes:
        products: classes [heads, size]. values: classes [heads, value size]. matters: [heads, size].
    """

    products: Classes
    values: Classes
    matters: Bools
    by_value: ClassVar[bool] = True

    def enforce(self, kept: Kept) -> None:
        """Add those products."""
        heads = any_along(kept.mask[self.values], 1)
        kept.add(self.products[heads[:, None] & self.matters], Reason.NEEDED)


_PACKED = "PackedAttention"


def _rank(node: Node) -> int:
    """Return the rank of what it reads and writes: without an axis for sequences where tokens are packed."""
    return 2 if node.op == _PACKED else 3


def _restore(array: Array) -> Array:
    return np.asarray(array[0, :, :, 0].T)


@per_node
def _view(node: Node, context: Context) -> Projected | Refusal:
    rank, packed = _rank(node), node.op == _PACKED
    if node.attributes.get("do_rotary", 0) or node.input(6):
        return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.operator} with rotation or a shared cache")
    weight = constant_weight(node, context, 1)
    if isinstance(weight, Refusal):
        return weight
    bias = context.value(node.input(2)) if node.input(2) else None
    if bias is None:
        return Refusal(Reason.COMPUTED_WEIGHT, f"{node.operator} without a constant bias")
    for position, array in ((1, weight), (2, bias)):
        if not all_finite(array):
            return Refusal(Reason.NOT_FINITE, node.inputs[position])
    heads = int(node.attributes["num_heads"])
    sizes = [int(size) for size in node.attributes.get(_SIZES, [weight.shape[-1] // 3] * 3)]
    fits = weight.ndim == 2 and bias.shape == (sum(sizes),) and weight.shape[1] == sum(sizes) and sizes[0] == sizes[1]
    if not fits or any(size % heads for size in sizes) or context.rank(node.inputs[0]) != rank:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    linear = Linear(
        data=node.inputs[0],
        weight=node.inputs[1],
        bias=node.inputs[2],
        position=1,
        data_axis=rank - 1,
        output_axis=rank - 1,
        matrix=weight.T[None, :, :, None],
        zero_padded=False,
        restore=_restore,
    )
    cached = not packed and (bool(node.input(4)) or any(node.outputs[1:]))
    alike = packed or (_SIZES not in node.attributes and codes_of(context, node.inputs[1]) is not None)
    return Projected(linear, heads, sizes[0] // heads, sizes[2] // heads, cached, per_head(context, node, 5, 3), alike)


_viewed = view_or_error(_view)


def _inner(node: Node) -> str:
    """Return the name under which the elements of queries and keys are known, which are tensors of no graph."""
    return f"{node.outputs[0]}: queries and keys"


@per_node
def _bounds(node: Node, context: Context) -> list[Interval]:
    """Bound queries, keys and values, each as [heads, size]."""
    view = _viewed(node, context)
    interval = bounds(node, context, view.linear)
    return [Interval(*pair) for pair in zip(view.split(interval.lower), view.split(interval.upper), strict=True)]


@per_node
def _cancelled(node: Node, context: Context) -> Bools:
    """Return which products of queries and keys make no difference, [heads, size]."""
    view, (queries, keys, _) = _viewed(node, context), _bounds(node, context)
    products = cancelled_products(queries, keys, (view.heads, 1), cancels=True)[:, 0]
    return np.full(products.shape, False) if view.cached else products


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Values are averaged."""
    result = mean(_bounds(node, context)[2], True, slack(context, node.inputs[0]))
    row = (1,) * (_rank(node) - 1) + (-1,)
    output = Interval(result.lower.reshape(row), result.upper.reshape(row))
    past = node.op != _PACKED and node.input(4)
    return [top(3) if past else output, *(top(context.rank(name)) for name in node.outputs[1:])]


def _link(node: Node, context: Context) -> None:
    """Queries and keys get classes as a tensor would: [heads, size], the two of one product in one class."""
    view, elements = _viewed(node, context), context.elements
    inputs = channel_ids(context, view.linear.data, view.linear.data_axis)
    width = 1 if view.cached else view.heads * view.value_size
    output = elements.ids[node.outputs[0]] = elements.fresh((1,) * (_rank(node) - 1) + (width,))
    for name in node.outputs[1:]:
        elements.ids[name] = elements.fresh((1,) * context.rank(name))
    products = elements.fresh((view.heads, view.size))
    context.shapes[_inner(node)], elements.ids[_inner(node)] = (view.heads, view.size), products
    elements.inner[node.index] = _inner(node)
    values = np.broadcast_to(output.ravel(), (view.heads * view.value_size,)).reshape(view.heads, -1)
    columns = np.concatenate([products.ravel(), products.ravel(), values.ravel()])  # whatever heads another user sees
    tie(context, view.linear.weight, {0: inputs.ravel(), 1: columns})
    others = [head_classes(node, context, (view.heads, 1), *entry) for entry in view.scores]
    elements.constraints += [
        Products(products, values, ~_cancelled(node, context)),
        HeadSizes(
            products[:, None],
            products,
            values[:, None],
            values,
            tuple(classes for classes in others if classes is not None),
            1,
            view.alike,
            node.operator,
        ),
        NotEmpty(inputs, output),
    ]


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An input channel is live if a value that is needed reads it, or a product of a head that is needed."""
    view = _viewed(node, context)
    shown = any(bool(output.any()) for output in outputs[1:])  # a cache holds all keys and values
    row = np.broadcast_to(outputs[0].ravel() | shown, (view.heads * view.value_size,))
    values = row.reshape(view.heads, -1)
    heads = any_along(values, 1)
    products = heads[:, None] & ~_cancelled(node, context)
    wanted = np.concatenate([products.ravel(), products.ravel(), values.ravel()])
    demands: list[Demand | None] = [everything(node) for _ in node.inputs]
    demands[0] = need(node, context, view.linear, [wanted])[0]
    for position, axis in view.scores:
        demands[position] = scores_demand(node, context, position, axis, heads)
    return demands


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice the weight and the bias, fold what constants gave, and write the sizes and the original's scale."""
    view = _viewed(node, context)
    kept = rewriter.mask(node.outputs[0]).ravel() | view.cached  # a cache is written whether or not the result is read
    row = np.broadcast_to(kept, (view.heads * view.value_size,))
    values = row.reshape(view.heads, -1)
    heads = any_along(values, 1)
    products = np.broadcast_to(rewriter.mask(_inner(node)) | view.cached, (view.heads, view.size)) & heads[:, None]
    rows = np.concatenate([products.ravel(), products.ravel(), row])
    repair(node, context, rewriter, view.linear, rows[None])
    if rows.all():
        return
    sizes = [int(mask.sum()) for mask in (products, products, values)]
    if not view.alike:
        rewriter.set_attribute(node, _SIZES, sizes)
    rewriter.set_attribute(node, "num_heads", int(heads.sum()))
    if sizes[0] < view.size * int(heads.sum()) and not node.attributes.get("scale", 0.0):
        rewriter.set_attribute(node, "scale", 1.0 / float(np.sqrt(view.size)))
    slice_scores(node, context, rewriter, view.scores, heads)


def _parameters(node: Node, context: Context) -> Sequence[Parameter]:
    """The weight makes queries, keys and values side by side; the first two have the classes of their products."""
    view = _viewed(node, context)
    products = context.ids(_inner(node)).ravel()
    values = np.broadcast_to(context.ids(node.outputs[0]).ravel(), (view.heads * view.value_size,))
    rows = np.concatenate([products, products, values])
    data = along(context, view.linear.data, view.linear.data_axis)
    return [
        Parameter(node.inputs[1], 1, Role.WEIGHT, (data[:, None], rows[None, :]), (node.inputs[0], (0, 1))),
        Parameter(node.inputs[2], 2, Role.SUMMAND, (rows,)),
    ]


def _shapes(node: Node, context: Context) -> Sequence[Shape | None]:
    shape, weight = context.shapes.get(node.inputs[0]), context.shapes.get(node.inputs[1])
    if shape is None or weight is None or len(shape) != _rank(node) or not isinstance(weight[-1], int):
        return [None] * len(node.outputs)
    heads = int(node.attributes["num_heads"])
    sizes = node.attributes.get(_SIZES, [weight[-1] // 3] * 3)
    if node.op == _PACKED:
        return [(shape[0], int(sizes[2]))]
    present = (2, shape[0], heads, symbol(f"{node.outputs[-1]}:3"), sizes[2] // heads)
    return [(shape[0], shape[1], int(sizes[2])), present][: len(node.outputs)]


def _rule(op: str) -> OpRule:
    return OpRule(
        op,
        domain="com.microsoft",
        infer=_shapes,
        applies=refusal_of(_view),
        forward=_forward,
        specials=masked_specials(5),
        link=_link,
        need=lambda node, context, outputs: reading_specials(node, context, _need(node, context, outputs)),
        repair=_repair,
        absorbs=lambda node, context, position, axis: absorbs(_viewed(node, context).linear, node, position, axis),
        parameters=_parameters,
        contracts=lambda node, context: [node.inputs[0]],
        reconstructs=lambda node, context, position, axis: reconstructs(
            _viewed(node, context).linear, node, position, axis
        ),
    )


register(_rule("Attention"), _rule(_PACKED))
