"""Evaluate a model in float64 node by node, so that it may be of any size: no more is in memory than one node needs.

Each node is a model of its own, run by onnx.reference or, where that is slow or knows no such operator, by onnxruntime.
Only where neither has it in float64 is it computed in the model's own type, for lack of anything better.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import subgraphs
from onnxsqueeze.verification.difference import is_floating
from onnxsqueeze.verification.float64 import by_reference, in_float64
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.reference_cost import slow_seconds
from onnxsqueeze.verification.sessions import RefusedError, Session, Values

Settle = Callable[[NodeProto, Values, Values], Values]
"""Is told of each node what it reads and what it makes, by name, and returns what counts as made."""


class Pieces:
    """A model that is evaluated in float64, node by node.

    Attributes:
        exact: whether all of its nodes were evaluated in float64 so far. outputs: the graph's, by name.
        left: the seconds that are left for evaluations.
    """

    def __init__(self, model: Model, seconds: float) -> None:
        """Prepare; nothing is evaluated yet.

        Args:
            model: the model, in its own types. seconds: how long all evaluations together may take.
        """
        self._model = model
        self.left = seconds
        self._bare = ModelProto()
        self._bare.CopyFrom(model.skeleton)
        self._bare.ClearField("graph")
        self.exact = True
        self._evaluators: dict[int, list[Callable[[Values], Values]]] = {}
        self.outputs = [value.name for value in model.skeleton.graph.output]

    def run(self, feeds: Values, settle: Settle | None = None) -> Values:
        """Return the graph's outputs by name, floating-point ones in float64.

        Raises:
            RefusedError: when a node cannot be evaluated, or the time is over.
        """
        graph, outputs = self._model.skeleton.graph, set(self.outputs)
        reads = [list(_read(node)) for node in graph.node]
        waiting = Counter(name for names in reads for name in set(names))
        tensors = widened_values(feeds)
        for index, (node, names) in enumerate(zip(graph.node, reads, strict=True)):
            inputs = {name: self._tensor(name, tensors) for name in dict.fromkeys(names)}
            made = self.evaluate(index, inputs)
            if settle is not None:
                made = settle(node, inputs, made)
            tensors.update({name: value for name, value in made.items() if waiting[name] or name in outputs})
            for name in set(names):
                waiting[name] -= 1
                if not waiting[name] and name not in outputs:
                    tensors.pop(name, None)
        return {name: self._tensor(name, tensors) for name in self.outputs}

    def evaluate(self, index: int, inputs: Values) -> Values:
        """Return what one node makes of its inputs, by name.

        Raises:
            RefusedError: when it cannot be evaluated, or the time is over.
        """
        if self.left <= 0:
            raise RefusedError("it takes too long")
        started = time.perf_counter()
        try:
            return self._evaluated(index, inputs)
        finally:
            self.left -= time.perf_counter() - started

    def _evaluated(self, index: int, inputs: Values) -> Values:
        node, reason = self._model.skeleton.graph.node[index], "it cannot be evaluated"
        if index not in self._evaluators:
            self._evaluators[index] = self._ways(node, inputs)
        ways = self._evaluators[index]
        while ways:
            try:
                found = ways[0](inputs)
            except RefusedError as error:
                reason = str(error)
                ways.pop(0)
            else:
                self.exact = self.exact and len(ways) > 1
                return found
        raise RefusedError(f"{node.op_type} ({node.name or node.output[0]}): {reason}")

    def _ways(self, node: NodeProto, inputs: Values) -> list[Callable[[Values], Values]]:
        """Return what may evaluate a node, the best first and its own type last; those that fail are given up."""
        shapes = {name: np.shape(value) for name, value in inputs.items() if isinstance(value, np.ndarray)}
        narrow = self.alone(node, inputs)
        wide = in_float64(narrow)
        by_numpy = _lazily(lambda: by_reference(wide))
        by_doubles = _lazily(lambda: Session(Source(wide), optimized=False).run)
        slow = slow_seconds(node, shapes)
        ways = [by_numpy, by_doubles] if slow < _SLOW else [by_doubles, by_numpy] if slow < self.left else [by_doubles]
        return [*ways, _lazily(lambda: _in_own_type(narrow))]

    def evaluate_node(self, node: NodeProto, inputs: Values) -> Values:
        """Do the same for a node of the graph that is known by what it makes."""
        nodes = self._model.skeleton.graph.node
        return self.evaluate(next(index for index, each in enumerate(nodes) if each.output == node.output), inputs)

    def alone(self, node: NodeProto, inputs: Values) -> Model:
        """Return a model of one node, in the types of the whole one; ``inputs`` say which shapes."""
        skeleton = ModelProto()
        skeleton.CopyFrom(self._bare)
        skeleton.graph.name = "piece"
        skeleton.graph.node.append(node)
        narrowest = self._own_type()
        skeleton.graph.input.extend(_declared(name, value, narrowest) for name, value in inputs.items())
        skeleton.graph.output.extend(ValueInfoProto(name=name) for name in node.output if name)
        return Model(skeleton, {})

    def _own_type(self) -> int:
        types = [value.header.data_type for value in self._model.initializers.values()]
        found = [kind for kind in types if kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)]
        return Counter(found).most_common(1)[0][0] if found else TensorProto.FLOAT

    def _tensor(self, name: str, tensors: Values) -> Any:
        if name in tensors:
            return tensors[name]
        if name in self._model.initializers:
            return widen(self._model.initializers[name].array)
        raise RefusedError(f"'{name}' is read and never made")


def widen(value: Any) -> Any:
    """Return floating-point numbers as float64, everything else as it is."""
    if isinstance(value, (list, tuple)):
        return [widen(entry) for entry in value]
    return value.astype(np.float64) if isinstance(value, np.ndarray) and is_floating(value) else value


def widened_values(values: Values) -> Values:
    """Return the same with all floating-point numbers as float64."""
    return {name: widen(value) for name, value in values.items()}


_SLOW = 0.5  # seconds by onnx.reference, from which on onnxruntime is asked first


def _lazily(make: Callable[[], Callable[[Values], Values]]) -> Callable[[Values], Values]:
    made: list[Callable[[Values], Values]] = []

    def run(inputs: Values) -> Values:
        if not made:
            made.append(make())
        return made[0](inputs)

    return run


def _in_own_type(model: Model) -> Callable[[Values], Values]:
    """Return what evaluates a node as onnxruntime does in the whole model, and widens the outcome."""
    session = Session(Source(model), optimized=False)
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.skeleton.graph.input}
    types = {name: helper.tensor_dtype_to_np_dtype(kind) for name, kind in kinds.items() if kind}

    def run(inputs: Values) -> Values:
        typed = {
            name: value.astype(types[name]) if isinstance(value, np.ndarray) and name in types else value
            for name, value in inputs.items()
        }
        return widened_values(session.run(typed))

    return run


def _declared(name: str, value: Any, floating: int) -> ValueInfoProto:
    """Return the declaration of a node's input; sequences and optionals are left to inference."""
    if not isinstance(value, np.ndarray):
        return ValueInfoProto(name=name)
    kind = floating if is_floating(value) else helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * value.ndim)


def _read(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads from outside of itself."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {tensor.values.name for tensor in graph.sparse_initializer}
        for inner in graph.node:
            yield from (name for name in _read(inner) if name not in own)
            own.update(inner.output)
        yield from (value.name for value in graph.output if value.name not in own)
