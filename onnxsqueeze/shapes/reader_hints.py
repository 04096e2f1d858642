"""What readers tell of a tensor: a last axis that is known by nothing else has the length that a weight asks for."""

from __future__ import annotations

from onnxsqueeze.graph.graph import Graph, tensor_attribute
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.rules.weight_source import source_of


def length_expected(graph: Graph, name: str, rank: int) -> int | None:
    """Return how many channels along the last axis of a tensor some reader reads, None if none says so.

    ``rank`` is the tensor's, 0 if that is not known.
    """
    for reader, position in graph.readers.get(name, ()):
        expects = rule_for(reader).expects if position >= 0 else None
        length = None if expects is None else expects(reader, graph, position, rank)
        if length is not None:
            return length
    return None


def stored_length(graph: Graph, weight: str, axis: int) -> int | None:
    """Return the length of an axis of a stored weight of rank 2, None for any other tensor."""
    found = source_of(graph, weight, 2)
    shape = graph.initializers[found.name].shape if found is not None else ()
    return int(shape[found.order[axis]]) if found is not None and len(shape) == 2 else None


def asks_for_last(graph: Graph, target: str, name: str, rank: int) -> bool:
    """Whether the last entry of a requested shape is the last one of the shape of ``name``."""
    producer = graph.producers.get(target)
    if producer is None or producer.op != "Concat":
        return False
    entry = graph.producers.get(producer.inputs[-1])
    while entry is not None and rule_for(entry).traits & {Trait.COPIES, Trait.REARRANGES}:
        entry = graph.producers.get(entry.inputs[0])
    if entry is None or entry.op != "Gather":
        return False
    shape, index = graph.producers.get(entry.inputs[0]), _number(graph, entry.inputs[1])
    return shape is not None and shape.op == "Shape" and shape.inputs[0] == name and index in (-1, rank - 1)


def _number(graph: Graph, name: str) -> int | None:
    producer = graph.producers.get(name)
    if name in graph.initializers:
        array = graph.initializers[name].array
    elif producer is not None and producer.op == "Constant" and "value" in producer.attributes:
        array = tensor_attribute(producer.attributes["value"])
    else:
        return None
    return int(array.ravel()[0]) if array.size == 1 else None
