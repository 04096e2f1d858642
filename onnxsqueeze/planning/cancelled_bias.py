"""Constants added to all keys alike: they add one number to all scores of a query, which softmax cancels.

So the bias of a layer that makes keys may go, also where the keys themselves are needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.coupling.constraint import Classes
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import UNKNOWN, Context
from onnxsqueeze.rules.score_rows import LARGEST_CANCELLED
from onnxsqueeze.rules.traits import Trait


def cancelled_summands(context: Context, labels: Classes, name: str) -> Iterator[tuple[int, int]]:
    """Yield the constant summands of the keys in a tensor, which the one that reads it cancels.

    They are followed back through what only moves or scales the keys, as long as nothing else reads them. The reader
    says that what is added to all positions alike makes no difference, and that all positions share their element
    classes. Since those are moved as the keys are, a summand is alike for all positions if it is for each class.

    Args:
        context: the analysed graph.
        labels: the class of each identifier of an element.
        name: the keys.

    Yields:
        The index of a node and the position of its input that is such a summand; -1 for a layer without a bias, which
        then needs none for what is folded into it either.
    """
    while context.is_activation(name) and context.graph.sole_reader(name) is not None:
        node = context.graph.producers.get(name)
        if node is None or context.rules[node.index] is UNKNOWN:
            return
        source = _moved_or_scaled(node, context)
        summand = None if source is not None else _summand(node, context)
        if summand is not None:
            source = node.inputs[1 - summand]
            if _alike(context.value(node.inputs[summand]), labels[context.ids(name)]):
                yield node.index, summand
        if source is None:
            yield from _of_layer(node, context, labels[context.ids(name)])
            return
        name = source


def _of_layer(node: Node, context: Context, classes: Classes) -> Iterator[tuple[int, int]]:
    rule = context.rules[node.index]
    bias = rule.optional_bias(node, context) if rule.narrows and rule.optional_bias is not None else None
    if _alike(bias, classes):
        yield node.index, 2
    elif rule.narrows and not node.input(2) and len(np.unique(classes)) == classes.size:
        folded = context.interval(node.inputs[0])
        if (np.abs(folded.lower[folded.constant]) <= LARGEST_CANCELLED).all():
            yield node.index, -1


def _moved_or_scaled(node: Node, context: Context) -> str | None:
    """Return what a node only moves to other places, or multiplies by one number."""
    rule = context.rules[node.index]
    if Trait.REARRANGES in rule.traits:
        return node.inputs[0]
    position = None if rule.scales is None else rule.scales(node, context)
    return None if position is None else node.inputs[position]


def _summand(node: Node, context: Context) -> int | None:
    adds = context.rules[node.index].adds_constant
    return None if adds is None else adds(node, context)


def _alike(summand: Array | None, classes: Classes) -> bool:
    """Whether a summand, not all 0 and nowhere too large, has one value for each class of what it is added to."""
    if summand is None or summand.dtype.kind not in "fV" or not summand.any():
        return False
    if not (np.abs(summand.astype(np.float64)) <= LARGEST_CANCELLED).all():
        return False
    shape = (1,) * (classes.ndim - summand.ndim) + summand.shape
    fits = all(length in (1, own) for length, own in zip(shape, classes.shape, strict=True))
    return fits and len(np.unique(classes)) == classes.size
