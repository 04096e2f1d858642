"""Rules of operators whose output has the classes of its first input."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context, Demand


def pass_ids(node: Node, context: Context) -> None:
    """The output's elements stand where the input's do."""
    context.elements.ids[node.outputs[0]] = context.ids(node.inputs[0])


def pass_need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    """An input is live where its output is needed."""
    return [Demand(outputs[0])]
