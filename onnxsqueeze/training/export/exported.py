"""What torch's exporters write, made into a model to prune and to train: plain names, no leftovers of the export."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto
from torch import nn

from onnxsqueeze.model.compensated_function import with_definition
from onnxsqueeze.model.loading import Initializer
from onnxsqueeze.model.model import Model

__all__ = ["FROZEN", "TIED", "completed", "model_of_program"]

FROZEN = "onnxsqueeze.frozen"
"""Key of the model's metadata: a json list of the float initializers that are not to be trained."""

TIED = "onnxsqueeze.tied"
"""Key of the model's metadata: a json list of lists: the names of each parameter that is used repeatedly on purpose."""

PREFIX = "module."
"""What the names of parameters begin with, since the exported module holds the given one as ``module``."""

_NOTES = ("pkg.torch.", "namespace")


def model_of_program(program: torch.onnx.ONNXProgram) -> Model:
    """Take apart what the newer exporter made; the weights are not copied, so that they may be of any size."""
    import onnx_ir

    stored = program.model.graph.initializers
    arrays = {}
    for name, value in stored.items():
        assert value.const_value is not None
        arrays[name] = np.ascontiguousarray(value.const_value.numpy()).reshape(value.const_value.shape.numpy())
    stored.clear()
    skeleton = onnx_ir.to_proto(program.model)
    return Model(skeleton, {name: Initializer.from_array(name, array) for name, array in arrays.items()})


def completed(model: Model, module: nn.Module, *, keep_dropout: bool) -> Model:
    """Clean up an exported model, in place, and say in its metadata what the module knows and a graph does not.

    Args:
        model: the model; parameters have the names that they have in the module, with `PREFIX`.
        module: the module that was exported.
        keep_dropout: whether it was exported so that Dropout nodes are written.
    """
    _without_notes(model.skeleton)
    _without_prefix(model)
    if keep_dropout:
        _at_rest(model.skeleton.graph)
    _without_zero_biases(model)
    _without_dead_nodes(model)
    _describe(model, module)
    return with_definition(model)


def _without_notes(skeleton: ModelProto) -> None:
    """Drop the exporter's notes, among them the source code of the module."""
    graph = skeleton.graph
    for holder in (skeleton, graph, *_nodes(graph), *graph.input, *graph.output, *graph.value_info):
        kept = [entry for entry in holder.metadata_props if not entry.key.startswith(_NOTES)]
        del holder.metadata_props[:]
        holder.metadata_props.extend(kept)


def _without_prefix(model: Model) -> None:
    """Give parameters the names that they have in the module, unless something else in the graph has that name."""
    graph = model.skeleton.graph
    taken = {name for node in _nodes(graph) for name in node.output} | {value.name for value in graph.input}
    renamed = {name: name.removeprefix(PREFIX) for name in model.initializers if name.startswith(PREFIX)}
    renamed = {name: plain for name, plain in renamed.items() if plain not in taken | model.initializers.keys()}
    _rename_reads(graph, renamed)
    entries = [(renamed.get(name, name), entry) for name, entry in model.initializers.items()]
    model.initializers = {name: Initializer.from_array(name, entry.array) for name, entry in entries}
    described = [value for value in graph.value_info if value.name not in renamed]
    if len(described) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(described)


def _rename_reads(graph: GraphProto, renamed: Mapping[str, str]) -> None:
    for node in _nodes(graph):
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    for holder in (graph, *_subgraphs(graph)):
        for value in holder.output:
            value.name = renamed.get(value.name, value.name)


def _at_rest(graph: GraphProto) -> None:
    """Turn Dropout of the training mode into Dropout that lets everything pass and still knows its ratio."""
    for node in _nodes(graph):
        if node.op_type == "Dropout" and len(node.input) == 3:
            del node.input[2]


def _without_zero_biases(model: Model) -> None:
    """Drop biases of convolutions that the newer exporter spreads from a zero, to the shape of the weight."""
    graph = model.skeleton.graph
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3 and _is_zero(node.input[2], producers):
            del node.input[2]


def _is_zero(name: str, producers: Mapping[str, NodeProto]) -> bool:
    """Whether a tensor is made of a constant zero by operators that move and convert alone."""
    node = producers.get(name)
    if node is None or node.domain:
        return False
    if node.op_type in ("Expand", "CastLike", "Cast", "Identity", "Reshape"):
        return _is_zero(node.input[0], producers)
    if node.op_type != "Constant":
        return False
    value = onnx.helper.get_attribute_value(node.attribute[0])
    array = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    return array.dtype.kind in "fiuV" and not array.astype(np.float64).any()


def _without_dead_nodes(model: Model) -> None:
    """Drop nodes that nothing reads any more, and initializers."""
    graph = model.skeleton.graph
    read = Counter(name for node in _nodes(graph) for name in node.input)
    read.update(value.name for holder in (graph, *_subgraphs(graph)) for value in holder.output)
    alive: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(read[name] for name in node.output):
            alive.append(node)
            continue
        read.subtract(node.input)
        read.subtract(name for inner in _inner_nodes(node) for name in inner.input)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in reversed(alive)]
    del graph.node[:]
    graph.node.extend(copies)
    model.initializers = {name: entry for name, entry in model.initializers.items() if read[name] > 0}


def _describe(model: Model, module: nn.Module) -> None:
    """Write into the metadata which initializers are not trained, and which are used repeatedly on purpose."""
    named = list(module.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name, parameter in named:
        names.setdefault(id(parameter), []).append(name)
    # A module of which nothing is to be trained is one that was put away for inference.
    put_away = not any(parameter.requires_grad for _, parameter in named)
    trained = {name: names[id(parameter)] for name, parameter in named if put_away or parameter.requires_grad}
    trained |= {PREFIX + name: aliases for name, aliases in trained.items()}
    graph = model.skeleton.graph
    read = Counter(name for node in _nodes(graph) for name in node.input)
    statistics = {name for node in _nodes(graph) if node.op_type == "BatchNormalization" for name in node.input[3:5]}
    floats = [name for name, entry in model.initializers.items() if entry.array.dtype.kind in "fV"]
    frozen = [name for name in floats if name not in trained and name not in statistics]
    tied = [
        [name, *(alias for alias in trained[name] if alias != name)]
        for name in floats
        if name in trained and read[name] > 1
    ]
    for key, value in ((FROZEN, frozen), (TIED, tied)):
        model.skeleton.metadata_props.add(key=key, value=json.dumps(value))


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield all nodes, those of subgraphs included."""
    for node in graph.node:
        yield node
        yield from _inner_nodes(node)


def _inner_nodes(node: NodeProto) -> Iterator[NodeProto]:
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
            yield from _nodes(graph)


def _subgraphs(graph: GraphProto) -> Iterator[GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                yield inner
                yield from _subgraphs(inner)
