"""Computed sizes in the narrowed model: which nodes see its new shapes, and how requested shapes are put right.

A Shape of a narrowed tensor gives the new lengths by itself, and mostly that is what its readers want. Where one of them
would be misled (arithmetic on data, say), the Shapes that it depends on go on to give the original's lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxsqueeze.dimension import Dimension, Symbolic, as_values, symbol
from onnxsqueeze.fact import Bools
from onnxsqueeze.graph import Node
from onnxsqueeze.rule import Array, Context, rule_for
from onnxsqueeze.shapes import fold

if TYPE_CHECKING:
    from onnxsqueeze.editor import Editor


@dataclass(frozen=True)
class Request:
    """What a node asks for and should ask for in the narrowed model, by entry of its requested shape.

    Attributes:
        asked: the entries as the graph computes them, None where they are known at run time only.
        wanted: the same with every wrong entry replaced by the length that it should name.
        wrong: which entries those are.
    """

    asked: list[Dimension] | None
    wanted: list[Dimension]
    wrong: Bools

    @property
    def correctable(self) -> bool:
        """Whether what the wrong entries should name does not depend on run-time sizes."""
        return not any(isinstance(size, Symbolic) for size, wrong in zip(self.wanted, self.wrong, strict=True) if wrong)


class Sizes:
    """The sizes that the narrowed model computes.

    Attributes:
        frozen: the nodes, by index, that must go on to give the sizes of the original.
        narrowed: shapes and values in the narrowed model, given that.
    """

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._original = editor.context
        self._shapes = dict(self._original.shapes)
        for name in editor.plan.masks:
            lengths = [editor.new_length(name, axis) for axis in range(self._original.rank(name))]
            old = self._original.shape(name)
            self._shapes[name] = tuple(b if a is None else a for a, b in zip(lengths, old, strict=True))
        nodes = self._original.graph.nodes
        self.frozen = {node.index for node in nodes if any(editor.plan.gone(name) for name in node.inputs)}
        while misled := self._misled():
            self.frozen |= misled

    def request(self, node: Node) -> Request:
        """Compare what a node asks for with the lengths that its output shall have."""
        output, name = node.outputs[0], node.inputs[_slot(node, self._original)]
        before, now = _entries(self._original, name), _entries(self.narrowed, name)
        rank, (count,) = self._original.rank(output), self._original.shape(name)
        axes = node.attributes.get("axes") or range(rank - (count if isinstance(count, int) else rank), rank)
        wanted: list[Dimension] = []
        wrong = []
        for place, axis in enumerate(axis % rank for axis in axes):
            entry = (before[place], now[place]) if before is not None and now is not None else None
            wrong.append(self._misses(node, axis, entry))
            wanted.append(self._shapes[output][axis] if entry is None or wrong[-1] else entry[1])
        return Request(now, wanted, np.array(wrong, dtype=bool))

    def _misses(self, node: Node, axis: int, entry: tuple[Dimension, Dimension] | None) -> bool:
        """Whether a request (as it was and as it is) does not give an axis its length."""
        source, output = node.inputs[0], node.outputs[0]
        length, old = self._editor.new_length(output, axis), self._original.shape(output)[axis]
        if entry is None or (entry[0] == entry[1] == -1):
            return entry is None and length is not None  # -1 is what the other entries leave
        before, now = entry
        if now == (old if length is None else length):
            return False
        if now != before or isinstance(now, Symbolic) or now == old:
            return now != before or length is not None
        # A number that is not the length itself refers to the input: 0 copies from the same place, 1 is spread from the end.
        place = axis if now == 0 else axis + self._original.rank(source) - self._original.rank(output)
        own = self._editor.new_length(source, place) if 0 <= place < self._original.rank(source) else None
        return own != length

    def _misled(self) -> set[int]:
        """Recompute all sizes; return the sources of those that some reader must not see changed."""
        original = self._original
        self.narrowed = Context(original.graph)
        self.narrowed.dtypes, self.narrowed.shapes = original.dtypes, dict(self._shapes)
        self.narrowed.values = dict(original.values)
        sources: dict[str, set[int]] = {}  # by changed tensor, the nodes that it got its sizes from
        misled: set[int] = set()
        for node in original.graph.nodes:
            origins = self._origins(node, sources)
            if not origins or all(self._editor.plan.gone(name) for name in node.outputs if name):
                continue
            if not self._follows(node, sources):
                misled |= origins
                continue
            for name in node.outputs:
                if name in original.values and not np.array_equal(original.values[name], self.narrowed.values[name]):
                    sources[name] = origins
        return misled.union(*(sources.get(name, ()) for name in original.graph.outputs))

    def _origins(self, node: Node, sources: dict[str, set[int]]) -> set[int]:
        if node.index in self.frozen:
            return set()
        origins = set().union(*(sources.get(name, ()) for name in (*node.inputs, *node.captured)))
        reads_shape = rule_for(node).evaluate is None and any(name in self._original.values for name in node.outputs)
        if reads_shape and any(self._editor.narrowed(name) for name in node.inputs):
            origins.add(node.index)
        return origins

    def _follows(self, node: Node, sources: dict[str, set[int]]) -> bool:
        """Whether a node may see changed sizes: it computes sizes itself, or requests a shape and can be put right."""
        if all(name in self._original.values for name in node.outputs if name):
            return self._recomputed(node)
        slot = self._original.rules[node.index].sizes
        changed = [place for place, name in enumerate(node.inputs) if name in sources]
        if changed != [slot] or any(name in sources for name in node.captured):
            return False
        request = self.request(node)
        touched = any(self._editor.narrowed(name) for name in (*node.inputs, *node.outputs))
        return not request.wrong.any() or (touched and request.correctable)

    def _recomputed(self, node: Node) -> bool:
        rule, values = rule_for(node), self.narrowed.values
        names = [name for name in node.outputs if name]
        for name in names:
            del values[name]
        if rule.evaluate is None and rule.infer is not None:
            rule.infer(node, self.narrowed)
        fold(node, rule, self.narrowed)
        for name in names:
            if name not in values:
                return False
            if values[name].shape != self._original.values[name].shape:
                if self._editor.narrowed(name):
                    return False
                self.narrowed.shapes[name] = values[name].shape
        return True

    def agreed(self, name: str, wanted: list[Dimension]) -> bool:
        """Whether all that read a requested shape want the same of it."""
        context = self._original
        readers = [(node, place) for node, place in context.graph.readers[name] if not self._editor.plan.gone(node.outputs[0])]
        if name in context.graph.outputs or any(place != context.rules[node.index].sizes for node, place in readers):
            return False
        return all(self.request(node).wanted == wanted for node, _ in readers)


def patch_sizes(node: Node, context: Context, editor: Editor, otherwise: Array | None = None) -> None:
    """Put the requested shape of a node right where it does not name the lengths that its output shall have.

    Args:
        node: whose rule says at which input it is.
        otherwise: a constant that asks for the same, if there is one; taken rather than another node.
    """
    slot = _slot(node, context)
    if not node.input(slot):
        return
    request = editor.sizes.request(node)
    if not request.wrong.any():
        return
    target = None if request.asked is None else as_values(request.wanted)
    if target is not None and target.dtype != object:
        editor.set_constant(node, slot, target)
    elif _put_right_where_it_is_made(node.inputs[slot], request, editor):
        return
    elif otherwise is not None:
        editor.set_constant(node, slot, otherwise)
    else:
        wanted = [size if wrong else 0 for size, wrong in zip(request.wanted, request.wrong, strict=True)]
        editor.insert_before(node, slot, "Where", [request.wrong, np.array(wanted, dtype=np.int64), None])


def _put_right_where_it_is_made(name: str, request: Request, editor: Editor) -> bool:
    """Change the constants that the wrong entries are copied from by the node that computes a requested shape."""
    graph = editor.context.graph
    maker = graph.producers.get(name)
    if maker is None or any(editor.narrowed(tensor) for tensor in (*maker.inputs, *maker.outputs)):
        return False
    if request.asked is None or not editor.sizes.agreed(name, request.wanted):
        return False
    found = _copied_entries(maker, editor.sizes.narrowed)
    changed: dict[str, Array] = {}
    for size, wrong, copied in zip(request.wanted, request.wrong, found, strict=True):
        if wrong and copied is None:
            return False
        if wrong and copied is not None:
            constant = changed.setdefault(copied[0], editor.sizes.narrowed.values[copied[0]].copy())

    return True


def _slot(node: Node, context: Context) -> int:
    slot = context.rules[node.index].sizes
    assert slot is not None
    return slot
