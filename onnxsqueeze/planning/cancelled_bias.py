"""Constants added to all keys alike: they add one number to all scores of a query, which softmax cancels.

So the bias of a layer that makes keys may go, also where the keys themselves are needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.coupling.constraints import Classes
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Node
from onnxsqueeze.rules.contract import UNKNOWN, Context

_MOVING = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_C_OPTIONAL = 11  # the opset version since which a Gemm may do without a bias


def idle_summands(context: Context, labels: Classes, name: str) -> Iterator[tuple[int, int]]:
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
    while context.graph.sole_reader(name) is not None:
        node = context.graph.producers.get(name)
        if node is None or node.domain != ONNX_DOMAIN or context.rules[node.index] is UNKNOWN:
            return
        source = _moved_or_scaled(node, context)
        if source is None and node.op == "Add":
            source = _other_than_constant(node, context)
            if source is not None:
                summand = 1 - node.inputs.index(source)
                if _alike(context.value(node.inputs[summand]), labels[context.ids(name)]):
                    yield node.index, summand
        if source is None:
            classes = labels[context.ids(name)]
            if _alike(_bias(node, context), classes):
                yield node.index, 2
            elif context.rules[node.index].narrows and not node.input(2) and len(np.unique(classes)) == classes.size:
                yield node.index, -1
            return
        name = source


def _moved_or_scaled(node: Node, context: Context) -> str | None:
    """Return what a node only moves to other places, or multiplies by one number."""
    if node.op in _MOVING:
        return node.inputs[0]
    source = _other_than_constant(node, context) if node.op in ("Mul", "Div") else None
    if source is None or (node.op == "Div" and source != node.inputs[0]):
        return None
    factor = context.value(node.inputs[1 - node.inputs.index(source)])
    return source if factor is not None and factor.size == 1 else None


def _other_than_constant(node: Node, context: Context) -> str | None:
    """Return the input that has the output's shape, if the other one is a constant."""
    for source, other in (node.inputs, node.inputs[::-1]):
        if context.value(other) is not None and context.is_activation(source):
            return source if context.shapes.get(source) == context.shapes.get(node.outputs[0]) else None
    return None


def _bias(node: Node, context: Context) -> Array | None:
    """Return the bias of a layer that may do without one, in a shape that broadcasts against what it makes."""
    optional = node.op == "Conv" or (node.op == "Gemm" and node.version >= _C_OPTIONAL)
    bias = context.value(node.input(2)) if optional and context.rules[node.index].narrows else None
    if bias is None or node.op == "Gemm":
        return bias
    return bias.reshape(-1, *(1,) * (context.rank(node.outputs[0]) - 2))


def _alike(summand: Array | None, classes: Classes) -> bool:
    """Whether a summand, not all 0, has one finite value for each class of what it is added to."""
    if summand is None or summand.dtype.kind not in "fV" or not summand.any():
        return False
    if not np.isfinite(summand.astype(np.float64)).all():
        return False
    shape = (1,) * (classes.ndim - summand.ndim) + summand.shape
    fits = all(length in (1, own) for length, own in zip(shape, classes.shape, strict=True))
    return fits and len(np.unique(classes)) == classes.size
