"""Computed sizes in the narrowed model: which nodes see its new shapes, and how requested shapes are put right.

A Shape of a narrowed tensor gives the new lengths by itself, and mostly that is what its readers want. Where one of
them would be misled (arithmetic on data, say), the Shapes that it depends on go on to give the original lengths.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.symbolic import Dimension, Shape, Symbolic, as_values, known, symbol
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.lessons import KeepOne
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.rewriter import Request, Rewriter, ShapesAfter
from onnxsqueeze.shapes.inference import evaluated, fold


class NarrowedShapes:
    """The sizes that the narrowed model computes.

    Attributes:
        frozen: the nodes, by index, that must go on to give the sizes of the original.
        narrowed: shapes and values in the narrowed model, given that.
        fixed: by index, the nodes that constants stand for, being frozen or reading what is lost, with these constants.
    """

    def __init__(self, context: Context, rewriter: Rewriter) -> None:
        self._rewriter = rewriter
        self._original = context
        self._shapes = dict(context.shapes)
        for name in rewriter.plan.masks:
            old = context.shapes.get(name, ())
            lengths = [rewriter.new_length(name, axis) for axis in range(len(old))]
            self._shapes[name] = tuple(b if a is None else a for a, b in zip(lengths, old, strict=True))
        self.frozen: set[int] = set()
        while misled := self._misled():
            self.frozen |= misled
        nodes = [node for node in context.graph.nodes if self._constant(node)]
        self.fixed = {
            node.index: [self.narrowed.values.get(name, np.empty(0)) for name in node.outputs]
            for node in nodes
            if node.index in self.frozen or self._reads_lost(node)
        }

    def shape(self, name: str) -> Shape:
        """Return a tensor's shape in the narrowed model."""
        return self.narrowed.shape(name)

    def value(self, name: str) -> Array | None:
        """Return a constant's value in the narrowed model, None where it is computed."""
        return self.narrowed.value(name)

    def sizes(self, name: str) -> Array | None:
        """Like `value`, but small integer tensors may hold symbolic dimensions (dtype object)."""
        return self.narrowed.sizes(name)

    def request(self, node: Node) -> Request:
        """Compare what a node asks for with the lengths that its output shall have."""
        output, name = node.outputs[0], node.inputs[slot(node, self._original)]
        before, now = _entries(self._original, name), _entries(self.narrowed, name)
        rank, shape = self._original.rank(output), self._original.shape(name)
        count = shape[0] if len(shape) == 1 and isinstance(shape[0], int) else rank
        axes = [axis % rank for axis in node.attributes.get("axes") or range(rank - count, rank)]
        lengths = [self._shapes[output][axis] for axis in axes]
        if before is None or now is None:
            changed = [self._rewriter.new_length(output, axis) is not None for axis in axes]
            return Request(False, lengths, np.array(changed, dtype=bool))
        wrong = [self._misses(node, *entry) for entry in zip(axes, before, now, strict=True)]
        wanted = [length if flag else size for length, flag, size in zip(lengths, wrong, now, strict=True)]
        return Request(True, wanted, np.array(wrong, dtype=bool))

    def _misses(self, node: Node, axis: int, before: Dimension, now: Dimension) -> bool:
        """Whether an entry, as it was and as it is now, does not give an axis the length that it shall have."""
        source, output = node.inputs[0], node.outputs[0]
        length, old = self._rewriter.new_length(output, axis), self._original.shape(output)[axis]
        if now == (old if length is None else length):
            return False
        if now != before:
            return True
        if now == -1:
            return False  # what the other entries leave
        if isinstance(now, Symbolic) or now == old:
            return length is not None
        # Any other number refers to the input: 0 copies from the same place, 1 leaves an axis counted from the end.
        rank = self._original.rank(source)
        place = axis if now == 0 else axis + rank - self._original.rank(output)
        return length != (self._rewriter.new_length(source, place) if 0 <= place < rank else None)

    def agreed(self, name: str, request: Request) -> bool:
        """Whether every reader of a requested shape wants the same of it."""
        context = self._original
        readers = [(node, place) for node, place in context.graph.readers[name] if not self._gone(node)]
        if name in context.graph.outputs or any(
            place != context.rules[node.index].shape_input for node, place in readers
        ):
            return False
        return all(self.request(node).wanted == request.wanted for node, _ in readers)

    def _misled(self) -> set[int]:
        """Recompute all sizes; return the sources of those that some reader must not see changed."""
        original = self._original
        self.narrowed = Context(original.graph)
        self.narrowed.dtypes, self.narrowed.shapes = original.dtypes, dict(self._shapes)
        self.narrowed.values = dict(original.values)
        sources: dict[str, set[int]] = {}  # by changed tensor, the nodes that its sizes come from
        misled: set[int] = set()
        for node in original.graph.nodes:
            origins = self._origins(node, sources)
            if not origins or (self._gone(node) and not self._computes_sizes(node)):
                continue
            if not self._follows(node, sources):
                misled |= origins
                continue
            for name in node.outputs:
                if name in original.values and not np.array_equal(original.values[name], self.narrowed.values[name]):
                    sources[name] = origins
        return misled.union(*(sources.get(name, ()) for name in original.graph.outputs))

    def _origins(self, node: Node, sources: Mapping[str, set[int]]) -> set[int]:
        origins: set[int] = set().union(*(sources.get(name, ()) for name in (*node.inputs, *node.captured)))
        if node.index not in self.frozen and self._touched(node) and self._reads_shapes(node):
            origins.add(node.index)
        return origins

    def _follows(self, node: Node, sources: Mapping[str, set[int]]) -> bool:
        """Whether a node may see changed sizes: it computes sizes itself, or requests a shape that can be put right."""
        changed = [place for place, name in enumerate(node.inputs) if name in sources]
        if self._computes_sizes(node):
            repaired = self._touched(node) and not (self._constant(node) and self._reads_lost(node))
            return not (changed and repaired) and self._recomputes(node)
        if changed != [self._original.rules[node.index].shape_input] or any(name in sources for name in node.captured):
            return False
        name = node.inputs[changed[0]]
        if self.narrowed.values[name].shape != self._original.values[name].shape:
            return False
        request = self.request(node)
        wrong = [size for size, flag in zip(request.wanted, request.wrong, strict=True) if flag]
        open_sizes = sum(not known(size) for size in wrong) + request.wanted.count(-1)
        return not wrong or (self._touched(node) and open_sizes <= 1)

    def _recomputes(self, node: Node) -> bool:
        rule, values = rule_for(node), self.narrowed.values
        names = [name for name in node.outputs if name]
        for name in names:
            del values[name]
        if rule.evaluate is None and rule.infer is not None:
            rule.infer(node, self.narrowed)
        fold(node, rule, self.narrowed)
        if any(name not in values for name in names):
            return False
        self.narrowed.shapes.update({name: values[name].shape for name in names})
        return True

    def _reads_shapes(self, node: Node) -> bool:
        """Whether a node makes known values out of shapes, not of other values."""
        return rule_for(node).evaluate is None and self._computes_sizes(node)

    def _computes_sizes(self, node: Node) -> bool:
        return all(name in self._original.values for name in node.outputs if name)

    def _constant(self, node: Node) -> bool:
        return all(self._original.value(name) is not None for name in node.outputs if name)

    def _reads_lost(self, node: Node) -> bool:
        """Whether a node of known values reads something of which a part is lost, since nothing needs its input.

        Who reads the shape alone minds only what is gone altogether: the lengths of what is left are followed.
        """
        lost = self._rewriter.plan.gone if rule_for(node).evaluate is None else self._rewriter.narrowed
        return any(lost(name) for name in node.inputs)

    def _touched(self, node: Node) -> bool:
        return any(self._rewriter.narrowed(name) for name in (*node.inputs, *node.outputs))

    def _gone(self, node: Node) -> bool:
        return all(self._rewriter.plan.gone(name) for name in node.outputs if name)


def repair_requested_shape(node: Node, context: Context, rewriter: Rewriter, otherwise: Array | None = None) -> None:
    """Put the requested shape of a node right where it does not name the lengths that its output shall have.

    Args:
        node: one whose rule says at which input it requests a shape.
        context: of the original graph. rewriter: of the narrowed one.
        otherwise: a constant that asks for the right lengths, if there is one; taken rather than another node.
    """
    place = slot(node, context)
    if not node.input(place):
        return
    request = rewriter.shapes.request(node)
    if not request.wrong.any():
        return
    target = as_values(request.wanted)
    if request.computed and target.dtype != object:
        rewriter.set_constant(node, place, target)
    elif _put_right_at_producer(node.inputs[place], request, context, rewriter):
        return
    elif otherwise is not None:
        rewriter.set_constant(node, place, otherwise)
    else:
        wanted = [size if wrong else 0 for size, wrong in zip(request.wanted, request.wrong, strict=True)]
        wanted = [size if known(size) else -1 for size in wanted]
        if wanted.count(-1) + request.wanted.count(-1) > 1:
            raise KeepOne(node.inputs[0])
        rewriter.insert_before(node, place, "Where", [request.wrong, as_values(wanted), None])


def slot(node: Node, context: Context) -> int:
    """Return the position of the input at which a node requests a shape."""
    place = context.rules[node.index].shape_input
    assert place is not None
    return place


def _put_right_at_producer(name: str, request: Request, context: Context, rewriter: Rewriter) -> bool:
    """Change the constants from which the node that computes a requested shape copies the wrong entries."""
    producer = context.graph.producers.get(name)
    if producer is None or any(rewriter.narrowed(other) for other in (*producer.inputs, *producer.outputs)):
        return False
    if not request.computed or not rewriter.shapes.agreed(name, request):
        return False
    constants = [rewriter.shapes.value(source) for source in producer.inputs]
    copied = _copied_entries(producer, rewriter.shapes)
    if copied is None:
        return False
    new = {copy: size for copy, size, wrong in zip(copied, request.wanted, request.wrong, strict=True) if wrong}
    if None in new or any(new.get(copy, size) != size for copy, size in zip(copied, request.wanted, strict=True)):
        return False  # an entry is computed, or one constant would have to be two
    for place, constant in enumerate(constants):
        entries = {copy[1]: size for copy, size in new.items() if copy is not None and copy[0] == place}
        if entries and constant is not None:
            array = constant.copy()
            array.flat[list(entries)] = list(entries.values())
            rewriter.set_constant(producer, place, array)
    return True


def _copied_entries(node: Node, shapes: ShapesAfter) -> list[tuple[int, int] | None] | None:
    """Return of which entry of which constant input each entry of an output is a copy, found by naming them all."""
    inputs = [shapes.sizes(name) if name else None for name in node.inputs]
    named: dict[Dimension, tuple[int, int]] = {}
    for place, array in enumerate(inputs):
        if array is not None and array.dtype.kind == "i":
            names = [symbol(f"entry {index} of input {place}") for index in range(array.size)]
            named.update({entry: (place, index) for index, entry in enumerate(names)})
            inputs[place] = np.array(names, dtype=object).reshape(array.shape)
    made = evaluated(rule_for(node), node, inputs)
    return [named.get(entry) for entry in np.asarray(made[0]).ravel()] if len(made) == 1 else None


def _entries(context: Context, name: str) -> list[Dimension] | None:
    array = context.sizes(name)
    return None if array is None else [entry if isinstance(entry, Symbolic) else int(entry) for entry in array.ravel()]
