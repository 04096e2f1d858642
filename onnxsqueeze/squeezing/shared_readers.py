"""One weight in several places: layers that multiply by it alike, and tables that a layer multiplies by as well."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.rules.weight_source import use_count
from onnxsqueeze.squeezing.least_squares import Floats, Numbers
from onnxsqueeze.squeezing.linear_reader import LinearReader
from onnxsqueeze.squeezing.reader import Array, Arrays, Reader
from onnxsqueeze.units.weight_uses import Use


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


class TiedReader(LinearReader):
    """A layer that multiplies by a table whose rows are looked up elsewhere, as a language model's head often does.

    Attributes:
        numbers: the tensors of row numbers by which it is looked up.
    """

    free = False

    def __init__(self, layer: LinearReader, numbers: Sequence[str]) -> None:
        super().__init__(layer.use, layer.rule, layer.classes)
        self.numbers = tuple(dict.fromkeys(numbers))
        self.tensors = (*self.tensors, *self.numbers)

    def lookups(self, given: Mapping[str, Array]) -> Floats:
        """Return how often a batch looks up each row; numbers below zero count from the end."""
        rows = self.use.linear.matrix.shape[1]
        found = np.zeros(rows)
        for name in self.numbers:
            found += np.bincount(given[name].ravel() % rows, minlength=rows)
        return found


def tied_reader(layer: LinearReader, lookups: Sequence[Use]) -> TiedReader | None:
    """Return a layer as the reader of a table; None unless each of its outputs is a row that the run looks up."""
    use = layer.use
    alike = all(
        lookup.rows is None and np.array_equal(lookup.read, use.written) and np.array_equal(lookup.written, use.read)
        for lookup in lookups
    )
    if not alike or use.linear.groups != 1 or use.linear.matrix.shape[3] != 1:
        return None
    return TiedReader(layer, [lookup.linear.data for lookup in lookups])
