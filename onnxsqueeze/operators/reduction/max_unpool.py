"""MaxUnpool: maxima put back where a MaxPool found them, each channel by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse, constant_interval, hull
from onnxsqueeze.abstract.symbolic import Shape, Symbolic
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule, Refusal
from onnxsqueeze.rules.queries import held_sizes
from onnxsqueeze.rules.registry import register
from onnxsqueeze.shapes.computed_shapes import repair_requested_shape


def reads_only_places(graph: Graph, places: str) -> bool:
    """Whether all that reads the places found by a MaxPool is a MaxUnpool: it sees those of the narrowed tensor.

    A place is a number among all elements of the tensor, so that it changes with the number of channels.
    """
    if places in graph.outputs:
        return False
    return all(reader.op == "MaxUnpool" and position == 1 for reader, position in graph.readers.get(places, ()))


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    sizes = context.sizes(node.input(2)) if node.input(2) else None
    if sizes is None:
        return [None]
    return [tuple(size if isinstance(size, Symbolic) else int(size) for size in sizes)]


def _applies(node: Node, context: Context) -> Refusal | None:
    """The places must be those in a tensor of the output's own size, else they would be in other channels."""
    pool = context.graph.producers.get(node.inputs[1])
    if pool is None or pool.op != "MaxPool" or pool.attributes.get("storage_order", 0):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.op} to places that no MaxPool found")
    if context.shape(pool.inputs[0]) != context.shape(node.outputs[0]):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.op} to another size")
    return None


def _space(context: Context, name: str) -> tuple[int, ...]:
    return (0, *range(2, context.rank(name)))


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """There are zeros between what is put back."""
    interval = collapse(context.interval(node.inputs[0]), _space(context, node.inputs[0]))
    return [hull([interval, constant_interval(np.zeros(interval.lower.shape))])]


def _link(node: Node, context: Context) -> None:
    """A channel is put back into the same one that it was found in."""
    elements = context.elements
    for name in node.inputs[:2]:
        if context.is_activation(name):
            elements.ids[name] = elements.merge(context.ids(name), _space(context, name))
    elements.ids[node.outputs[0]] = elements.union(*(context.ids(name) for name in node.inputs[:2]))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """A constant with zeros beside it is none, and places are read as they are."""
    live = any_along(outputs[0], _space(context, node.outputs[0]), keepdims=True)
    return [
        Demand(live, live, Reason.CONSTANT_VARIES, node.op),
        Demand(live, live, Reason.CONSTANT_READ, f"places of {node.op}"),
        *held_sizes(node)[2:],
    ]


register(
    OpRule(
        "MaxUnpool",
        since=9,
        infer=_infer,
        applies=_applies,
        forward=_forward,
        link=_link,
        need=_need,
        repair=repair_requested_shape,
        shape_input=2,
    )
)
