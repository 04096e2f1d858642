"""A subgraph put in the place of the node that holds it: names stay unique, what the node writes keeps its names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import helper

from onnxsqueeze.model.initializer import Initializer, from_tensor
from onnxsqueeze.model.walk import subgraphs


@dataclass
class Inlined:
    """What stands in the place of a node.

    Attributes:
        nodes: in an order of the standard. initializers: those of the subgraph.
        values: what the subgraph declares of its tensors.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[Initializer] = field(default_factory=list)
    values: list[onnx.ValueInfoProto] = field(default_factory=list)


class Names:
    """The names of all tensors of a graph and of its subgraphs, and new ones."""

    def __init__(self, graph: onnx.GraphProto, initializers: Iterable[str]) -> None:
        self._defined = Counter(defined_names(graph))
        self._defined.update(list(initializers))

    def unique(self, name: str) -> str:
        """Return the name of a tensor of a subgraph that is to be in the graph around it, another one if need be."""
        if self._defined[name] <= 1:
            return name
        return self.new(name)

    def new(self, hint: str) -> str:
        """Return a name that nothing has, like ``hint``."""
        name, count = hint, 1
        while name in self._defined:
            count += 1
            name = f"{hint}_{count}"
        self._defined[name] += 1
        return name


def inlined(
    body: onnx.GraphProto, names: Names, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> Inlined | None:
    """Return what computes the same as a subgraph, in the graph around it.

    Args:
        body: the subgraph.
        names: those of the whole graph.
        inputs: by input of the subgraph, the tensor outside that stands for it.
        outputs: by output of the subgraph that is read outside, its name there.

    Returns:
        None if the subgraph holds what cannot stand outside.
    """
    deeper = {name for node in body.node for graph in subgraphs(node) for name in defined_names(graph)}
    if body.sparse_initializer or body.quantization_annotation or not deeper.isdisjoint(outputs.values()):
        return None
    made = [name for node in body.node for name in node.output if name]
    own = {name: outputs[name] if name in outputs else names.unique(name) for name in made}
    own |= {tensor.name: names.unique(tensor.name) for tensor in body.initializer}
    own |= inputs
    found = Inlined([renamed(node, own) for node in body.node])
    found.initializers = [_stored(tensor, own[tensor.name]) for tensor in body.initializer]
    for name, outside in outputs.items():
        source = own.get(name, name)
        if source != outside:
            found.nodes.append(helper.make_node("Identity", [source], [outside], outside))
    found.values = [_value(value, own[value.name]) for value in body.value_info if value.name in own]
    return found


def _stored(tensor: onnx.TensorProto, name: str) -> Initializer:
    initializer = from_tensor(tensor)
    initializer.header.name = name
    return initializer


def _value(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    copied.name = name
    return copied


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return a copy of a node that reads and writes tensors under other names, in its subgraphs too."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.input[:] = [names.get(name, name) for name in node.input]
    copied.output[:] = [names.get(name, name) for name in node.output]
    for graph in subgraphs(copied):
        _rename_captured(graph, names)
    return copied


def _rename_captured(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename what a subgraph reads from outside; what it defines itself hides a name outside."""
    own = set(_own_names(graph))
    outside = {name: new for name, new in names.items() if name not in own}
    for node in graph.node:
        node.input[:] = [outside.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            _rename_captured(inner, outside)
    for value in graph.output:
        value.name = outside.get(value.name, value.name)


def rename_all(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename in place what a subgraph and those in it read and define."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in subgraphs(node):
            rename_all(inner, names)


def _own_names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def defined_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield what a graph and its subgraphs define, a name as often as it is defined."""
    yield from dict.fromkeys(_own_names(graph))
    for node in graph.node:
        for inner in subgraphs(node):
            yield from defined_names(inner)
