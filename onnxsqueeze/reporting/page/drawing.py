"""The network as a graph to be drawn: layers and the places where branches meet, all else named on the way between.

A network of thousands of nodes has some hundred layers. What only hands a tensor on, such as an activation, a pool or a
reshape, stands as a word on the line between two blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.graph.reachable import reachable
from onnxsqueeze.reporting.layers import Layer
from onnxsqueeze.reporting.page.pictures import picture
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.traits import Trait

_MOST_WORDS = 8  # on one line
_MOST_PICTURES = 400  # of weights; networks of more layers have them for the largest


@dataclass
class Block:
    """One block of the drawing.

    Attributes:
        id: its place. kind: "input", "output", "layer", "join" (where several tensors meet) or "other" (a node of which
            nothing more is known). name, operator: of the node.
        before, after: channels of what it writes.
        layer: the row of the report; None for all but layers. picture: of its weight.
    """

    id: int
    kind: str
    name: str
    operator: str
    before: int
    after: int
    layer: dict[str, Any] | None = None
    picture: dict[str, Any] | None = None


@dataclass(frozen=True)
class Line:
    """A tensor between two blocks: their places, its channels, and the operators that it passes on the way."""

    source: int
    target: int
    before: int
    after: int
    passing: tuple[str, ...]


@dataclass
class Drawing:
    """All blocks and lines, in data-flow order."""

    blocks: list[Block] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "blocks": [asdict(block) for block in self.blocks],
            "lines": [asdict(line) for line in self.lines],
        }


def drawing(analysis: Analysis, plan: Plan, layers: Sequence[Layer]) -> Drawing:
    """Draw a network.

    Args:
        analysis, plan: what was decided. layers: the report's rows, in the graph's order.
    """
    return _Artist(analysis, plan, layers).draw()


class _Artist:
    def __init__(self, analysis: Analysis, plan: Plan, layers: Sequence[Layer]) -> None:
        self._analysis, self._plan = analysis, plan
        self._rows = {layer.output: layer for layer in layers}
        largest = sorted(layers, key=lambda layer: layer.weights_before, reverse=True)[:_MOST_PICTURES]
        self._pictured = {layer.output for layer in largest}
        self._made = Drawing()
        self._origin: dict[str, tuple[int, tuple[str, ...]]] = {}  # by tensor, its block and what it passed since

    def draw(self) -> Drawing:
        graph = self._analysis.graph
        for name in graph.inputs:
            self._origin[name] = (self._block("input", name, "", name), ())
        used = reachable(graph)
        for node in graph.nodes:
            if node.index in used:
                self._node(node)
        for name in dict.fromkeys(graph.outputs):
            if name in self._origin:
                self._line(name, self._block("output", name, "", name))
        return self._made

    def _node(self, node: Node) -> None:
        read = dict.fromkeys((*node.inputs, *node.captured))
        sources = [name for name in read if name in self._origin and self._analysis.context.value(name) is None]
        outputs = [name for name in node.outputs if name]
        if not sources or not outputs:
            return
        row = self._rows.get(outputs[0])
        origins = {self._origin[name][0] for name in sources}
        if row is None and len(origins) == 1:
            block, passed = self._origin[sources[0]]
            word = () if Trait.COPIES in self._analysis.rules[node.index].traits else (node.op,)
            self._origin.update(dict.fromkeys(outputs, (block, (*passed, *word)[:_MOST_WORDS])))
            return
        place = self._block("layer" if row else "join", node.label, node.operator, outputs[0])
        if row is not None:
            self._describe(self._made.blocks[place], node, row)
        for name in sources:
            self._line(name, place)
        self._origin.update(dict.fromkeys(outputs, (place, ())))

    def _describe(self, block: Block, node: Node, row: Layer) -> None:
        block.layer = asdict(row)
        rule = self._analysis.rules[node.index]
        if rule.linear is not None and row.output in self._pictured:
            linear = rule.linear(node, self._analysis.context)
            block.picture = asdict(picture(self._analysis, self._plan, node, linear))

    def _block(self, kind: str, name: str, operator: str, tensor: str) -> int:
        before, after = self._channels(tensor)
        self._made.blocks.append(Block(len(self._made.blocks), kind, name, operator, before, after))
        return len(self._made.blocks) - 1

    def _line(self, tensor: str, target: int) -> None:
        source, passing = self._origin[tensor]
        before, after = self._channels(tensor)
        self._made.lines.append(Line(source, target, before, after, passing))

    def _channels(self, name: str) -> tuple[int, int]:
        """Return how many channels a tensor had and has; 1 where they are not known."""
        context = self._analysis.context
        ids = context.ids(name)
        if ids.size > 1:
            mask = self._plan.masks.get(name)
            return int(ids.size), int(ids.size if mask is None else np.broadcast_to(mask, ids.shape).sum())
        shape = context.shapes.get(name, ())
        axis = 1 if len(shape) > 3 else len(shape) - 1
        size = shape[axis] if shape else 1
        known = size if isinstance(size, int) else 1
        return known, 0 if self._plan.gone(name) else known
