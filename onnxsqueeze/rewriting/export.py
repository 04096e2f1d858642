"""Nodes of the graph under change as they are written: untouched ones exactly as they came, groups where they stood."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from onnxsqueeze.graph.graph import PATTERN_DOMAIN, Graph, Node
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.rewriting.graphsurgeon import exported_node

_WRITTEN = ("input", "output", "name", "op_type", "domain", "attribute")
"""What graphsurgeon writes of a node; all else stays as it came."""


def exported_nodes(
    graph: Graph, originals: Sequence[gs.Node], left: Sequence[tuple[int, gs.Node]], edited: Collection[int]
) -> list[onnx.NodeProto]:
    """Write all nodes, those of groups that no rule touched where they stood in the file.

    Args:
        graph: the original graph. originals: by index, what its nodes have become.
        left: the nodes to write, each with the index of the original node that it is or that it was added to.
        edited: the indices of the nodes that rules touched.
    """
    positions = graph.fusion.positions or range(len(originals))
    placed: list[tuple[int, onnx.NodeProto]] = []
    for index, node in left:
        original = graph.nodes[index]
        if node is not originals[index]:
            placed.append((positions[index], exported_node(node)))
        elif original.group is None or node.domain != PATTERN_DOMAIN:
            placed.append(
                (positions[index], _edited(node, original) if index in edited else _untouched(node, original))
            )
        else:
            members = original.group.written_back([tensor.name for tensor in node.inputs], node.outputs[0].name)
            places = original.group.positions if index not in edited else [positions[index]] * len(members)
            placed.extend(zip(places, members, strict=True))
    return [proto for _, proto in sorted(placed, key=lambda entry: entry[0])]


def _untouched(node: gs.Node, original: Node) -> onnx.NodeProto:
    """A node that no rule touched may read tensors under other names."""
    exported = onnx.NodeProto()
    exported.CopyFrom(original.proto)
    exported.input[:] = [tensor.name for tensor in node.inputs][: len(original.proto.input)]
    return exported


def _edited(node: gs.Node, original: Node) -> onnx.NodeProto:
    exported = exported_node(node)
    exported.MergeFrom(copy_except(original.proto, *_WRITTEN))
    before = {attribute.name: attribute for attribute in original.proto.attribute}
    for attribute in exported.attribute:
        if attribute.name in before and _same_tensor(before[attribute.name], attribute):
            attribute.CopyFrom(before[attribute.name])
    return exported


def _same_tensor(before: onnx.AttributeProto, now: onnx.AttributeProto) -> bool:
    """Whether attributes hold the same tensor, which the file may store in a shorter form."""
    if not before.type == now.type == onnx.AttributeProto.TENSOR or before.t.data_type != now.t.data_type:
        return False
    old, new = (numpy_helper.to_array(attribute.t) for attribute in (before, now))
    return old.shape == new.shape and old.tobytes() == new.tobytes()
