"""ReverseSequence: the first steps of each sample the other way round, as layers that read backwards are spelt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsqueeze.abstract.compact import Bools, any_along
from onnxsqueeze.abstract.interval import Interval, collapse
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand, OpRule
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.traits import Trait


def _steps(node: Node) -> int:
    return int(node.attributes.get("time_axis", 0))


def _batch(node: Node) -> int:
    return int(node.attributes.get("batch_axis", 1))


def _forward(node: Node, context: Context) -> Sequence[Interval]:
    """Any step may come to stand at any other."""
    return [collapse(context.interval(node.inputs[0]), (_steps(node),))]


def _link(node: Node, context: Context) -> None:
    """All of a batch stays, heads that lie in one axis with it as well: each has a length of its own."""
    elements, name = context.elements, node.inputs[0]
    elements.ids[node.outputs[0]] = elements.merge(context.ids(name), (_steps(node), _batch(node)))


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    everything = np.full((), True)
    lengths = Demand(everything, everything, Reason.CONSTANT_READ, f"lengths of {node.op}")
    return [Demand(any_along(outputs[0], (_steps(node), _batch(node)), keepdims=True)), lengths]


def _carries(node: Node, context: Context, position: int, axis: int) -> int | None:
    return axis if position == 0 and axis != _steps(node) else None


register(
    OpRule(
        "ReverseSequence",
        forward=_forward,
        link=_link,
        need=_need,
        carries=_carries,
        traits=frozenset({Trait.CARRIES_OVER}),
    )
)
