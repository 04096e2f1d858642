"""Walking through the nodes and subgraphs of a model as onnx stores it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node of a model, those of subgraphs and of functions included."""
    yield from graph_nodes(model.graph)
    for function in model.functions:
        yield from function_nodes(function)


def reached_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node of the main graph, of its subgraphs, and of the functions that any of them calls, each once."""
    functions = {(function.domain, function.name): function for function in model.functions}
    pending = list(graph_nodes(model.graph))
    while pending:
        node = pending.pop()
        yield node
        function = functions.pop((node.domain, node.op_type), None)
        if function is not None:
            pending.extend(function_nodes(function))


def graph_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield every node of a graph and of its subgraphs."""
    for node in graph.node:
        yield from _with_subgraphs(node)


def function_nodes(function: onnx.FunctionProto) -> Iterator[NodeProto]:
    """Yield every node of a function and of the subgraphs in it."""
    for node in function.node:
        yield from _with_subgraphs(node)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _with_subgraphs(node: NodeProto) -> Iterator[NodeProto]:
    yield node
    for graph in subgraphs(node):
        yield from graph_nodes(graph)


def default_opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that a model imports, 0 where it imports none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def read_names(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those that its subgraphs capture included."""
    yield from node.input
    yield from captured(node)


def captured(node: NodeProto) -> Iterator[str]:
    """Yield the names that the node's subgraphs read from outside of themselves."""
    for graph in subgraphs(node):
        yield from free_names(graph)


def free_names(graph: GraphProto) -> Iterator[str]:
    """Yield the names that a subgraph reads from outside of itself, once for each time that it does."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        yield from (name for name in (*node.input, *captured(node)) if name and name not in own)
        own.update(node.output)
    yield from (value.name for value in graph.output if value.name not in own)
