"""Matrices of nodes that have several, as recurrent layers have a kernel and recurrent weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.rules.contract import UNKNOWN
from onnxsqueeze.rules.products import Product
from onnxsqueeze.squeezing.least_squares import Floats, Numbers
from onnxsqueeze.squeezing.reader import Array, Arrays, Reader
from onnxsqueeze.units.tracing import Origin, origin_of
from onnxsqueeze.units.units import Units


class ProductReader(Reader):
    """One matrix of a node that has several."""

    def __init__(self, name: str, product: Product, weight: Origin, bias: Origin | None, classes: Numbers) -> None:
        self.name, self.recurs = name, product.recurs
        self.tensors = tuple(filter(None, (product.data, product.beside)))
        self.contracted = () if product.recurs else self.tensors
        self._product, self._weight, self._bias = product, weight, bias
        self.groups, self.columns = classes.shape
        self.classes = classes.ravel()
        self.stored = frozenset(weight.starts)

    def places(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return how many places there are for each direction."""
        return int(np.prod(shapes[self._product.data])) // max(1, self.columns * (self.groups if self.recurs else 1))

    def rows(self, given: Mapping[str, Array], most: int, generator: np.random.Generator) -> Floats:
        """Return features or states at some steps of some samples."""
        found = self._product.rows(*(given[name] for name in self.tensors))
        chosen = np.arange(found.shape[1])
        if len(chosen) > most:
            chosen = np.sort(generator.choice(len(chosen), most, replace=False))
        return found[:, chosen].astype(np.float64)

    def weight(self, arrays: Arrays) -> Floats:
        """Return its gates' weights, one below the other."""
        return np.asarray(self._weight.read(arrays)[:, self._product.out].astype(np.float64))

    def bias(self, arrays: Arrays) -> Floats | None:
        """Return the part of the biases that is added to this product."""
        if self._bias is None:
            return None
        return np.asarray(self._bias.read(arrays)[:, self._product.part].astype(np.float64))

    def written(self, arrays: Arrays, weight: Floats, bias: Floats | None) -> dict[str, Array]:
        """Return the stored weights, and biases, whose other parts stay."""
        whole = self._weight.read(arrays).astype(np.float64)
        whole[:, self._product.out] = weight
        found = self._weight.written(arrays, whole)
        if bias is not None and self._bias is not None:
            both = self._bias.read(arrays).astype(np.float64)
            both[:, self._product.part] = bias
            found.update(self._bias.written(arrays, both))
        return found

    def column_classes(self) -> Numbers:
        """Return the classes of features or states."""
        return self.classes.reshape(self.groups, self.columns)


def product_readers(analysis: Analysis, units: Units, changed: Collection[str]) -> list[ProductReader]:
    """Return the matrices that are stored for their node alone.

    Args:
        analysis: of the model as it is; that of the units knows other values. units: of it.
        changed: the weights that may.
    """
    found = []
    for node, rule in zip(analysis.graph.nodes, analysis.rules, strict=True):
        name = next((output for output in node.outputs if output), "")
        own = units.analysis.graph.producers.get(name)
        if rule is UNKNOWN or rule.products is None or own is None or units.analysis.rules[own.index] is not rule:
            continue
        labelled = rule.products(own, units.analysis.context)
        for place, (product, other) in enumerate(zip(rule.products(node, analysis.context), labelled, strict=False)):
            weight = origin_of(product.weight, analysis)
            bias = origin_of(product.bias, analysis) if product.bias else None
            if weight is not None and _alone(weight, units, changed):
                added = bias if bias is not None and _alone(bias, units, changed) else None
                classes = units.analysis.labels[other.columns]
                found.append(ProductReader(f"{name}:{place}", product, weight, added, classes))
    return found


def _alone(origin: Origin, units: Units, changed: Collection[str]) -> bool:
    """Whether stored weights may change and are read once."""
    once = {weight.name for weight in units.weights if len(weight.uses) == 1}
    return all(name in changed and name in once for name in origin.starts)
