"""Counts: weight elements of a model, and shapes at given sizes for multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import onnx

from onnxsqueeze.model.constant_nodes import NOT_WEIGHTS
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import reached_nodes, subgraphs


def holds_weights(data_type: int) -> bool:
    """Whether a tensor of a type (TensorProto.DataType) can hold weights."""
    return data_type not in NOT_WEIGHTS


def weight_elements(model: Model) -> int:
    """Return the number of weight elements: of initializers and Constant nodes, each stored tensor once.

    Those inside of functions and of graphs in attributes count too.
    """
    stored = sum(
        prod(initializer.shape)
        for initializer in model.initializers.values()
        if holds_weights(initializer.header.data_type)
    )
    graphs = [graph for node in reached_nodes(model.skeleton) for graph in subgraphs(node)]
    inner = sum(_elements(tensor) for graph in graphs for tensor in graph.initializer)
    sparse = (tensor for graph in (model.skeleton.graph, *graphs) for tensor in graph.sparse_initializer)
    inner += sum(prod(map(int, tensor.dims)) for tensor in sparse if holds_weights(tensor.values.data_type))
    return stored + inner + _constant_elements(reached_nodes(model.skeleton))


def _elements(tensor: onnx.TensorProto) -> int:
    return prod(map(int, tensor.dims)) if holds_weights(tensor.data_type) else 0


def weight_bytes(model: Model) -> int:
    """Return the bytes of what `weight_elements` counts."""
    stored = sum(
        initializer.nbytes
        for initializer in model.initializers.values()
        if initializer.header.data_type not in NOT_WEIGHTS
    )
    constants = (node for node in model.skeleton.graph.node if node.op_type == "Constant")
    return stored + sum(int(node.ByteSize()) for node in constants if _constant_elements([node]))


def _constant_elements(nodes: Iterable[onnx.NodeProto]) -> int:
    total = 0
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                total += _elements(attribute.t)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                total += max(1, len(attribute.floats))
    return total
