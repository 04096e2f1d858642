"""What readers tell of a tensor: a last axis that is known by nothing else has the length that a weight asks for."""

from __future__ import annotations

from onnxsqueeze.graph.graph import Graph, tensor_attribute
from onnxsqueeze.graph.weight_source import stored

_MOVING_SIZES = ("Unsqueeze", "Reshape", "Identity", "Cast")


def length_read(graph: Graph, name: str, rank: int) -> int | None:
    """Return how many channels along the last axis of a tensor some MatMul or Gemm reads, None if none says so.

    ``rank`` is the tensor's, 0 if that is not known.
    """
    for reader, position in graph.readers.get(name, ()):
        if position != 0 or reader.domain:
            continue
        length = None
        if reader.op == "MatMul":
            length = _stored_length(graph, reader.inputs[1], 0)
        elif reader.op == "Gemm" and not reader.attributes.get("transA", 0):
            length = _stored_length(graph, reader.inputs[1], int(bool(reader.attributes.get("transB", 0))))
        elif reader.op == "Reshape" and _asks_for_last(graph, reader.inputs[1], name, rank):
            length = length_read(graph, reader.outputs[0], 0)
        if length is not None:
            return length
    return None


def _stored_length(graph: Graph, weight: str, axis: int) -> int | None:
    found = stored(graph, weight, 2)
    shape = graph.initializers[found.name].shape if found is not None else ()
    return int(shape[found.order[axis]]) if found is not None and len(shape) == 2 else None


def _asks_for_last(graph: Graph, target: str, name: str, rank: int) -> bool:
    """Whether the last entry of a requested shape is the last one of the shape of ``name``."""
    producer = graph.producers.get(target)
    if producer is None or producer.op != "Concat":
        return False
    entry = graph.producers.get(producer.inputs[-1])
    while entry is not None and entry.op in _MOVING_SIZES:
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
