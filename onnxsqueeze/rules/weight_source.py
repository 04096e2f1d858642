"""Weights that are stored once and read in several ways: directly, or with their axes in another order."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.rules.codes import Codes
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait


@dataclass(frozen=True)
class WeightSource:
    """Where a constant comes from.

    Attributes:
        name: the initializer.
        order: the axis of the initializer that each axis of the constant is.
    """

    name: str
    order: tuple[int, ...]


def source_of(graph: Graph, name: str, rank: int) -> WeightSource | None:
    """Return the initializer that a constant of some rank is, as it stands or transposed; None if it is computed."""
    order = list(range(rank))
    while name not in graph.initializers:
        producer = graph.producers.get(name)
        permutes = None if producer is None else rule_for(producer).permutes
        if producer is None or permutes is None:
            return None
        moved = permutes(producer, rank)
        order = [moved[axis] for axis in order]
        name = producer.inputs[0]
    return WeightSource(name, tuple(order))


def use_count(graph: Graph, name: str, shapes: bool = True) -> int:
    """Return how many nodes read a constant, as it stands or transposed, and make something else of it.

    Without ``shapes`` those that only ask for its shape do not count.
    """
    total = 0
    for reader, _ in graph.readers.get(name, ()):
        rule = rule_for(reader)
        if rule.permutes is not None:
            total += use_count(graph, reader.outputs[0], shapes)
        else:
            total += shapes or Trait.READS_SHAPE not in rule.traits
    return total


def owned_bytes(graph: Graph, name: str) -> int:
    """Return how many stored bytes nothing would read any more, if a computed constant were not computed."""
    return sum(stored_bytes(graph, entry) for entry in owned(graph, name))


def owned(graph: Graph, name: str) -> set[str]:
    """Return all that a constant is computed of and nothing else is, the constant among it."""
    if name in graph.outputs:
        return set()
    behind, found = _behind(graph, name), {name}
    for entry in sorted(behind - found, key=lambda entry: _place(graph, entry), reverse=True):  # readers first
        readers = graph.readers.get(entry, ())
        made = {output for reader, _ in readers for output in reader.outputs if output}
        if made <= found and entry not in graph.outputs and all(position >= 0 for _, position in readers):
            found.add(entry)
    return found


def _place(graph: Graph, name: str) -> int:
    """Return where in the graph a tensor is made, before all others if it is stored."""
    node = graph.producers.get(name)
    return -1 if node is None else node.index


def stored_narrower(graph: Graph, name: str, nbytes: int) -> bool:
    """Whether a constant of ``nbytes`` is computed of others that take fewer, those of a narrower type, say.

    Its readers may then only slice it: in a type of its own it would be larger than it was.
    """
    node = graph.producers.get(name)
    if name in graph.initializers or node is None or not node.inputs:
        return False
    return sum(stored_behind(graph, name).values()) < nbytes


def stored_behind(graph: Graph, name: str) -> dict[str, int]:
    """Return by name the bytes of what a file stores for a tensor: itself, or all that it is computed of."""
    if own := stored_bytes(graph, name):
        return {name: own}
    return {entry: size for entry in _behind(graph, name) if (size := stored_bytes(graph, entry))}


def stored_bytes(graph: Graph, name: str) -> int:
    """Return what a tensor takes in the file, if that holds it: as an initializer, or in a node that reads nothing."""
    if name in graph.initializers:
        return graph.initializers[name].nbytes
    node = graph.producers.get(name)
    return 0 if node is None or node.inputs else int(node.proto.ByteSize())


def _behind(graph: Graph, name: str) -> set[str]:
    """Return a tensor and all that it is computed of."""
    found, pending = {name}, [name]
    while pending:
        node = graph.producers.get(pending.pop())
        for entry in () if node is None else node.inputs:
            if entry and entry not in found:
                found.add(entry)
                pending.append(entry)
    return found


def decoder_of(context: Context, name: str) -> Node | None:
    """Return the node that decodes a tensor with one scale and zero point, which may be computed; None if none does."""
    producer = context.graph.producers.get(name)
    return producer if producer is not None and _has(producer, Trait.DECODES) and _alike(context, producer) else None


def encoder_of(context: Context, name: str) -> Node | None:
    """Return the node behind which channels of a tensor can be moved among codes; None where there is none.

    It alone reads the tensor, and has one scale and zero point. What is in front of it is computed in integers as
    before: it is the last part of a fused node, if it is a part of one.
    """
    readers = context.graph.readers.get(name, ())
    if len(readers) != 1 or name in context.graph.outputs or readers[0][1] != 0:
        return None
    reader = readers[0][0]
    if not _has(reader, Trait.ENCODES) or not _alike(context, reader):
        return None
    return None if reader.outputs[0] in context.graph.fusion.between_parts else reader


def held(context: Context, node: Node) -> bool:
    """Whether a node encodes or decodes int8 and nothing may come between it and its counterpart.

    onnxruntime makes codes of int8 uint8, with which it computes, only where they are decoded right behind their
    encoding, and read once. Operators on codes, of which the node may be a part, compute with int8 themselves.
    """
    graph, codes = context.graph, node.inputs[0] if _has(node, Trait.DECODES) else node.outputs[0]
    decoder = next((reader for reader, _ in graph.readers.get(codes, ())), None)
    if context.dtypes.get(codes) != TensorProto.INT8 or node.outputs[0] in graph.fusion.of_parts:
        return False
    if decoder is None or not _has(decoder, Trait.DECODES):
        return False
    reads = [len(graph.readers.get(name, ())) + (name in graph.outputs) for name in (codes, decoder.outputs[0])]
    return reads == [1, 1]


def _alike(context: Context, node: Node) -> bool:
    """Whether a node encodes or decodes all of a tensor with one scale and zero point."""
    numbers = [given for given in node.inputs[1:] if given]
    return all(size == 1 for given in numbers for size in context.shapes.get(given, (0,)))


def _has(node: Node, trait: Trait) -> bool:
    return trait in rule_for(node).traits


def codes_of(context: Context, name: str) -> Codes | None:
    """Return how a tensor is stored as codes, if the node that makes it decodes them; None for plain numbers."""
    producer = context.graph.producers.get(name)
    rule = None if producer is None else rule_for(producer)
    return None if producer is None or rule is None or rule.codes is None else rule.codes(producer, context)
