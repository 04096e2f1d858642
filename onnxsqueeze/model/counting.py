"""Counts: weight elements of a model, and shapes at given sizes for multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

from onnx import NodeProto, TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxsqueeze.model.constant_nodes import NOT_WEIGHTS
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import reached_nodes, subgraphs


def holds_weights(data_type: int) -> bool:
    """Whether a tensor of a type (TensorProto.DataType) can hold weights."""
    return data_type not in NOT_WEIGHTS


def weight_elements(model: Model) -> int:
    """Return the number of weight elements: of initializers and Constant nodes, each stored tensor once.

    Those inside of functions and of graphs in attributes count too.
    """
    return sum(prod(initializer.shape) for initializer in _weights(model)) + _inner(model, _elements)


def weight_bytes(model: Model) -> int:
    """Return how many bytes that takes which `weight_elements` counts."""
    return sum(initializer.nbytes for initializer in _weights(model)) + _inner(model, _bytes)


def _weights(model: Model) -> Iterator[Initializer]:
    return (entry for entry in model.initializers.values() if holds_weights(entry.header.data_type))


def _inner(model: Model, count: Callable[[TensorProto], int]) -> int:
    """Add up what ``count`` says of the tensors that are no initializers of the main graph."""
    nodes = list(reached_nodes(model.skeleton))
    graphs = [graph for node in nodes for graph in subgraphs(node)]
    total = sum(count(tensor) for graph in graphs for tensor in graph.initializer)
    for graph in (model.skeleton.graph, *graphs):
        for sparse in graph.sparse_initializer:
            total += count(TensorProto(dims=sparse.dims, data_type=sparse.values.data_type))
    return total + sum(count(tensor) for node in nodes if node.op_type == "Constant" for tensor in _held(node))


def _elements(tensor: TensorProto) -> int:
    return prod(map(int, tensor.dims)) if holds_weights(tensor.data_type) else 0


def _bytes(tensor: TensorProto) -> int:
    try:
        size = tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:  # of a newer ONNX
        size = 1
    return _elements(tensor) * size


def _held(node: NodeProto) -> Iterator[TensorProto]:
    """Yield the tensors in the attributes of a Constant node."""
    for attribute in node.attribute:
        if attribute.name == "value":
            yield attribute.t
        elif attribute.name in ("value_float", "value_floats"):
            yield TensorProto(dims=[max(1, len(attribute.floats))], data_type=TensorProto.FLOAT)
