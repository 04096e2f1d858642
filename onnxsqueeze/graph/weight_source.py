"""Weights that are stored once and read in several ways: directly, or transposed by the graph."""

from __future__ import annotations

from dataclasses import dataclass

from onnxsqueeze.graph.graph import Graph


@dataclass(frozen=True)
class Stored:
    """Where a constant comes from.

    Attributes:
        name: the initializer.
        order: the axis of the initializer that each axis of the constant is.
    """

    name: str
    order: tuple[int, ...]


def stored(graph: Graph, name: str, rank: int) -> Stored | None:
    """Return the initializer that a constant of some rank is, as it stands or transposed; None if it is computed."""
    order = list(range(rank))
    while name not in graph.initializers:
        producer = graph.producers.get(name)
        if producer is None or producer.domain or producer.op not in _MOVING:
            return None
        if producer.op == "Transpose":
            moved = [int(axis) for axis in producer.attributes.get("perm", range(rank)[::-1])]
            order = [moved[axis] for axis in order]
        name = producer.inputs[0]
    return Stored(name, tuple(order))


_MOVING = ("Transpose", "Identity")


def uses(graph: Graph, name: str, shapes: bool = True) -> int:
    """Return how many nodes read a constant, as it stands or transposed, and make something else of it.

    Without ``shapes`` those that only ask for its shape do not count.
    """
    total = 0
    for reader, _ in graph.readers.get(name, ()):
        if reader.op in _MOVING and not reader.domain:
            total += uses(graph, reader.outputs[0], shapes)
        else:
            total += shapes or reader.domain != "" or reader.op not in ("Shape", "Size")
    return total
