"""The layers that read units and can be repaired: what they read, at which places, and where their weights are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnxsqueeze.abstract.floating import is_floating
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.weight_source import use_count
from onnxsqueeze.squeezing.least_squares import Numbers
from onnxsqueeze.squeezing.linear_reader import LinearReader
from onnxsqueeze.squeezing.product_readers import product_readers
from onnxsqueeze.squeezing.reader import Reader
from onnxsqueeze.squeezing.shared_readers import shared_reader, tied_reader
from onnxsqueeze.units.units import Units
from onnxsqueeze.units.weight_uses import Use, by_weight, linear_uses


def readers_of(model: Model, units: Units, keep: Iterable[str] = ()) -> list[Reader]:
    """Return the layers whose weights can be repaired, in the order of the graph.

    Args:
        model: the model, with a bias wherever a layer can have one. units: of it. keep: weights that must not change.
    """
    analysis = analyse(model)
    floating = {name for name, array in model.initializers.items() if is_floating(array.dtype)}
    floating.difference_update(analysis.graph.outputs)  # what the network gives is not to be fitted
    uses = linear_uses(model, floating.difference(keep), analysis)
    found: list[Reader] = []
    for name, own in by_weight(uses).items():
        readers = [_linear_reader(use, units, analysis) for use in own]
        known = [reader for reader in readers if reader is not None]
        tables = [use for use in own if use.table]
        if not known or not len(known) + len(tables) == len(own) == use_count(analysis.graph, name, shapes=False):
            continue
        if not tables:
            found += [shared] if (shared := shared_reader(known, analysis, floating)) else []
        elif len(known) == 1:
            found += [tied] if (tied := tied_reader(known[0], tables)) else []
    order = {node.outputs[0]: node.index for node in analysis.graph.nodes if node.outputs[0]}
    products = product_readers(analysis, units, floating.difference(keep))
    return sorted([*found, *products], key=lambda reader: order.get(reader.name.partition(":")[0], 0))


def _linear_reader(use: Use, units: Units, analysis: Analysis) -> LinearReader | None:
    """Return a layer as a reader, None if it is of a kind that cannot be repaired."""
    linear, rule = use.linear, analysis.rules[use.node.index]
    known = linear.matrix.shape[3] == 1 and not linear.zero_padded or rule.patches is not None
    classes = _classes(use, units)
    if not known or linear.depthwise or linear.is_table or not linear.scale or not classes:
        return None
    return LinearReader(use, rule, *classes)


def _classes(use: Use, units: Units) -> list[Numbers]:
    """Return the classes of each input channel, from what is known of the elements of the weight; none if too little.

    The last of two are those of positions.
    """
    weight = next((weight for weight in units.weights if weight.name == use.weight), None)
    own = () if weight is None else [one for one in weight.uses if one.output == use.node.outputs[0]]
    if weight is None or len(own) != 1 or len(own[0].arrays) < 2:
        return []
    read, found = use.read.ravel(), []
    for array in own[0].arrays[1:]:
        elements = np.broadcast_to(array, weight.shape).ravel()
        found.append(np.full(use.channels, -1))
        found[-1][read[read >= 0]] = elements[read >= 0]
    return found


def with_biases(model: Model) -> Model:
    """Return the model with a bias of zeros wherever a layer has none and could have one."""
    analysis = analyse(model)
    new: dict[str, Initializer] = {}
    places: dict[str, tuple[str, int]] = {}
    shared: dict[tuple[str, int], str] = {}  # layers with one weight get one bias
    for node, rule in zip(analysis.graph.nodes, analysis.rules, strict=True):
        if rule.linear is None or node.group is not None:
            continue
        linear = rule.linear(node, analysis.context)
        value = analysis.context.value(linear.weight)
        if linear.bias or linear.bias_position < 0 or linear.is_table or value is None:
            continue
        size = linear.groups * linear.matrix.shape[1]
        if (linear.weight, size) not in shared:
            name = shared[linear.weight, size] = _unused(f"{node.outputs[0]}_bias", model, new)
            new[name] = Initializer.from_array(name, np.zeros(size, value.dtype))
        name = shared[linear.weight, size]
        places[node.outputs[0]] = name, linear.bias_position
    if not new:
        return model
    nodes = [_with_input(node, *places.get(node.output[0] if node.output else "", ("", 0))) for node in _nodes(model)]
    skeleton = copy_except(model.skeleton, "graph")
    graph = copy_except(model.skeleton.graph, "node")
    graph.node.extend(nodes)
    skeleton.graph.CopyFrom(graph)
    return replace(model, skeleton=skeleton, initializers={**model.initializers, **new})


def _nodes(model: Model) -> Sequence[NodeProto]:
    return list(model.skeleton.graph.node)


def _unused(name: str, model: Model, new: Mapping[str, Initializer]) -> str:
    taken = {*model.initializers, *new, *(output for node in _nodes(model) for output in node.output)}
    taken |= {value.name for value in model.skeleton.graph.input}
    while name in taken:
        name += "_"
    return name


def _with_input(node: NodeProto, name: str, position: int) -> NodeProto:
    if not name:
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    inputs = [*copy.input, *[""] * (position + 1 - len(copy.input))]
    inputs[position] = name
    del copy.input[:]
    copy.input.extend(inputs)
    return copy
