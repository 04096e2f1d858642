"""Which trainable tensors are weights of linear layers, and which channels each of their elements reads and writes.

Exporters put a Transpose, a Reshape or a Slice between a stored weight and the layer. So the numbers of the stored
elements are sent the same way, and what arrives says where each of them ended up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.model import Model
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.rules.weight_source import codes_of
from onnxsqueeze.rules.weight_view import Linear

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Use:
    """One linear layer that reads a stored weight.

    Attributes:
        weight: the initializer. node: the layer. linear: the layer's view of what it multiplies by.
        bias: the initializer that is added to the layer's output and to nothing else, "" without one.
        added: the same where it may be added elsewhere, too.
        rows: the constant numbers of the rows that a lookup reads, None where the run decides.
        stored: the shape of the initializer. places: which stored element stands at each place of what the layer
            multiplies by.
    """

    weight: str
    node: Node
    linear: Linear
    bias: str
    added: str
    rows: Numbers | None
    stored: tuple[int, ...]
    places: Numbers | None

    @property
    def table(self) -> bool:
        """Whether rows are looked up by number, as in an embedding."""
        return self.linear.is_table

    @property
    def key(self) -> tuple[str, int]:
        """The tensor that the layer reads and the axis of its channels."""
        return self.linear.data, self.linear.data_axis

    @property
    def channels(self) -> int:
        """The number of input channels."""
        return int(self.linear.groups * self.linear.matrix.shape[2])

    @cached_property
    def read(self) -> Numbers:
        """The input channel that each stored element is multiplied with, -1 where the layer does not read it."""
        groups, _, inner, _ = self.linear.matrix.shape
        return self._stored(np.arange(groups * inner).reshape(groups, 1, inner, 1))

    @cached_property
    def written(self) -> Numbers:
        """The output channel that each stored element adds to, -1 where the layer does not read it."""
        groups, out, _, _ = self.linear.matrix.shape
        return self._stored(np.arange(groups * out).reshape(groups, out, 1, 1))

    def _stored(self, numbers: Numbers) -> Numbers:
        return self.written_into(np.full(self.stored, -1), np.broadcast_to(numbers, self.linear.matrix.shape))

    def written_into(self, stored: npt.NDArray[Any], matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a copy of a stored array with what the layer multiplies by, [groups, out, in, taps], in it."""
        used = self.linear.restore(matrix)
        if self.places is None:
            return np.ascontiguousarray(used).reshape(self.stored)
        stored = stored.copy()
        stored.reshape(-1)[self.places.reshape(-1)] = used.reshape(-1)
        return stored

    def read_from(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what the layer multiplies by, [groups, out, in, taps], from a value of the initializer."""
        numbers = np.arange(self.linear.matrix.size).reshape(self.linear.matrix.shape)
        places = self.written_into(np.full(self.stored, -1), numbers).reshape(-1)
        found = np.empty(self.linear.matrix.size, dtype=stored.dtype)
        read = places >= 0
        found[places[read]] = stored.reshape(-1)[read]
        return found.reshape(self.linear.matrix.shape)


def linear_uses(model: Model, trained: Collection[str], analysis: Analysis | None = None) -> list[Use]:
    """Return every use of a trained tensor as the weight of a linear layer, in the order of the graph.

    Args:
        model: any model.
        trained: the initializers that are trained; others have no use.
        analysis: of the model, if there is one.
    """
    analysis = analyse(model) if analysis is None else analysis
    found: list[Use] = []
    for node, rule in zip(analysis.graph.nodes, analysis.rules, strict=True):
        if rule.linear is None:
            continue
        linear = rule.linear(node, analysis.context)
        origin = _origin(linear.weight, analysis)
        if origin is None or origin[0] not in trained or linear.matrix.size == 0:
            continue
        name, places = origin
        stored = tuple(int(size) for size in analysis.graph.initializers[name].array.shape)
        added, rows = _bias(node, linear, analysis, trained), _rows(node, linear, analysis)
        alone = len(analysis.graph.readers.get(added, ())) == 1 and added not in analysis.graph.outputs
        found.append(Use(name, node, linear, added if alone else "", added, rows, stored, places))
    return found


def by_weight(uses: Iterable[Use]) -> dict[str, list[Use]]:
    """Return the uses of each weight."""
    found: dict[str, list[Use]] = {}
    for use in uses:
        found.setdefault(use.weight, []).append(use)
    return found


def _rows(node: Node, linear: Linear, analysis: Analysis) -> Numbers | None:
    """Return the rows that a lookup always reads; a slice of a table reads each once."""
    if not linear.is_table:
        return None
    if node.op != "Gather":
        return np.arange(linear.matrix.shape[2])
    rows = analysis.context.value(linear.data)
    return None if rows is None else rows.astype(np.int64)


def _origin(name: str, analysis: Analysis) -> tuple[str, Numbers | None] | None:
    """Return the initializer that a tensor is a rearrangement of, and where its elements went (None: nowhere)."""
    graph = analysis.graph
    if name in graph.initializers:
        return name, None
    node = graph.producers.get(name)
    traits = frozenset() if node is None else rule_for(node).traits
    if node is None or not traits & {Trait.COPIES, Trait.DECODES, Trait.REARRANGES, Trait.SELECTS}:
        return None
    origin = _origin(node.inputs[0], analysis)
    if origin is None or traits & {Trait.COPIES, Trait.DECODES}:
        return origin
    source, places = origin
    if places is None:
        array = graph.initializers[source].array
        places = np.arange(array.size).reshape(array.shape)
    evaluate = analysis.rules[node.index].evaluate
    others = [analysis.context.value(other) if other else None for other in node.inputs[1:]]
    if evaluate is None or any(value is None for value, other in zip(others, node.inputs[1:], strict=True) if other):
        return None
    return source, np.asarray(evaluate(node, [places, *others])[node.outputs.index(name)])


def _bias(node: Node, linear: Linear, analysis: Analysis, trained: Collection[str]) -> str:
    """Return the trained initializer of one element for each channel that is added to what a layer writes."""
    graph = analysis.graph
    if linear.is_table:
        return ""
    name = _coded(linear.bias, analysis) or _added(node, linear, analysis)
    channels = linear.groups * linear.matrix.shape[1]
    whole = name in trained and graph.initializers[name].array.size == channels
    return name if whole and linear.bias_scale else ""


def _coded(name: str, analysis: Analysis) -> str:
    """Return the initializer of codes that a tensor is decoded of; the tensor itself if it is not."""
    codes = codes_of(analysis.context, name) if name else None
    return name if codes is None else codes.name


def _added(node: Node, linear: Linear, analysis: Analysis) -> str:
    """Return the constant of the Add that alone reads a layer, as exporters write a MatMul with a bias."""
    graph = analysis.graph
    reader = graph.sole_reader(node.outputs[0])
    if reader is None or reader[0].op != "Add" or reader[0].domain:
        return ""
    name = reader[0].input(1 - reader[1])
    if name not in graph.initializers:
        return ""
    shape = graph.initializers[name].array.shape
    place = linear.output_axis - analysis.context.rank(node.outputs[0]) + len(shape)
    along = 0 <= place < len(shape) and shape[place] == graph.initializers[name].array.size
    return name if along else ""
