"""What holds for the rows of scores and probabilities: which sum to 1, and where a number added to a row cancels.

A row lies along the last axis. Each operator answers for itself (`ScoreRows`); here the answers are put together.
"""

from __future__ import annotations

import numpy as np

from onnxsqueeze.abstract.floating import FLOATING
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.memo import per_tensor
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait

LARGEST_CANCELLED = 2.0**16
"""A number that all scores of a row have in common cancels in a softmax; a larger one hides, by rounding, what they
differ by, so that it does not. Biases of keys in use are of some hundreds."""


def row_sums(context: Context, name: str, axis: int) -> int | None:
    """Return what the values of a tensor, none negative, sum to along an axis: 1, or 0 for at most 1, else None."""
    producer = context.graph.producers.get(name)
    if producer is None or producer.captured:
        return None
    rule = context.rules[producer.index]
    if Trait.COPIES in rule.traits:
        return row_sums(context, producer.inputs[0], axis) if context.dtypes.get(name) in FLOATING else None
    return rule.rows.total(producer, context, axis)


def never_masked(context: Context, name: str, axis: int) -> bool:
    """Whether every row of a tensor is sure to hold a finite number, so that no guard against NaN takes hold."""
    if axis != context.rank(name) - 1:
        return False
    value, node = context.value(name), context.graph.producers.get(name)
    if value is not None:
        return value.ndim > 0 and bool(np.isfinite(value.astype(np.float64)).any(axis=-1).all())
    return finite(context, name) or (node is not None and rule_for(node).rows.reached(node, context))


def finite(context: Context, name: str) -> bool:
    """Whether a tensor holds no infinity, for finite inputs and while no sum overflows."""
    value, interval, node = context.value(name), context.interval(name), context.graph.producers.get(name)
    if value is not None:
        return bool(np.isfinite(value.astype(np.float64)).all())
    if bool(np.isfinite(interval.lower).all() and np.isfinite(interval.upper).all()) or name in context.graph.inputs:
        return True
    if node is None or node.captured:
        return False
    rule = rule_for(node)
    if rule.traits & {Trait.COPIES, Trait.REARRANGES}:
        return finite(context, node.inputs[0])
    return rule.rows.finite(node, context)


def all_finite_inputs(node: Node, context: Context) -> bool:
    """The answer of an operator that makes no infinity of finite numbers, while nothing overflows."""
    return all(finite(context, name) for name in node.inputs)


def first_finite(node: Node, context: Context) -> bool:
    """The answer of an operator that copies its first input."""
    return finite(context, node.inputs[0])


@per_tensor
def cancels_in_softmax(context: Context, name: str) -> bool:
    """Whether a number added to a whole row of a tensor changes no graph output."""
    if name in context.graph.outputs:
        return False
    for reader, position in context.graph.readers.get(name, ()):
        if position < 0 or not _cancels(context, reader, position):
            return False
    return True


def _cancels(context: Context, node: Node, position: int) -> bool:
    source, output, rule = node.inputs[position], node.outputs[0], rule_for(node)
    if source not in context.shapes or output not in context.shapes:
        return False
    if Trait.READS_SHAPE in rule.traits or rule.rows.cancels(node, context):
        return True
    return _commutes(context, node, position) and cancels_in_softmax(context, output)


def _commutes(context: Context, node: Node, position: int) -> bool:
    """Whether a node turns a number added to each row into numbers added to the rows of its output."""
    source, output, rule = context.shape(node.inputs[position]), context.shape(node.outputs[0]), rule_for(node)
    if not source or not output:
        return False
    if Trait.COPIES in rule.traits:
        return position == 0 and context.dtypes.get(node.outputs[0]) in FLOATING
    if rule.permutes is not None:
        return list(rule.permutes(node, len(source)))[-1] == len(source) - 1
    if Trait.REARRANGES in rule.traits:
        return position == 0 and source[-1] == output[-1]
    return rule.rows.commutes(node, context, position)
