"""Before the analysis: what exporters spread over sequences of tensors is rewritten with tensors alone.

A sequence has no shape that channels could be followed through, and torch's exporter writes every chunk and split as
`SplitToSequence` and `SequenceAt`. Nothing is rewritten in a model that the minimizer then leaves as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, helper

from onnxsqueeze.graph import Graph, Node, tensor_attribute
from onnxsqueeze.loading import Initializer, Model
from onnxsqueeze.rule import Array

_FIRST_WITH_FREE_INITIALIZERS = 4  # the IR version since which an initializer need not be a graph input


def normalised(model: Model) -> Model:
    """Return a model in which each part of a tensor split by constants is a Slice; the argument if there is none."""
    if model.skeleton.ir_version < _FIRST_WITH_FREE_INITIALIZERS:
        return model
    if all(node.op_type != "SplitToSequence" for node in model.skeleton.graph.node):
        return model
    graph = Graph(model)
    slices: dict[int, tuple[onnx.NodeProto, list[Initializer]]] = {}
    dropped: set[int] = set()
    for node in graph.nodes:
        parts = _parts(node, graph)
        if parts:
            dropped.add(node.index)
            slices.update({part.index: _slice(node, part, *bounds) for part, bounds in parts})
    return _rewritten(model, slices, dropped) if slices else model


def _parts(node: Node, graph: Graph) -> list[tuple[Node, tuple[int, int]]]:
    """Return the nodes that take parts of a split, with the (start, end) of each; nothing if anything else reads it."""
    if node.op != "SplitToSequence" or node.domain or not node.input(1) or node.outputs[0] in graph.outputs:
        return []
    split = _constant(node.inputs[1], graph)
    found = []
    for reader, position in graph.readers.get(node.outputs[0], ()):
        index = _constant(reader.input(1), graph) if reader.op == "SequenceAt" and position == 0 else None
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


def _constant(name: str, graph: Graph) -> Array | None:
    if name in graph.initializers:
        return graph.initializers[name].array
    producer = graph.producers.get(name)
    if producer is None or producer.op != "Constant":
        return None
    if "value" in producer.attributes:
        return tensor_attribute(producer.attributes["value"])
    values = [value for key, value in producer.attributes.items() if key in ("value_int", "value_ints")]
    return np.asarray(values[0], dtype=np.int64) if values else None


def _slice(split: Node, part: Node, start: int, end: int) -> tuple[onnx.NodeProto, list[Initializer]]:
    output = part.outputs[0]
    numbers = {"starts": start, "ends": end, "axes": int(split.attributes.get("axis", 0))}
    constants = [Initializer.from_array(f"{output}.{name}", np.array([value])) for name, value in numbers.items()]
    names = [constant.name for constant in constants]
    return helper.make_node("Slice", [split.inputs[0], *names], [output], name=part.proto.name), constants


def _rewritten(model: Model, slices: dict[int, tuple[onnx.NodeProto, list[Initializer]]], dropped: set[int]) -> Model:
    def nodes() -> Iterator[onnx.NodeProto]:
        for index, node in enumerate(model.skeleton.graph.node):
            if index in slices:
                yield slices[index][0]
            elif index not in dropped:
                yield node

    skeleton = ModelProto()
    skeleton.CopyFrom(model.skeleton)
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(nodes())
    new = {constant.name: constant for _, constants in slices.values() for constant in constants}
    return replace(model, skeleton=skeleton, initializers=model.initializers | new)
