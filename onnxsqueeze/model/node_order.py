"""Nodes in the order of the standard: each behind those that write what it reads.

onnxruntime sorts the nodes of a file by itself, so that files in any order are about: converters append the nodes that
they insert. The checker of the onnx package refuses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from onnxsqueeze.model.walk import subgraphs

NOTE = "nodes stood in front of others that they read from, as onnxruntime allows and the standard does not: sorted"


def sort_nodes(model: onnx.ModelProto) -> int:
    """Sort the nodes of a model, of its subgraphs and of its functions in place; return how many lists were not sorted.

    Only what stands too late moves, to right in front of its first reader. Nodes in a circle stay as they are, for the
    checker to refuse.
    """
    return sum(map(sort_graph, (model.graph, *model.functions)))


def sort_graph(graph: onnx.GraphProto | onnx.FunctionProto) -> int:
    """Do the same for a graph or a function, and the subgraphs in it."""
    nodes = graph.node
    changed = sum(sort_graph(body) for node in nodes for body in subgraphs(node))
    order = _order(nodes)
    if order == list(range(len(nodes))):
        return changed
    copies = [onnx.NodeProto.FromString(nodes[index].SerializeToString()) for index in order]
    del nodes[:]
    nodes.extend(copies)
    return changed + 1


def _order(nodes: Any) -> list[int]:
    """Return the indices of nodes, each behind those that it reads from."""
    reads = [list(_reads(node)) for node in nodes]
    if _sorted(nodes, reads):
        return list(range(len(nodes)))
    writers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    placed: dict[int, None] = {}
    for index in range(len(nodes)):
        waiting, entered = [index], set()
        while waiting:
            current = waiting[-1]
            needs = [writers[name] for name in reads[current] if name in writers and writers[name] not in placed]
            if current in placed:
                waiting.pop()
            elif not needs or current in entered:  # a second visit that still misses something is a circle
                placed[waiting.pop()] = None
            else:
                entered.add(current)
                waiting.extend(reversed(needs))
    return list(placed)


def _sorted(nodes: Any, reads: list[list[str]]) -> bool:
    later = {name for node in nodes for name in node.output if name}
    for node, names in zip(nodes, reads, strict=True):
        if not later.isdisjoint(names):
            return False
        later.difference_update(node.output)
    return True


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those that its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {tensor.values.name for tensor in graph.sparse_initializer}
        own |= {name for inner in graph.node for name in inner.output}
        names = [name for inner in graph.node for name in _reads(inner)]
        yield from (name for name in (*names, *(value.name for value in graph.output)) if name not in own)
