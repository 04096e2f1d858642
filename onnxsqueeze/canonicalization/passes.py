"""Before the analysis: what exporters spread over sequences of tensors or groups of nodes is written more plainly.

A sequence has no shape that channels could be followed through, and torch's exporter writes every chunk and split as
`SplitToSequence` and `SequenceAt`. What onnxruntime's optimizers fused is lowered (see `lowering`). A group of nodes
that spell one operator becomes one node for the time being (see `patterns`). Nothing is rewritten in a model that the
minimizer then leaves as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx
from onnx import helper

from onnxsqueeze.canonicalization.blocked import without_blocks
from onnxsqueeze.canonicalization.branches import without_constant_branches
from onnxsqueeze.canonicalization.lowering.finding import lowered, with_bodies_in_place
from onnxsqueeze.canonicalization.patterns.finding import Found, find_groups
from onnxsqueeze.canonicalization.rebuild import _with_nodes
from onnxsqueeze.canonicalization.sequences import _without_sequences
from onnxsqueeze.graph.graph import PATTERN_DOMAIN, Graph
from onnxsqueeze.graph.named_tensors import matches
from onnxsqueeze.model.constant_nodes import with_initializers
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.node_group import Fusion
from onnxsqueeze.model.protobuf import set_field
from onnxsqueeze.rules.registry import rules


def canonicalized(model: Model, keep: Sequence[str] = ()) -> Graph:
    """Return the graph of a model that is easier to analyse; of the argument itself if that already is.

    Weights in Constant nodes are initializers, each part of a tensor split by constants is a Slice, and each group of
    nodes that spells an operator for which there is a rule is one node of `PATTERN_DOMAIN`, unless one of ``keep``
    (names or glob patterns) is a tensor in it.
    """
    whole = with_initializers(without_constant_branches(with_bodies_in_place(model)))
    plainer, apart = lowered(without_blocks(_without_sequences(whole)))
    return _fused(plainer, Fusion(lowered=apart, file=model), keep)


def _fused(model: Model, before: Fusion, keep: Sequence[str]) -> Graph:
    operators = {rule.op for rule in rules() if rule.domain == PATTERN_DOMAIN}
    graph = Graph(model, before)
    if any(entry.domain == PATTERN_DOMAIN for entry in model.skeleton.opset_import):
        return graph
    kept = [name for name in graph.producers if matches(name, keep)]
    found = find_groups(graph, operators, kept)
    if not found:
        return graph
    fused = {group.last.index: _fused_node(group) for group in found}
    dropped = {position for group in found for position in group.group.positions} - set(fused)
    positions = [index for index in range(len(graph.nodes)) if index not in dropped]
    nodes = [fused.get(index) or graph.nodes[index].proto for index in positions]
    fusion = replace(before, groups={group.last.outputs[0]: group.group for group in found}, positions=positions)
    return Graph(replace(model, skeleton=_with_nodes(model.skeleton, nodes)), fusion)


def _fused_node(found: Found) -> onnx.NodeProto:
    """What the last node of a group says beside its operator is said of the fused node."""
    last = found.last.proto
    node = helper.make_node(found.op, found.inputs, last.output, last.name, domain=PATTERN_DOMAIN)
    node.metadata_props.extend(last.metadata_props)
    if last.HasField("doc_string"):
        set_field(node, last.DESCRIPTOR.fields_by_name["doc_string"], last.doc_string)  # which need not be UTF-8
    return node
