"""What changed weights cost at a network's outputs; only what the change reaches is computed again.

A family's sizes are tried one after the other with all else as it was, so that what the layers before it compute is
the same each time. Where a change begins, their tensors are kept for all samples, and the rest of the network starts
from these: late families of a convolutional network cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, ValueInfoProto, helper

from onnxsqueeze.graph.graph import Graph
from onnxsqueeze.model.model import Model
from onnxsqueeze.squeezing.gathering import with_arrays
from onnxsqueeze.squeezing.metrics import Judge
from onnxsqueeze.squeezing.reader import Arrays
from onnxsqueeze.squeezing.running import Runner, joined, outputs_of, part_of
from onnxsqueeze.squeezing.samples import Feeds, Part

Array = npt.NDArray[Any]

KEPT = 1 << 28
"""At most so many bytes of tensors are kept; where it would be more, the whole network runs."""


class Evaluator:
    """Runs changed networks on some samples and compares their outputs with the original's."""

    def __init__(self, model: Model, judge: Judge, part: Part, kept: int = KEPT) -> None:
        """Run the original.

        Args:
            model: the original. judge: compares outputs. part: the samples. kept: see `KEPT`.
        """
        self._model, self._judge, self._part, self._limit = model, judge, part, kept
        self._arrays = {name: initializer.array for name, initializer in model.initializers.items()}
        self._before = outputs_of(model, part)
        self._tail: _Tail | None = None

    def error(self, arrays: Arrays) -> float:
        """Return the error of the network with other weights."""
        return self._judge.error(self._before, self._after(arrays))

    def _after(self, arrays: Arrays) -> list[Array]:
        changed = {name: array for name, array in arrays.items() if not _same(array, self._arrays[name])}
        if self._tail is None or not changed.keys() <= self._tail.changed:
            self._tail = None  # before the next one is gathered
            self._tail = _tail(self._model, changed, self._part, self._limit)
        if self._tail.feeds is None:
            return outputs_of(with_arrays(self._model, changed), self._part)
        found = list(self._before)
        if self._tail.places:
            own = {name: array for name, array in changed.items() if name in self._tail.model.initializers}
            after = joined(Runner(with_arrays(self._tail.model, own)).run_on(self._tail.feeds))
            for place, array in zip(self._tail.places, after, strict=True):
                found[place] = array
        return found


@dataclass(frozen=True, eq=False)
class _Tail:
    """What changes reach.

    Attributes:
        changed: weights that may change. model: from the border on, with those outputs that they reach.
        places: of these among the outputs of all. feeds: the border, batch by batch; None where it is too large.
    """

    changed: frozenset[str]
    model: Model
    places: tuple[int, ...]
    feeds: Sequence[Feeds] | None


def _same(array: Array, other: Array) -> bool:
    return array is other or np.array_equal(array, other)


def _tail(model: Model, changed: Collection[str], part: Part, limit: int) -> _Tail:
    graph = model.skeleton.graph
    pairs = list(zip(graph.node, map(frozenset, Graph.read_names(graph)), strict=True))
    reached = _reached(pairs, changed)
    constant = _constant(pairs, model)
    nodes = [node for node, reads in pairs if reached & reads or constant.issuperset(filter(None, node.output))]
    places = tuple(place for place, value in enumerate(graph.output) if value.name in reached)
    produced = {name for node in nodes for name in node.output}
    read = {name for node, reads in pairs if reached & reads for name in reads}
    border = sorted(read - produced - model.initializers.keys() - {""})
    feeds = _kept(model, border, part, limit)
    if feeds is None:
        return _Tail(frozenset(changed), model, places, None)
    outputs = [graph.output[place] for place in places]
    inputs = [*_declared(border, feeds), *(value for value in graph.input if value.name in model.initializers)]
    return _Tail(frozenset(changed), part_of(model, nodes, inputs, outputs), places, feeds)


def _reached(pairs: Sequence[tuple[NodeProto, frozenset[str]]], changed: Collection[str]) -> frozenset[str]:
    """Return the weights that change and all that is computed from them."""
    found = set(changed)
    for node, reads in pairs:
        if not found.isdisjoint(reads):
            found.update(filter(None, node.output))
    return frozenset(found)


def _constant(pairs: Sequence[tuple[NodeProto, frozenset[str]]], model: Model) -> set[str]:
    """Return what is computed of weights alone: operators may want it as a constant, so that it is no border."""
    found = set(model.initializers)
    for node, reads in pairs:
        if found.issuperset(reads - {""}):
            found.update(filter(None, node.output))
    return found


def _kept(model: Model, border: Sequence[str], part: Part, limit: int) -> list[Feeds] | None:
    """Return the tensors of a border, batch by batch; None where they are too large or no arrays."""
    if not border:
        return [{} for _ in part.batches()]
    found: list[Feeds] = []
    size = 0
    for values in Runner(model, border).run(part):
        size += sum(array.nbytes for array in values.values() if isinstance(array, np.ndarray))
        if size > limit or not all(isinstance(array, np.ndarray) for array in values.values()):
            return None
        found.append(values)
    return found


def _declared(border: Sequence[str], feeds: Sequence[Feeds]) -> list[ValueInfoProto]:
    """Return the border as inputs: sizes that are the same in all batches are fixed, but for the first axis."""
    values = []
    for name in border:
        arrays = [each[name] for each in feeds]
        kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
        sizes = [{array.shape[axis] for array in arrays} for axis in range(arrays[0].ndim)]
        shape = [None if axis == 0 or len(found) > 1 else found.pop() for axis, found in enumerate(sizes)]
        values.append(helper.make_tensor_value_info(name, kind, shape))
    return values
