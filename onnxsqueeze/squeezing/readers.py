"""The layers that read units and can be repaired: what they read, at which places, and where their weights are kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.contract import OpRule
from onnxsqueeze.rules.weight_source import use_count
from onnxsqueeze.squeezing.least_squares import Floats, Numbers
from onnxsqueeze.squeezing.product_readers import product_readers
from onnxsqueeze.squeezing.reader import Array, Arrays, Reader
from onnxsqueeze.units.probe import FLOATING
from onnxsqueeze.units.units import Units
from onnxsqueeze.units.weight_uses import Use, by_weight, linear_uses


class LinearReader(Reader):
    """A layer that multiplies by one weight.

    Attributes:
        use: the layer and how its weight is stored. rule: of its operator.
    """

    def __init__(self, use: Use, rule: OpRule, classes: Numbers) -> None:
        self.use, self.rule, self.classes = use, rule, classes
        self.name, self.groups = use.node.outputs[0], use.linear.groups
        self.tensors = self.contracted = (use.linear.data,)
        self.columns = int(np.prod(use.linear.matrix.shape[2:]))
        self.stored = frozenset({use.weight})

    def places(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return at how many places a batch is read: all but the channels."""
        shape = shapes[self.use.linear.data]
        return int(np.prod(shape)) // max(1, shape[self.use.linear.data_axis])

    def rows(self, given: Mapping[str, Array], most: int, generator: np.random.Generator) -> Floats:
        """Return the data of all channels at places, or patches."""
        linear, data = self.use.linear, given[self.use.linear.data]
        if self.rule.patches is not None:
            seen = self.rule.patches(self.use.node, linear, data)
            front = seen.shape[: seen.ndim - (data.ndim - 1)]
        else:
            seen = np.moveaxis(data, linear.data_axis, -1)
            front = seen.shape[:-1]
        count = int(np.prod(front))
        chosen = np.arange(count)
        if count > most:
            chosen = np.sort(generator.choice(count, most, replace=False))
        found = seen[np.unravel_index(chosen, front)] if front else seen[None]
        split = found.astype(np.float64).reshape(len(chosen), linear.groups, self.columns)
        return np.asarray(split.transpose(1, 0, 2))

    def weight(self, arrays: Arrays) -> Floats:
        """Return its weights as they are now, [groups, out, columns], factors included."""
        linear = self.use.linear
        stored = self.use.read_from(arrays[self.use.weight]).astype(np.float64)
        return np.asarray(stored.reshape(*stored.shape[:2], -1)) * linear.scale

    def bias(self, arrays: Arrays) -> Floats | None:
        """Return its bias as it is now, [groups, out]; None where it has none of its own."""
        if not self.use.bias:
            return None
        linear = self.use.linear
        return arrays[self.use.bias].astype(np.float64).reshape(linear.groups, -1) * linear.bias_scale

    def written(self, arrays: Arrays, weight: Floats, bias: Floats | None) -> dict[str, Array]:
        """Return the stored tensors for a weight and a bias as `weight` and `bias` give them."""
        linear, stored = self.use.linear, arrays[self.use.weight]
        matrix = (weight / linear.scale).reshape(linear.matrix.shape).astype(stored.dtype)
        found = {self.use.weight: self.use.written_into(stored, matrix)}
        if bias is not None and self.use.bias:
            own = arrays[self.use.bias]
            found[self.use.bias] = (bias / linear.bias_scale).reshape(own.shape).astype(own.dtype)
        return found

    def column_classes(self) -> Numbers:
        """Return the class of each column, [groups, columns]."""
        taps = self.use.linear.matrix.shape[3]
        return np.repeat(self.classes.reshape(self.groups, -1), taps, axis=1)


def readers_of(model: Model, units: Units, keep: Iterable[str] = ()) -> list[Reader]:
    """Return the layers whose weights can be repaired, in the order of the graph.

    Args:
        model: the model, with a bias wherever a layer can have one. units: of it. keep: weights that must not change.
    """
    analysis = analyse(model)
    floating = {name for name, array in model.initializers.items() if array.dtype.name in FLOATING}
    uses = linear_uses(model, floating.difference(keep), analysis)
    found: list[Reader] = []
    for name, own in by_weight(uses).items():
        readers = [_linear_reader(use, units, analysis) for use in own]
        known = [reader for reader in readers if reader is not None]
        if len(known) == use_count(analysis.graph, name, shapes=False) == len(own):
            found += [shared] if (shared := shared_reader(known, analysis, floating)) else []
    order = {node.outputs[0]: node.index for node in analysis.graph.nodes if node.outputs[0]}
    products = product_readers(analysis, units, floating.difference(keep))
    return sorted([*found, *products], key=lambda reader: order.get(reader.name.partition(":")[0], 0))


def _linear_reader(use: Use, units: Units, analysis: Analysis) -> LinearReader | None:
    """Return a layer as a reader, None if it is of a kind that cannot be repaired."""
    linear, rule = use.linear, analysis.rules[use.node.index]
    known = linear.matrix.shape[3] == 1 and not linear.zero_padded or rule.patches is not None
    classes = _classes(use, units)
    if not known or linear.depthwise or linear.is_table or not linear.scale or classes is None:
        return None
    return LinearReader(use, rule, classes)


class SharedReader(Reader):
    """One weight by which several layers multiply, each what it reads: one matrix that is to be best for all of them.

    A bias is theirs as well, or there is none to be repaired.
    """

    def __init__(self, layers: Sequence[LinearReader], recurs: bool) -> None:
        first = layers[0]
        self.name, self.groups, self.columns, self.classes = first.name, first.groups, first.columns, first.classes
        self.tensors = self.contracted = tuple(layer.use.linear.data for layer in layers)
        self.stored, self.recurs, self._layers = first.stored, recurs, layers

    def places(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return at how many places all layers read."""
        return sum(layer.places(shapes) for layer in self._layers)

    def rows(self, given: Mapping[str, Array], most: int, generator: np.random.Generator) -> Floats:
        """Return what each layer reads, one after the other."""
        each = -(-most // len(self._layers))
        return np.concatenate([layer.rows(given, each, generator) for layer in self._layers], axis=1)

    def weight(self, arrays: Arrays) -> Floats:
        """Return the weight of each of the layers."""
        return self._layers[0].weight(arrays)

    def bias(self, arrays: Arrays) -> Floats | None:
        """Return the bias of each of the layers."""
        return self._layers[0].bias(arrays)

    def written(self, arrays: Arrays, weight: Floats, bias: Floats | None) -> dict[str, Array]:
        """Return what is stored for all of the layers."""
        return self._layers[0].written(arrays, weight, bias)

    def column_classes(self) -> Numbers:
        """Return the classes in what the first of the layers reads; others have others, which leave with them."""
        return self._layers[0].column_classes()


def shared_reader(layers: Sequence[LinearReader], analysis: Analysis, changed: Collection[str]) -> Reader | None:
    """Return what is repaired for all layers that share a weight; None where they do not multiply by it alike."""
    first = layers[0].use
    if len(layers) == 1:
        return layers[0]
    if any(_multiplies(layer.use) != _multiplies(first) for layer in layers):
        return None
    biases = {layer.use.added for layer in layers}
    name = biases.pop() if len(biases) == 1 else ""
    own = name in changed and use_count(analysis.graph, name) == len(layers) and name not in analysis.graph.outputs
    uses = [replace(layer.use, bias=name if own else "") for layer in layers]
    return SharedReader(
        [LinearReader(use, layer.rule, layer.classes) for use, layer in zip(uses, layers, strict=True)],
        _feed_each_other(uses, analysis),
    )


def _multiplies(use: Use) -> tuple[object, ...]:
    """Return all that has to be alike where one matrix is to serve two layers."""
    linear = use.linear
    return use.read.tobytes(), use.written.tobytes(), linear.matrix.shape, linear.scale, linear.bias_scale


def _feed_each_other(uses: Sequence[Use], analysis: Analysis) -> bool:
    """Whether what one of several layers reads depends on what another writes."""
    nodes = {use.node.index for use in uses}
    behind: set[str] = set()
    for node in analysis.graph.nodes:
        reached = not behind.isdisjoint(node.inputs)
        if reached and node.index in nodes:
            return True
        if reached or node.index in nodes:
            behind.update(node.outputs)
    return False


def _classes(use: Use, units: Units) -> Numbers | None:
    """Return the class of each input channel, from what is known of the elements of the weight."""
    weight = next((weight for weight in units.weights if weight.name == use.weight), None)
    own = () if weight is None else [one for one in weight.uses if one.output == use.node.outputs[0]]
    if weight is None or len(own) != 1 or len(own[0].arrays) < 2:
        return None
    found = np.full(use.channels, -1)
    read = use.read.ravel()
    elements = np.broadcast_to(own[0].arrays[1], weight.shape).ravel()
    found[read[read >= 0]] = elements[read >= 0]
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
