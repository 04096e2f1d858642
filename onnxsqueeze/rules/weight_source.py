"""Weights that are stored once and read in several ways: directly, or with their axes in another order."""

from __future__ import annotations

from dataclasses import dataclass

from onnxsqueeze.graph.graph import Graph
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
