"""The network as a graph to be drawn: layers and the places where branches meet, all else named on the way between.

A network of thousands of nodes has some hundred layers. What only hands a tensor on, such as an activation, a pool or a
reshape, stands as a word on the line between two blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.graph.reachable import reachable
from onnxsqueeze.reporting.layers import Layer, needed_of
from onnxsqueeze.reporting.page.pictures import picture
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.traits import Trait

_MOST_WORDS = 8  # on one line
_MOST_PICTURES = 400  # of weights; networks of more layers have them for the largest
_FEWEST_SUMS = 2  # that make a stream: one sum alone is a shortcut
_OF_ROW = ("name", "operator", "output")  # stand in the block itself


@dataclass
class Block:
    """One block of the drawing.

    Attributes:
        id: its place. kind: "input", "output", "layer", "join" (where several tensors meet) or "other" (a node of which
            nothing more is known). name, operator: of the node.
        before, after: channels of what it writes.
        layer: the row of the report; None for all but layers. picture: of its weight.
        heads: where two tensors with heads are multiplied, how many heads there were and are, and their widths.
    """

    id: int
    kind: str
    name: str
    operator: str
    before: int
    after: int
    layer: dict[str, Any] | None = None
    picture: dict[str, Any] | None = None
    heads: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Line:
    """A tensor between two blocks.

    Attributes:
        source, target: the places of the blocks. before, after: its channels. passing: the operators on the way.
        stream: the place of the residual stream that it is a part of; -1 for none.
    """

    source: int
    target: int
    before: int
    after: int
    passing: tuple[str, ...]
    stream: int = -1


@dataclass(frozen=True)
class Stream:
    """A residual stream: channels that several sums have in common.

    Attributes:
        before, after: its channels. sums: the places of the blocks that add to it. readers: how many layers read it.
    """

    before: int
    after: int
    sums: tuple[int, ...]
    readers: int


@dataclass
class Drawing:
    """All blocks and lines, in data-flow order, and the residual streams among them."""

    blocks: list[Block] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without what is not there."""
        return {
            "blocks": [_present(block) for block in self.blocks],
            "lines": [vars(line) for line in self.lines],
            "streams": [asdict(stream) for stream in self.streams],
        }


def _present(block: Block) -> dict[str, Any]:
    return {name: value for name, value in vars(block).items() if value is not None}


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
        self._needed = needed_of(analysis, plan)
        self._made = Drawing()
        self._origin: dict[str, tuple[int, tuple[str, ...]]] = {}  # by tensor, its block and what it passed since
        self._keys: dict[str, bytes] = {}  # by tensor, what is the same for those with the same channels
        self._sums: dict[bytes, list[int]] = {}  # by such a key, the blocks that add tensors with these channels
        self._tensors: list[str] = []  # of the lines

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
        self._find_streams()
        return self._made

    def _node(self, node: Node) -> None:
        traits = self._analysis.rules[node.index].traits
        read = dict.fromkeys((*node.inputs, *node.captured))
        sources = [name for name in read if name in self._origin and self._analysis.context.value(name) is None]
        outputs = [name for name in node.outputs if name]
        if not sources or not outputs or Trait.READS_SHAPE in traits:  # sizes are no data
            return
        row = self._rows.get(outputs[0])
        origins = {self._origin[name][0] for name in sources}
        if row is None and len(origins) == 1:
            block, passed = self._origin[sources[0]]
            word = () if Trait.COPIES in traits else (node.op,)
            self._origin.update(dict.fromkeys(outputs, (block, (*passed, *word)[:_MOST_WORDS])))
            return
        place = self._block("layer" if row else "join", node.label, node.operator, outputs[0])
        if row is not None:
            self._describe(self._made.blocks[place], node, row)
        else:
            self._join(place, sources, outputs[0])
        for name in sources:
            self._line(name, place)
        self._origin.update(dict.fromkeys(outputs, (place, ())))

    def _describe(self, block: Block, node: Node, row: Layer) -> None:
        block.layer = {name: value for name, value in vars(row).items() if name not in _OF_ROW}
        rule = self._analysis.rules[node.index]
        if rule.linear is not None and row.output in self._pictured:
            linear = rule.linear(node, self._analysis.context)
            live = self._needed.get(row.output, np.full((1,) * self._analysis.context.rank(row.output), False))
            block.picture = vars(picture(self._analysis, self._plan, live, node, linear))

    def _join(self, place: int, sources: Sequence[str], output: str) -> None:
        """Note a sum of tensors with the same channels, or a product of tensors with heads."""
        if sum(self._key(name) == self._key(output) for name in sources) > 1 and self._key(output):
            self._sums.setdefault(self._key(output), []).append(place)
        context = self._analysis.context
        for name in sources:
            ids = context.ids(name)
            if min(sum(length > 1 for length in ids.shape), len(sources)) == 2 and context.ids(output).size > 1:
                mask = np.broadcast_to(self._plan.masks.get(name, np.full((1,) * ids.ndim, True)), ids.shape)
                lanes = mask.reshape([length for length in ids.shape if length > 1])
                widths = lanes.sum(axis=1)
                heads = (lanes.shape[0], int(np.count_nonzero(widths)), lanes.shape[1], int(widths.max()))
                self._made.blocks[place].heads = heads
                return

    def _find_streams(self) -> None:
        found = {key: places for key, places in self._sums.items() if len(places) >= _FEWEST_SUMS}
        numbers = {key: number for number, key in enumerate(found)}
        readers: Counter[int] = Counter()
        for place, (line, tensor) in enumerate(zip(self._made.lines, self._tensors, strict=True)):
            number = numbers.get(self._key(tensor), -1)
            if number >= 0:
                self._made.lines[place] = replace(line, stream=number)
                readers[number] += self._made.blocks[line.target].kind == "layer"
        for number, places in enumerate(found.values()):
            first = self._made.blocks[places[0]]
            self._made.streams.append(Stream(first.before, first.after, tuple(places), readers[number]))

    def _key(self, name: str) -> bytes:
        """Return what is the same for tensors with the same channels, b"" where they are not told apart."""
        if name not in self._keys:
            classes = self._analysis.classes_of(name)
            self._keys[name] = classes.tobytes() if classes.size > 1 else b""
        return self._keys[name]

    def _block(self, kind: str, name: str, operator: str, tensor: str) -> int:
        before, after = self._channels(tensor)
        self._made.blocks.append(Block(len(self._made.blocks), kind, name, operator, before, after))
        return len(self._made.blocks) - 1

    def _line(self, tensor: str, target: int) -> None:
        source, passing = self._origin[tensor]
        before, after = self._channels(tensor)
        self._made.lines.append(Line(source, target, before, after, passing))
        self._tensors.append(tensor)

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
