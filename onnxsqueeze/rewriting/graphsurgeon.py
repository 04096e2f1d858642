"""Between this project's graphs and onnx-graphsurgeon's, which sees names alone."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, helper

from onnxsqueeze.graph.graph import Graph, Node


def exported_node(node: gs.Node) -> onnx.NodeProto:
    """Write one node of graphsurgeon's as a NodeProto."""
    proto: onnx.NodeProto = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    for field in ("name", "domain"):  # an empty one takes bytes, too
        if not getattr(proto, field):
            proto.ClearField(field)
    return proto


def bare(graph: Graph) -> ModelProto:
    """Return the graph's nodes with names alone; what subgraphs capture stands as ordinary inputs."""
    nodes = [
        helper.make_node(node.op, _read(node), list(node.outputs), name=node.proto.name, domain=node.domain)
        for node in graph.nodes
    ]
    inputs = [onnx.ValueInfoProto(name=name) for name in graph.inputs]
    outputs = [onnx.ValueInfoProto(name=name) for name in graph.outputs]
    return helper.make_model(helper.make_graph(nodes, "bare", inputs, outputs))


def node_names(graph: Graph) -> set[str]:
    """Return what all nodes are called, those inside of groups included."""
    groups = graph.fusion.groups.values()
    members = [member.name for group in groups for member in group.members]
    return {*members, *(node.proto.name for node in graph.nodes)}


def _read(node: Node) -> list[str]:
    """Return all that a node reads: its inputs, what its subgraphs capture, or the constants that its group needs."""
    return list(node.group.inputs) if node.group else [*node.inputs, *node.captured]


def attributes_of(node: Node) -> dict[str, Any]:
    """Return a node's attributes in graphsurgeon's form."""
    if node.group is not None:
        return dict(node.group.attributes)
    importer = gs.importers.onnx_importer.OnnxImporter
    found: dict[str, Any] = importer.import_attributes(node.proto.attribute, {}, {}, None, None)
    return found
