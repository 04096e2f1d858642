"""Which integers an input may take: found by looking at what reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from onnx import NodeProto, TensorProto, ValueInfoProto

from onnxsqueeze.model.walk import graph_nodes
from onnxsqueeze.verification.model_source import Source, inlined

Shape = tuple[int, ...]


class Range(NamedTuple):
    """The smallest and the largest integer that fit."""

    low: int
    high: int

    def meet(self, other: Range) -> Range:
        """Return what fits both, or nothing but the lower end where nothing does."""
        low = max(self.low, other.low)
        return Range(low, max(low, min(self.high, other.high)))


# Without 0: some of onnxruntime's operators divide by what they read, which ends the process.
ANY = Range(1, 7)
ONE = Range(1, 1)
_BYTES: dict[int, Range] = {TensorProto.UINT8: Range(0, 255), TensorProto.INT8: Range(-128, 127)}
_MASK = Range(0, 1)

# Operators that pass integers on, and from which of their inputs (None: from all).
_PASSING: dict[str, tuple[int, ...] | None] = {
    "Cast": (0,), "Identity": (0,), "Reshape": (0,), "Squeeze": (0,), "Unsqueeze": (0,), "Flatten": (0,),
    "Transpose": (0,), "Expand": (0,), "Slice": (0,), "Gather": (0,), "Split": (0,), "Tile": (0,), "Pad": (0,),
    "Concat": None, "Where": (1, 2), "Clip": (0,), "Dropout": (0,),
}  # fmt: skip

# Index inputs: of which input they index an axis.
_INDEXING = {
    ("Gather", 1): 0, ("GatherElements", 1): 0, ("GatherBlockQuantized", 1): 0, ("ScatterElements", 1): 0,
    ("Scatter", 1): 0, ("EmbedLayerNormalization", 0): 2, ("EmbedLayerNormalization", 1): 4,
    ("ArrayFeatureExtractor", 1): 0,
}  # fmt: skip
_INDEXING_ALL = {("GatherND", 1): 0, ("ScatterND", 1): 0}  # each entry indexes another axis
_LAST_AXIS = {"ArrayFeatureExtractor"}

# Inputs that steer an operator, with values that suit nearly every model.
_STEERING = {
    ("Reshape", 1): ONE, ("Expand", 1): ONE, ("Tile", 1): ONE, ("ConstantOfShape", 0): ONE, ("TopK", 1): ONE,
    ("Slice", 1): Range(0, 0), ("Slice", 2): Range(2, 2), ("Slice", 3): Range(0, 0), ("Slice", 4): ONE,
    ("Pad", 1): _MASK, ("Pad", 3): Range(0, 0), ("Squeeze", 1): Range(0, 0), ("Unsqueeze", 1): Range(0, 0),
    ("CumSum", 1): Range(0, 0), ("CumProd", 1): Range(0, 0),
    ("Range", 0): Range(0, 0), ("Range", 1): Range(4, 4), ("Range", 2): ONE,
    ("Loop", 0): Range(2, 2), ("OneHot", 0): Range(0, 3), ("OneHot", 1): Range(4, 4), ("Trilu", 1): _MASK,
    ("LSTM", 4): ONE, ("GRU", 4): ONE, ("RNN", 4): ONE, ("ReverseSequence", 1): ONE,
    ("SequenceAt", 1): Range(0, 0), ("SequenceErase", 1): Range(0, 0), ("SequenceInsert", 2): Range(0, 0),
    ("Div", 1): Range(1, 7), ("Mod", 1): Range(1, 7), ("ReduceSum", 1): Range(0, 0), ("ReduceMean", 1): Range(0, 0),
    ("ReduceMax", 1): Range(0, 0), ("ReduceMin", 1): Range(0, 0),
    ("EmbedLayerNormalization", 7): _MASK,
}  # fmt: skip


class IntegerRanges:
    """The readers of a model's inputs, and what they say of the integers that fit."""

    def __init__(self, source: Source) -> None:
        """Look at a model; its functions are looked into."""
        self._known = dict(source.shapes)
        self._readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        self._producers: dict[str, NodeProto] = {}
        model = inlined(source.skeleton)
        for value in model.graph.value_info:
            self._add_static_shape(value)
        for node in graph_nodes(model.graph):
            self._producers.update((name, node) for name in node.output)
            for position, name in enumerate(node.input):
                self._readers[name].append((node, position))

    def range(self, value: ValueInfoProto, elem_type: int, fed: Mapping[str, Shape]) -> Range:
        """Return the integers that an input may take.

        Args:
            value: the graph input.
            elem_type: its type, a TensorProto.DataType.
            fed: the shapes of all graph inputs in this run.
        """
        found = list(self._constraints(value.name, fed, set()))
        if not found and "mask" in value.name.lower():
            return _MASK
        result = found[0] if found else _BYTES.get(elem_type, ANY)
        for constraint in found[1:]:
            result = result.meet(constraint)
        return result

    def _constraints(self, name: str, fed: Mapping[str, Shape], seen: set[str]) -> Iterator[Range]:
        if not name or name in seen:
            return
        seen.add(name)
        for node, position in self._readers.get(name, ()):
            key = (node.op_type, position)
            if key in _INDEXING or key in _INDEXING_ALL:
                yield self._index_range(node, position, fed)
            elif key in _STEERING:
                yield _STEERING[key]
            elif node.op_type in _PASSING and position in (_PASSING[node.op_type] or (position,)):
                for output in node.output:
                    yield from self._constraints(output, fed, seen)

    def _index_range(self, node: NodeProto, position: int, fed: Mapping[str, Shape]) -> Range:
        key = (node.op_type, position)
        table = node.input[_INDEXING.get(key, _INDEXING_ALL.get(key, 0))]
        shape = self._shape(table, fed)
        if not shape:
            return Range(0, 0)  # always inside, however small the table
        if key in _INDEXING_ALL:
            return Range(0, max(min(shape) - 1, 0))
        default = -1 if node.op_type in _LAST_AXIS else 0
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), default)
        size = shape[axis] if -len(shape) <= axis < len(shape) else 1
        return Range(0, max(size - 1, 0))

    def _shape(self, name: str, fed: Mapping[str, Shape]) -> Shape | None:
        """Return a tensor's shape if it is plain to see."""
        while name not in self._known and name not in fed:
            producer = self._producers.get(name)
            if producer is None:
                return None
            if producer.op_type == "Constant":
                return next((tuple(item.t.dims) for item in producer.attribute if item.name == "value"), None)
            if producer.op_type not in ("Cast", "Identity", "DequantizeLinear") or producer.input[0] == name:
                return None
            name = producer.input[0]
        return self._known.get(name) or fed.get(name)

    def _add_static_shape(self, value: ValueInfoProto) -> None:
        dims = value.type.tensor_type.shape.dim
        if dims and all(dim.dim_value > 0 for dim in dims):
            self._known[value.name] = tuple(dim.dim_value for dim in dims)
