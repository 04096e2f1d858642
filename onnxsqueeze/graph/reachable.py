"""Which nodes some graph output depends on."""

from __future__ import annotations

from onnxsqueeze.graph.graph import Graph


def reachable(graph: Graph) -> set[int]:
    """Return the nodes that some graph output depends on, by index."""
    found: set[int] = set()
    names = list(graph.outputs)
    while names:
        node = graph.producers.get(names.pop())
        if node is not None and node.index not in found:
            found.add(node.index)
            names.extend((*node.inputs, *node.captured))
    return found


def holds_dead_weights(graph: Graph) -> bool:
    """Whether something is stored that no node reads on which a graph output depends."""
    used, live = reachable(graph), set(graph.outputs) | graph.overridable
    for node in graph.nodes:
        if node.index in used:
            live.update((*node.inputs, *node.captured))
    return not live.issuperset(graph.initializers)
