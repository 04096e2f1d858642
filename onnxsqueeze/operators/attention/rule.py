"""The rule of an operator that computes softmax(q k / sqrt(size) + bias) v, made from the view of its node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Bools, Floats, any_along
from onnxsqueeze.abstract.interval import Interval, hull, outward, sum_is_unsure, top
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.attention.heads import Heads, HeadSizes
from onnxsqueeze.operators.attention.scores import (
    Scores,
    cancelled_products,
    everything,
    head_classes,
    mean,
    reading_specials,
    scores_demand,
    slack,
    slice_scores,
    unless_constant,
)
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.memo import per_node, refusal_of, view_or_error
from onnxsqueeze.rules.rewriter import Rewriter


@dataclass(frozen=True)
class Attention:
    """One attention node.

    Attributes:
        query, key, value, output: where their heads are. Several heads of the queries may share one of the keys.
        caches: keys and values of earlier positions that the node reads, or none.
        scores: (input position, axis) of the inputs that have one entry for each head of the queries.
        bias: the input position of a vector that is added to queries, keys and values; -1 without one.
        counts: the attributes that hold the numbers of heads of queries and of keys.
        scaled: whether the node says what scores are multiplied by, which else follows from the heads' size.
        cancels: whether a number that is added to all scores of a query makes no difference.
        averages: whether the probabilities of each query always sum to 1; for some it may be 0 otherwise.
        rotated: whether the node turns queries and keys by their positions first. Then all of a head is needed.
        multiple, alike: see `HeadSizes`.
    """

    query: Heads
    key: Heads
    value: Heads
    output: Heads
    caches: tuple[Heads, Heads] | None
    scores: Scores
    bias: int
    counts: tuple[str, str]
    scaled: bool
    cancels: bool
    averages: bool
    rotated: bool = False
    multiple: int = 1
    alike: bool = False

    @property
    def groups(self) -> tuple[int, int]:
        """The number of heads of the keys, and how many heads of the queries share each."""
        return self.key.heads, self.query.heads // self.key.heads


View = Callable[[Node, Context], "Attention | Refusal"]


def _bounds(node: Node, context: Context, view: Attention, operand: Heads) -> Interval:
    """Bound queries, keys or values as [heads, size], with the node's own bias and what is cached."""
    interval = operand.bounds(context)
    if view.bias >= 0:
        summand = _biases(node, context, view)[operand.position].reshape(operand.heads, operand.size)
        sure = interval.constant & ~sum_is_unsure(interval.lower + summand, np.abs(interval.lower) + np.abs(summand))
        interval = outward(interval.lower + summand, interval.upper + summand, sure, 1e-5)
    if view.caches is not None and operand is not view.query:
        interval = hull([interval, view.caches[operand is view.value].bounds(context)])
    return interval


def _biases(node: Node, context: Context, view: Attention) -> list[Floats]:
    """Return the biases of queries, keys and values."""
    bias = np.asarray(context.value(node.inputs[view.bias])).astype(np.float64).ravel()
    lengths = [operand.heads * operand.size for operand in (view.query, view.key, view.value)]
    return np.split(bias, np.cumsum(lengths)[:2])


def _cancelled(node: Node, context: Context, view: Attention) -> Bools:
    """Return which products make no difference, [groups, heads per group, size]."""
    if view.rotated:
        return np.full((*view.groups, view.query.size), False)
    queries, keys = (_bounds(node, context, view, operand) for operand in (view.query, view.key))
    return cancelled_products(queries, keys, view.groups, view.cancels)


def _forward(node: Node, context: Context, view: Attention) -> list[Interval]:
    values = _bounds(node, context, view, view.value)
    result = mean(values, view.averages, slack(context, view.query.name))
    lower, upper = (np.repeat(bound, view.groups[1], axis=0) for bound in (result.lower, result.upper))
    intervals = [Interval(view.output.placed(lower), view.output.placed(upper))]
    if any(node.outputs[1:]):
        keys = top(4) if view.rotated else _cached(_bounds(node, context, view, view.key))
        intervals += [keys, _cached(values)]
    return intervals


def _cached(interval: Interval) -> Interval:
    return Interval(interval.lower[None, :, None, :], interval.upper[None, :, None, :])


def _link(node: Node, context: Context, view: Attention) -> None:
    """The outputs get classes of their own; what is cached shares those of the keys and values."""
    elements = context.elements
    queries, keys, values = (operand.classes(context) for operand in (view.query, view.key, view.value))
    if view.caches is not None:
        for operand, classes in zip(view.caches, (keys, values), strict=True):
            elements.union(classes, operand.classes(context))
    output = elements.fresh((view.output.heads, view.output.size))
    elements.ids[node.outputs[0]] = view.output.placed(output)
    for name, classes in zip(node.outputs[1:], (keys, values), strict=False):
        if name:
            elements.ids[name] = classes[None, :, None, :]
    heads = [head_classes(node, context, view.groups, *entry) for entry in view.scores]
    elements.constraints.append(
        HeadSizes(
            queries.reshape(*view.groups, -1),
            keys,
            output.reshape(*view.groups, -1),
            values,
            tuple(classes for classes in heads if classes is not None),
            view.multiple,
            view.alike,
            node.operator,
        )
    )


def _need(
    node: Node, context: Context, view: Attention, cancelled_products: Bools, outputs: Sequence[Bools]
) -> Sequence[Demand | None]:
    """A head of which anything is needed needs all products that can make a difference to its probabilities.

    What is cached has the classes of the keys and values: where it is needed they are kept, and so computed.
    """
    wanted = view.output.table(outputs[0]).reshape(*view.groups, -1)
    heads = any_along(wanted, 2)
    queries = heads[:, :, None] & ~cancelled_products
    keys, values = any_along(queries, 1), any_along(wanted, 1)
    live = [(view.query, queries.reshape(view.query.heads, -1)), (view.key, keys), (view.value, values)]
    if view.caches is not None:
        live += [(view.caches[0], keys), (view.caches[1], values)]
    demands: list[Demand | None] = [everything(node) for _ in node.inputs]
    for position, axis in view.scores:
        demands[position] = scores_demand(node, context, position, axis, heads)
    masks: dict[int, Bools] = {}
    for operand, mask in live:
        placed = operand.placed(mask)
        masks[operand.position] = masks[operand.position] | placed if operand.position in masks else placed
    for position, mask in masks.items():
        demands[position] = unless_constant(node, context, position, mask)
    return demands


def _cancels(node: Node, context: Context, view: Attention) -> Sequence[int]:
    """What is added to all keys alike cancels, unless positions turn them or others have a part in them."""
    alone = [view.query.position, view.key.position, view.value.position].count(view.key.position) == 1
    return (
        (view.key.position,) if view.cancels and alone and not (view.rotated or view.caches or node.outputs[1:]) else ()
    )


def _repair(node: Node, context: Context, rewriter: Rewriter, view: Attention) -> None:
    """Write the counts and the original's scale; slice biases and constants that have an entry for each head."""
    kept = [operand.table(rewriter.mask(operand.name)) for operand in (view.query, view.key, view.value)]
    heads = any_along(kept[0], 1)
    if view.bias >= 0:
        rows = np.concatenate([mask.ravel() for mask in kept])
        if not rows.all():
            bias = np.asarray(context.value(node.inputs[view.bias]))
            rewriter.set_constant(node, view.bias, bias[rows])
    if int(kept[0].sum(axis=1).max()) < view.query.size and not view.scaled:
        rewriter.set_attribute(node, "scale", 1.0 / float(np.sqrt(view.query.size)))
    for attribute, mask in zip(view.counts, kept, strict=False):
        if attribute in node.attributes and not any_along(mask, 1).all():
            rewriter.set_attribute(node, attribute, int(any_along(mask, 1).sum()))
    slice_scores(node, context, rewriter, view.scores, heads)


def attention_rule(op: str, view: View, **fields: Any) -> OpRule:
    """Return the rule of an attention operator from the function that views its node."""
    remembered = per_node(view)
    viewed = view_or_error(remembered)

    @per_node
    def cancelled_products(node: Node, context: Context) -> Bools:
        return _cancelled(node, context, viewed(node, context))

    return OpRule(
        op,
        applies=refusal_of(remembered),
        forward=lambda node, context: _forward(node, context, viewed(node, context)),
        link=lambda node, context: _link(node, context, viewed(node, context)),
        need=lambda node, context, outputs: reading_specials(
            node, context, _need(node, context, viewed(node, context), cancelled_products(node, context), outputs)
        ),
        repair=lambda node, context, rewriter: _repair(node, context, rewriter, viewed(node, context)),
        cancels=lambda node, context: _cancels(node, context, viewed(node, context)),
        contracts=lambda node, context: [viewed(node, context).query.name],
        **fields,
    )
