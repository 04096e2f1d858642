"""Tensors that are split into a sequence and read part by part become slices."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.canonicalization.rebuild import _FIRST_WITH_FREE_INITIALIZERS, _rewritten
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.loading import Initializer
from onnxsqueeze.model.model import Model


def _without_sequences(model: Model) -> Model:
    if model.skeleton.ir_version < _FIRST_WITH_FREE_INITIALIZERS:
        return model
    if all(node.op_type != "SplitToSequence" for node in model.skeleton.graph.node):
        return model
    graph = Graph(model)
    scope = Scope(graph)
    slices: dict[int, tuple[onnx.NodeProto, list[Initializer]]] = {}
    dropped: set[int] = set()
    for node in graph.nodes:
        parts = _parts(node, graph, scope)
        if parts:
            dropped.add(node.index)
            slices.update({part.index: _slice(node, part, *bounds) for part, bounds in parts})
    return _rewritten(model, slices, dropped) if slices else model


def _parts(node: Node, graph: Graph, scope: Scope) -> list[tuple[Node, tuple[int, int]]]:
    """Return the nodes that take parts of a split, with the (start, end) of each; nothing if anything else reads it."""
    if node.op != "SplitToSequence" or node.domain or not node.input(1) or node.outputs[0] in graph.outputs:
        return []
    split = scope.constant(node.inputs[1])
    found = []
    for reader, position in graph.readers.get(node.outputs[0], ()):
        index = scope.constant(reader.input(1)) if reader.op == "SequenceAt" and position == 0 else None
        if split is None or index is None or int(index) < 0 or (split.ndim and int(index) >= split.size):
            return []
        found.append((reader, _bounds(split, int(index))))
    return found


def _bounds(split: Array, index: int) -> tuple[int, int]:
    """A number is the length of every part (the last may be shorter, as a Slice clamps), a vector gives them all."""
    if split.ndim == 0:
        return index * int(split), (index + 1) * int(split)
    ends = np.cumsum(split)
    return int(ends[index] - split[index]), int(ends[index])


def _slice(split: Node, part: Node, start: int, end: int) -> tuple[onnx.NodeProto, list[Initializer]]:
    output = part.outputs[0]
    numbers = {"starts": start, "ends": end, "axes": int(split.attributes.get("axis", 0))}
    constants = [Initializer.from_array(f"{output}.{name}", np.array([value])) for name, value in numbers.items()]
    names = [constant.name for constant in constants]
    return helper.make_node("Slice", [split.inputs[0], *names], [output], name=part.proto.name), constants
