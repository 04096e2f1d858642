"""Layers that compute with a part of a tensor get back the weight for all of it, as they had it before (`narrowing`).

A Gather in front of a layer becomes columns of zeros, one behind it rows that stand several times. Then an analysis
sees the layer as it was, and decides anew: a norm in front of it is no longer hidden by the Gather.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Graph, Node
from onnxsqueeze.model.loading import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.rules.queries import known_axis
from onnxsqueeze.rules.weight_source import source_of, use_count
from onnxsqueeze.rules.weight_view import Linear

Places = npt.NDArray[np.int64]

_FIRST_WITH_FREE_INITIALIZERS = 4  # the IR version since which an initializer need not be a graph input
_MOST_ELEMENTS = 1 << 28  # of all whole weights together, 1 GB in float32; beyond it they stay as they are


@dataclass(frozen=True)
class _Behind:
    """What follows a layer.

    Attributes:
        gather, rows: a Gather, and the rows that it takes of what the layer computes.
        last: the node that writes the whole output: the Gather, or a sum behind it that the layer's bias takes up.
        bias: the bias for all rows; None where the layer has none, or one number for all of them.
    """

    gather: Node
    rows: Places
    last: Node
    bias: Array | None


@dataclass(frozen=True)
class _Layer:
    """A layer with a Gather in front of it or behind it, or with both.

    Attributes:
        node, linear: the layer.
        source, initializer: the initializer that its weight comes from, and that with the weight for all channels.
        before, behind: the Gathers, None where there is none.
    """

    node: Node
    linear: Linear
    source: str
    initializer: Array
    before: Node | None
    behind: _Behind | None

    def stands_in(self, written: Mapping[str, str]) -> bool:
        """Whether all of its nodes are the file's own, of which ``written`` has the operators by the first output."""
        behind = (self.behind.gather, self.behind.last) if self.behind is not None else ()
        nodes = [node for node in (self.node, self.before, *behind) if node is not None]
        return all(written.get(node.outputs[0]) == node.op for node in nodes)


def with_whole_layers(analysis: Analysis, model: Model, keep: Collection[str] = ()) -> Model | None:
    """Return a model whose layers have the weights for all of the tensors that are gathered around them.

    Only where that is exact: constant indices along the layer's own axis, each column gathered once, and only rows of
    zeros more than once; and where all users of a weight and of a Gather are such layers.

    Args:
        analysis: of the model.
        model: the model as it came, without nodes that stand for groups.
        keep: names of tensors that must not go.

    Returns:
        The model, which shares with the argument what did not change; None if there is no such layer.
    """
    if model.skeleton.ir_version < _FIRST_WITH_FREE_INITIALIZERS:
        return None
    written = {node.output[0]: node.op_type for node in model.skeleton.graph.node if node.output}
    layers = [layer for layer in _layers(analysis, keep) if layer.stands_in(written)]
    while layers and len(fitting := [layer for layer in layers if _alone(analysis, layer, layers)]) < len(layers):
        layers = fitting
    size = sum({layer.source: layer.initializer.size for layer in layers}.values())
    return _rewritten(model, layers) if layers and size <= _MOST_ELEMENTS else None


def _layers(analysis: Analysis, keep: Collection[str]) -> list[_Layer]:
    views: list[tuple[Node, Linear]] = []
    for node in analysis.graph.nodes:
        rule = analysis.rules[node.index]
        if rule.narrows and rule.linear is not None and analysis.context.is_activation(node.outputs[0]):
            views.append((node, rule.linear(node, analysis.context)))
    read = {linear.data for _, linear in views}
    found = (_layer(analysis, node, linear, keep, read) for node, linear in views)
    return [layer for layer in found if layer is not None]


def _layer(
    analysis: Analysis, node: Node, linear: Linear, keep: Collection[str], read: Collection[str]
) -> _Layer | None:
    """Return a layer with a Gather beside it; one that stands between two layers (``read``) is in front of one."""
    context, graph = analysis.context, analysis.graph
    source = source_of(graph, linear.weight, context.rank(linear.weight))
    if linear.groups > 1 or source is None or node.domain != ONNX_DOMAIN:
        return None
    matrix, before = linear.matrix, graph.producers.get(linear.data)
    columns = None if before is None else _gathered(analysis, before, linear.data_axis)
    if before is None or columns is None or linear.data in keep:
        before = None
    else:
        places, length = columns
        if len(np.unique(places)) < len(places):
            return None
        matrix = np.zeros((1, matrix.shape[1], length, matrix.shape[3]), matrix.dtype)
        matrix[:, :, places] = linear.matrix
    behind = _behind(analysis, node, linear, keep, read)
    if before is None and behind is None:
        return None
    if behind is not None:
        matrix = matrix[:, behind.rows]
    whole = linear.restore(matrix)
    if whole.ndim != len(source.order):
        return None
    return _Layer(node, linear, source.name, whole.transpose(np.argsort(source.order)), before, behind)


def _gathered(analysis: Analysis, gather: Node, axis: int) -> tuple[Places, int] | None:
    """Return the places that a Gather takes along an axis, and how many there are; None if it does anything else."""
    if gather.op != "Gather" or gather.domain or not analysis.context.is_activation(gather.inputs[0]):
        return None
    places, rank = analysis.context.value(gather.inputs[1]), analysis.context.rank(gather.inputs[0])
    if places is None or places.ndim != 1:  # else its output has other axes
        return None
    length = known_axis(analysis.context, gather.inputs[0], axis)
    if length is None or int(gather.attributes.get("axis", 0)) % rank != axis:
        return None
    return places.astype(np.int64) % length, length


def _behind(
    analysis: Analysis, node: Node, linear: Linear, keep: Collection[str], read: Collection[str]
) -> _Behind | None:
    """Return a Gather that alone reads a layer, if it takes only rows of zeros more than once."""
    output = node.outputs[0]
    reader = analysis.graph.sole_reader(output)
    if reader is None or reader[1] != 0 or output in keep or linear.zero_bias or linear.bias_scale == 0:
        return None
    found = _gathered(analysis, reader[0], linear.output_axis)
    if (
        found is None
        or reader[0].outputs[0] in read
        or (linear.bias and linear.bias not in analysis.graph.initializers)
    ):
        return None
    rows, several = found[0], np.bincount(found[0], minlength=found[1]) > 1
    if linear.matrix[:, several].any():
        return None
    bias = analysis.context.value(linear.bias) if linear.bias else None
    if bias is None or not bias.ndim or bias.shape[-1] != linear.matrix.shape[1]:
        return _Behind(reader[0], rows, reader[0], None)
    bias = bias[..., rows]
    added = _added(analysis, reader[0], linear, keep)
    if added is not None:
        share = (added[1].astype(np.float64) / linear.bias_scale).astype(bias.dtype)
        exact = (share.astype(np.float64) * linear.bias_scale == added[1]) & ((bias == 0) | (share == 0))
        if exact.all():
            return _Behind(reader[0], rows, added[0], bias + share)
    return _Behind(reader[0], rows, reader[0], bias)


def _added(analysis: Analysis, gather: Node, linear: Linear, keep: Collection[str]) -> tuple[Node, Array] | None:
    """Return the sum behind a Gather, and the vector that it adds along the layer's rows."""
    name, context = gather.outputs[0], analysis.context
    reader = analysis.graph.sole_reader(name)
    if reader is None or reader[0].op != "Add" or reader[0].domain or name in keep:
        return None
    vector, behind = context.value(reader[0].inputs[1 - reader[1]]), context.rank(name) - linear.output_axis
    if vector is None or not behind <= vector.ndim <= context.rank(name):
        return None
    along = vector.shape[vector.ndim - behind]
    return (reader[0], vector.reshape(-1)) if along == vector.size == context.shape(name)[linear.output_axis] else None


def _alone(analysis: Analysis, layer: _Layer, layers: list[_Layer]) -> bool:
    """Whether everything that reads the weight, and what is gathered in front of the layer, is such a layer."""
    graph, same = analysis.graph, [other for other in layers if other.source == layer.source]
    if use_count(graph, layer.source, shapes=False) > len(same) or layer.source in graph.outputs:
        return False
    if any(not np.array_equal(other.initializer, layer.initializer) for other in same):
        return False
    if layer.before is None:
        return True
    name = layer.before.outputs[0]
    readers = {reader.index for reader, _ in graph.readers[name]}
    return name not in graph.outputs and readers <= {
        other.node.index for other in layers if other.before is layer.before
    }


def _rewritten(model: Model, layers: list[_Layer]) -> Model:
    """Leave out the Gathers; a layer reads what was gathered, and writes what was gathered from it."""
    initializers = dict(model.initializers)
    changed: dict[str, onnx.NodeProto] = {}
    dropped: set[str] = set()
    for layer in layers:
        initializers[layer.source] = initializers[layer.source].with_array(np.ascontiguousarray(layer.initializer))
        proto = onnx.NodeProto()
        proto.CopyFrom(layer.node.proto)
        if layer.before is not None:
            proto.input[layer.node.inputs.index(layer.linear.data)] = layer.before.inputs[0]
            dropped.add(layer.before.outputs[0])
        if layer.behind is not None:
            _set_bias(layer.linear, layer.behind.bias, proto, initializers)
            proto.output[0] = layer.behind.last.outputs[0]
            dropped |= {layer.behind.gather.outputs[0], proto.output[0]}
        changed[layer.node.outputs[0]] = proto
    skeleton = copy_except(model.skeleton, "graph")
    skeleton.graph.CopyFrom(copy_except(model.skeleton.graph, "node", "value_info"))
    for node in model.skeleton.graph.node:
        if node.output and node.output[0] in changed:
            skeleton.graph.node.append(changed[node.output[0]])
        elif not (node.output and node.output[0] in dropped):
            skeleton.graph.node.append(node)
    stale = {name for layer in layers for name in (layer.node.outputs[0], layer.linear.weight)} | dropped
    skeleton.graph.value_info.extend(value for value in model.skeleton.graph.value_info if value.name not in stale)
    unread = _read(model.skeleton) - _read(skeleton)
    kept = {name: initializer for name, initializer in initializers.items() if name not in unread}
    return replace(model, skeleton=skeleton, initializers=kept)


def _set_bias(linear: Linear, bias: Array | None, proto: onnx.NodeProto, initializers: dict[str, Initializer]) -> None:
    """Give a node a bias of its own."""
    if bias is not None:
        name = f"{linear.bias}.whole"
        while name in initializers:
            name += "_"
        initializers[name] = renamed = initializers[linear.bias].with_array(np.ascontiguousarray(bias))
        renamed.header.name = name
        proto.input[list(proto.input).index(linear.bias, 2)] = name


def _read(skeleton: onnx.ModelProto) -> set[str]:
    names = {name for names in Graph.read_names(skeleton.graph) for name in names}
    return names | {value.name for value in skeleton.graph.output}
