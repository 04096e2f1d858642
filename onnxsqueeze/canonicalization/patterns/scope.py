"""What patterns may ask of a graph before anything is inferred: constants, and types where Casts have to agree."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Graph, Node
from onnxsqueeze.model.protobuf import fixed_size
from onnxsqueeze.rules.contract import UNKNOWN, Context
from onnxsqueeze.rules.lessons import RuleFailed
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.shapes.inference import evaluated, inferred

_BROADCASTS_AS_NUMPY = 7  # the opset since which elementwise operators do


class Scope:
    """A graph with the answers that were given about it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._constants: dict[str, Array | None] = {}
        self._types: dict[str, int | None] = {}
        declared = (*graph.proto.value_info, *graph.proto.input, *graph.proto.output)
        self._declared = {value.name: value.type.tensor_type for value in declared}

    def producer(self, name: str) -> Node | None:
        """Return the node of ONNX's own domain that writes a tensor, if it can be part of a pattern."""
        node = self.graph.producers.get(name)
        if node is None or node.domain != ONNX_DOMAIN or node.version < _BROADCASTS_AS_NUMPY or node.captured:
            return None
        return node

    def constant(self, name: str) -> Array | None:
        """Return the value of an initializer or a Constant, also through Identities, else None."""
        if name not in self._constants:
            self._constants[name] = self._find_constant(name)
        return self._constants[name]

    def _find_constant(self, name: str) -> Array | None:
        if name in self.graph.initializers:
            initializer = self.graph.initializers[name]
            return initializer.array if initializer.is_numeric else None
        producer = self.producer(name)
        rule = UNKNOWN if producer is None else rule_for(producer)
        if producer is not None and Trait.ALIAS in rule.traits:
            return self.constant(producer.inputs[0])
        if producer is None or producer.inputs:
            return None
        try:
            found = evaluated(rule, producer, [])
        except RuleFailed:  # the analysis asks again, and learns of it
            return None
        return np.asarray(found[0]) if found else None

    def known(self, name: str) -> Array | None:
        """Return a value that follows from constants, for which the whole graph is gone through once, else None."""
        found = self.constant(name)
        if found is None and self._inferred is not None:
            found = self._inferred.value(name)
        return found

    def number(self, name: str) -> Array | None:
        """Return a constant of one element that gives no operator that reads it another shape, else None."""
        array = self.constant(name) if name else None
        if array is None or array.size != 1 or array.ndim > 1 or array.dtype.kind not in "fiV":
            return None
        return array

    def rank(self, name: str) -> int | None:
        """Return a tensor's rank as the file declares it."""
        kind = self._declared.get(name)
        return len(kind.shape.dim) if kind is not None and kind.HasField("shape") else None

    def inferred_rank(self, name: str) -> int | None:
        """Return a tensor's rank as inference finds it, for which the whole graph is gone through once."""
        found = self._inferred
        return None if found is None or name not in found.shapes else found.rank(name)

    @cached_property
    def _inferred(self) -> Context | None:
        try:
            return inferred(self.graph)
        except RuleFailed:  # the analysis asks again, and learns of it
            return None

    def shape(self, name: str) -> list[int] | None:
        """Return a tensor's shape as the file declares it, None where that leaves a dimension open."""
        kind = self._declared.get(name)
        if kind is None or not kind.HasField("shape"):
            return None
        dims = [fixed_size(dim) or 0 for dim in kind.shape.dim]
        return dims if all(dims) else None

    def type_of(self, name: str) -> int | None:
        """Return the element type of a tensor, None where it cannot be told without inferring shapes."""
        chain: list[str] = []
        while name not in self._types and (source := self._same_type(name)):
            chain.append(name)
            name = source
        kind = self._types[name] if name in self._types else self._own_type(name)
        self._types.update(dict.fromkeys([*chain, name], kind))
        return kind

    def _own_type(self, name: str) -> int | None:
        if name in self.graph.model.initializers:
            return int(self.graph.model.initializers[name].header.data_type)
        producer = self.producer(name)
        if producer is not None and producer.op == "Cast":
            return int(producer.attributes["to"])
        if producer is not None and producer.op == "Constant":
            array = self.constant(name)
            return None if array is None else int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
        kind = self._declared.get(name)
        return int(kind.elem_type) if kind is not None and kind.elem_type else None

    def _same_type(self, name: str) -> str:
        """Return an input of the node that writes a tensor which has its type by the operator's schema, "" if none."""
        producer = self.producer(name)
        if self._own_type(name) is not None or producer is None:
            return ""
        try:
            schema: Any = onnx.defs.get_schema(producer.op, producer.version, producer.domain)
        except onnx.defs.SchemaError:
            return ""
        if producer.outputs[0] != name:
            return ""
        formal = zip(producer.inputs, schema.inputs, strict=False)
        return next((source for source, entry in formal if source and entry.type_str == schema.outputs[0].type_str), "")


def close(array: Array, value: float) -> bool:
    """Whether a constant of one element is a number as its type or its author rounded it."""
    found = float(array.astype(np.float64).ravel()[0])
    if float(np.float16(value)) == value:  # such as 2 or 0.5, which nothing rounds
        return found == value
    return abs(found - value) <= _ROUNDED * abs(value) or found == float(np.asarray(value).astype(array.dtype))


_ROUNDED = 1e-6
