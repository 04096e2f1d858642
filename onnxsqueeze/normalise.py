"""Before the analysis: what exporters spread over sequences of tensors or groups of nodes is written more plainly.

A sequence has no shape that channels could be followed through, and torch's exporter writes every chunk and split as
`SplitToSequence` and `SequenceAt`. What onnxruntime fused of a sum and a norm is taken apart. A group of nodes that
spell one operator becomes one node for the time being (see `patterns`). Nothing is rewritten in a model that the
minimizer then leaves as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import ModelProto, helper

from onnxsqueeze import skip_normalization
from onnxsqueeze.graph import PATTERN_DOMAIN, Graph, Node
from onnxsqueeze.loading import Initializer, Model
from onnxsqueeze.patterns.finding import Found, find_groups
from onnxsqueeze.patterns.group import Fusion
from onnxsqueeze.patterns.scope import Scope
from onnxsqueeze.protobuf import copy_except
from onnxsqueeze.rule import Array, rules

_FIRST_WITH_FREE_INITIALIZERS = 4  # the IR version since which an initializer need not be a graph input


def normalised(model: Model, keep: Sequence[str] = ()) -> Model:
    """Return a model that is easier to analyse; the argument if it already is.

    Each part of a tensor split by constants is a Slice, and each group of nodes that spells an operator for which
    there is a rule is one node of `PATTERN_DOMAIN`, unless one of ``keep`` (names or glob patterns) is a tensor in it.
    """
    return _fused(_without_skips(_without_sequences(model)), keep)


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


def _without_skips(model: Model) -> Model:
    if model.skeleton.ir_version < _FIRST_WITH_FREE_INITIALIZERS:
        return model
    if all(node.domain != skip_normalization.DOMAIN for node in model.skeleton.graph.node):
        return model
    graph = Graph(model)
    scope = Scope(graph)
    parts = {node.index: found for node in graph.nodes if (found := skip_normalization.taken_apart(node, scope))}
    if not parts:
        return model
    nodes = [
        proto for node in graph.nodes for proto in (parts[node.index].nodes if node.index in parts else [node.proto])
    ]
    new = {constant.name: constant for found in parts.values() for constant in found.constants}
    return replace(model, skeleton=_with_nodes(model.skeleton, nodes), initializers=model.initializers | new)


def _fused(model: Model, keep: Sequence[str]) -> Model:
    operators = {rule.op for rule in rules() if rule.domain == PATTERN_DOMAIN}
    if any(entry.domain == PATTERN_DOMAIN for entry in model.skeleton.opset_import):
        return model
    graph = Graph(model)
    kept = [name for name in graph.producers if any(fnmatchcase(name, pattern) for pattern in keep)]
    found = find_groups(graph, operators, kept)
    if not found:
        return model
    fused = {group.last.index: _fused_node(group) for group in found}
    dropped = {position for group in found for position in group.group.positions} - set(fused)
    positions = [index for index in range(len(graph.nodes)) if index not in dropped]
    nodes = [fused.get(index) or graph.nodes[index].proto for index in positions]
    fusion = Fusion({group.last.outputs[0]: group.group for group in found}, positions)
    return replace(model, skeleton=_with_nodes(model.skeleton, nodes), fusion=fusion)


def _fused_node(found: Found) -> onnx.NodeProto:
    """What the last node of a group says beside its operator is said of the fused node."""
    last = found.last.proto
    node = helper.make_node(found.op, found.inputs, last.output, last.name, last.doc_string or None, PATTERN_DOMAIN)
    node.metadata_props.extend(last.metadata_props)
    return node


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


def _rewritten(model: Model, slices: dict[int, tuple[onnx.NodeProto, list[Initializer]]], dropped: set[int]) -> Model:
    def nodes() -> Iterator[onnx.NodeProto]:
        for index, node in enumerate(model.skeleton.graph.node):
            if index in slices:
                yield slices[index][0]
            elif index not in dropped:
                yield node

    new = {constant.name: constant for _, constants in slices.values() for constant in constants}
    return replace(model, skeleton=_with_nodes(model.skeleton, nodes()), initializers=model.initializers | new)


def _with_nodes(model: ModelProto, nodes: Iterable[onnx.NodeProto]) -> ModelProto:
    changed = copy_except(model, "graph")
    changed.graph.CopyFrom(copy_except(model.graph, "node"))
    changed.graph.node.extend(nodes)
    return changed
