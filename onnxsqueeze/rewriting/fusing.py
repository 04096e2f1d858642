"""Puts fused nodes of onnxruntime's own together again where they can stand for what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import onnx

from onnxsqueeze.graph.graph import Graph
from onnxsqueeze.model.lowered_node import Lowered
from onnxsqueeze.model.node_order import sort_graph


def fuse_again(
    graph: onnx.GraphProto,
    lowered: Sequence[Lowered],
    changed: Collection[str],
    same_form: Callable[[str, str], bool],
) -> None:
    """Write each fused node in place of the last of its parts, if those changed in nothing but what they read.

    Parts that are fused nodes in turn are there once they have been written.

    Args:
        graph: its nodes are changed in place.
        lowered: the fused nodes with their parts.
        changed: constants that are new, under whatever name.
        same_form: whether a tensor may stand where another one of the original did ("" where there was none).
    """
    pending = list(lowered)
    while pending:
        fused = _fuse(graph, pending, changed, same_form)
        if not fused:
            return
        pending = [entry for entry in pending if entry not in fused]


def _fuse(
    graph: onnx.GraphProto,
    lowered: Sequence[Lowered],
    changed: Collection[str],
    same_form: Callable[[str, str], bool],
) -> list[Lowered]:
    """Write those fused nodes whose parts are there, and return them."""
    producers = {name: node for node in graph.node for name in node.output if name}
    reads = Counter(name for names in Graph.read_names(graph) for name in names)
    reads.update(value.name for value in graph.output)
    places = {next((name for name in node.output if name), ""): place for place, node in enumerate(graph.node)}
    written: dict[int, onnx.NodeProto] = {}
    dropped: set[int] = set()
    fused = []
    for entry in lowered:
        whole = entry.put_together(producers, reads, changed, same_form)
        positions = [] if whole is None else [places[next(name for name in node.output if name)] for node in whole[0]]
        if whole is not None and dropped.isdisjoint(positions):
            dropped.update(positions)
            written[max(positions)] = whole[1]
            fused.append(entry)
    if written:
        _replace(graph, written, dropped)
    return fused


def _replace(graph: onnx.GraphProto, written: dict[int, onnx.NodeProto], dropped: set[int]) -> None:
    """A sum that a fused node writes besides is there earlier than it was."""
    nodes = [
        written.get(place, node) for place, node in enumerate(graph.node) if place in written or place not in dropped
    ]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    sort_graph(graph)
