"""Evaluate a model in float64 node by node, so that it may be of any size: no more is in memory than one node needs.

Each node is a model of its own, run by onnx.reference or, where that is slow or knows no such operator, by onnxruntime.
Only where neither has it in float64 is it computed in the model's own type, for lack of anything better. Bodies of
control flow in which something is selected are gone through node by node as well, as often as they run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import graph_nodes, read_names, subgraphs
from onnxsqueeze.verification.bodies import Body, UnknownBodyError, run_body
from onnxsqueeze.verification.difference import is_floating
from onnxsqueeze.verification.float64 import by_reference, in_float64
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.reference_cost import slow_seconds
from onnxsqueeze.verification.selections import Evaluate, selects
from onnxsqueeze.verification.sessions import RefusedError, Session, Values


@dataclass(frozen=True)
class Step:
    """One node that was evaluated.

    Attributes:
        where: the bodies around it with their iterations; "" in the main graph. node: the node.
        inputs, made: what it reads and what it makes, by name. again: evaluates it on other inputs.
    """

    where: str
    node: NodeProto
    inputs: Values
    made: Values
    again: Evaluate


Steps = Generator[Step, Values, Values]
"""Yields each node that was evaluated, is sent what counts as made by it, and returns the outputs of a graph."""

Settle = Callable[[Step], Values]
"""Is told of each node what it makes, and returns what counts as made, by name."""


class Pieces:
    """A model that is evaluated in float64, node by node.

    Attributes:
        exact: whether all of its nodes were evaluated in float64 so far. outputs: the graph's, by name.
        left: the seconds that are left for evaluations.
    """

    def __init__(self, model: Model, seconds: float, *, rounded: bool = False) -> None:
        """Prepare; nothing is evaluated yet.

        Args:
            model: the model, in its own types. seconds: how long all evaluations together may take.
            rounded: whether to evaluate in these types, as onnxruntime does without optimizations, instead of float64.
        """
        self._model = model
        self.left = seconds
        self._rounded = rounded
        self._bare = ModelProto()
        self._bare.CopyFrom(model.skeleton)
        self._bare.ClearField("graph")
        self.exact = True
        self._evaluators: dict[object, list[Evaluate]] = {}
        self.outputs = [value.name for value in model.skeleton.graph.output]

    def run(self, feeds: Values, settle: Settle | None = None) -> Values:
        """Return the graph's outputs by name, floating-point ones in float64.

        Raises:
            RefusedError: when a node cannot be evaluated, or the time is over.
        """
        return settled(self.steps(feeds), settle or (lambda step: step.made))

    def steps(self, feeds: Values) -> Steps:
        """Evaluate one node after another.

        Raises:
            RefusedError: when a node cannot be evaluated, or the time is over.
        """
        return self._graph(self._model.skeleton.graph, (), "", self._typed(feeds))

    def inside(self, index: int, inputs: Values) -> Steps:
        """Evaluate the body of a node of the main graph in the same way, on what the node reads; see `steps`."""
        node = self._model.skeleton.graph.node[index]
        return self._through(node, (index,), "", self._typed(inputs))

    def evaluate(self, index: int, inputs: Values) -> Values:
        """Return what one node of the main graph makes of its inputs, by name.

        Raises:
            RefusedError: when it cannot be evaluated, or the time is over.
        """
        return self._timed(self._model.skeleton.graph.node[index], (index,), inputs)

    def _graph(self, graph: GraphProto, path: tuple[object, ...], where: str, tensors: Values) -> Steps:
        """Evaluate the nodes of a graph. ``tensors`` are what it is given, by name."""
        outputs = [value.name for value in graph.output]
        reads = [[name for name in read_names(node) if name] for node in graph.node]
        waiting = Counter(name for names in reads for name in set(names))
        waiting.update(outputs)
        tensors = {**tensors, **self._typed({each.name: numpy_helper.to_array(each) for each in graph.initializer})}
        for index, (node, names) in enumerate(zip(graph.node, reads, strict=True)):
            inputs = {name: self._tensor(name, tensors) for name in dict.fromkeys(names)}
            made = yield from self._node(node, (*path, index), where, inputs)
            tensors.update({name: value for name, value in made.items() if waiting[name]})
            for name in set(names):
                waiting[name] -= 1
                if not waiting[name]:
                    tensors.pop(name, None)
        return {name: self._tensor(name, tensors) for name in outputs}

    def _node(self, node: NodeProto, path: tuple[object, ...], where: str, inputs: Values) -> Steps:
        def again(others: Values) -> Values:
            return self._timed(node, path, others)

        if selects_inside(node):
            with suppress(UnknownBodyError):
                return (yield from self._through(node, path, where, inputs))
        return (yield Step(where, node, inputs, again(inputs), again))

    def _through(self, node: NodeProto, path: tuple[object, ...], where: str, inputs: Values) -> Steps:
        """Go through the bodies of a node; the evaluators are the same in each iteration."""

        branch = node.op_type == "If"

        def body(graph: GraphProto, number: int, given: Values) -> Body:
            place = f"{where}{node.output[0]}[{number}]/"
            own = {value.name: value for value in graph.input}
            outer = {name: value for name, value in inputs.items() if name not in own}
            return self._graph(graph, (*path, branch and number), place, {**outer, **given})

        opset = next((each.version for each in self._bare.opset_import if each.domain in ("", "ai.onnx")), 0)
        return (yield from run_body(node, opset, inputs, body))

    def _timed(self, node: NodeProto, path: tuple[object, ...], inputs: Values) -> Values:
        if self.left <= 0:
            raise RefusedError("it takes too long")
        clocks = time.perf_counter, time.process_time  # neither a machine that is busy nor many cores count
        started = [clock() for clock in clocks]
        try:
            return self._evaluated(node, path, inputs)
        finally:
            self.left -= min(clock() - start for clock, start in zip(clocks, started, strict=True))

    def _evaluated(self, node: NodeProto, path: tuple[object, ...], inputs: Values) -> Values:
        reason = "it cannot be evaluated"
        key = (path, tuple(np.ndim(value) for value in inputs.values() if isinstance(value, np.ndarray)))
        if key not in self._evaluators:
            self._evaluators[key] = self._ways(node, inputs)
        ways = self._evaluators[key]
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

    def _ways(self, node: NodeProto, inputs: Values) -> list[Evaluate]:
        """Return what may evaluate a node, the best first and its own type last; those that fail are given up."""
        shapes = {name: np.shape(value) for name, value in inputs.items() if isinstance(value, np.ndarray)}
        narrow = self.alone(node, inputs)
        if self._rounded:
            return [_lazily(lambda: Session(Source(narrow), optimized=False).run)]
        wide = in_float64(narrow)
        by_numpy = _lazily(lambda: by_reference(wide))
        by_doubles = _lazily(lambda: Session(Source(wide), optimized=False).run)
        slow = slow_seconds(node, shapes)
        ways = [by_numpy, by_doubles] if slow < _SLOW else [by_doubles, by_numpy] if slow < self.left else [by_doubles]
        return [*ways, _lazily(lambda: _in_own_type(narrow))]

    def alone(self, node: NodeProto, inputs: Values) -> Model:
        """Return a model of one node, in the types of the whole one; ``inputs`` say which shapes."""
        skeleton = ModelProto()
        skeleton.CopyFrom(self._bare)
        skeleton.graph.name = "piece"
        skeleton.graph.node.append(node)
        narrowest = None if self._rounded else self._own_type()
        skeleton.graph.input.extend(_declared(name, value, narrowest) for name, value in inputs.items())
        skeleton.graph.output.extend(ValueInfoProto(name=name) for name in node.output if name)
        return Model(skeleton, {})

    def _own_type(self) -> int:
        types = [value.header.data_type for value in self._model.initializers.values()]
        found = [kind for kind in types if kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)]
        return Counter(found).most_common(1)[0][0] if found else TensorProto.FLOAT

    def _typed(self, values: Values) -> Values:
        return dict(values) if self._rounded else widened_values(values)

    def _tensor(self, name: str, tensors: Values) -> Any:
        if name in tensors:
            return tensors[name]
        if name in self._model.initializers:
            return self._typed({name: self._model.initializers[name].array})[name]
        raise RefusedError(f"'{name}' is read and never made")


def settled(steps: Steps, settle: Settle) -> Values:
    """Go through steps to their end and return the outputs."""
    try:
        step = next(steps)
        while True:
            step = steps.send(settle(step))
    except StopIteration as end:
        outputs: Values = end.value
        return outputs


def selects_inside(node: NodeProto) -> bool:
    """Whether a node has a body in which something is selected."""
    return any(selects(inner) for graph in subgraphs(node) for inner in graph_nodes(graph))


def widen(value: Any) -> Any:
    """Return floating-point numbers as float64, everything else as it is."""
    if isinstance(value, (list, tuple)):
        return [widen(entry) for entry in value]
    return value.astype(np.float64) if isinstance(value, np.ndarray) and is_floating(value) else value


def widened_values(values: Values) -> Values:
    """Return the same with all floating-point numbers as float64."""
    return {name: widen(value) for name, value in values.items()}


_SLOW = 0.5  # seconds by onnx.reference, from which on onnxruntime is asked first


def _lazily(make: Callable[[], Evaluate]) -> Evaluate:
    made: list[Evaluate] = []

    def run(inputs: Values) -> Values:
        if not made:
            made.append(make())
        return made[0](inputs)

    return run


def _in_own_type(model: Model) -> Evaluate:
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


def _declared(name: str, value: Any, floating: int | None) -> ValueInfoProto:
    """Return the declaration of a node's input; sequences and optionals are left to inference.

    ``floating`` is the type of floating-point numbers; None where it is the value's own.
    """
    if not isinstance(value, np.ndarray):
        return ValueInfoProto(name=name)
    kind = helper.np_dtype_to_tensor_dtype(value.dtype) if floating is None or not is_floating(value) else floating
    return helper.make_tensor_value_info(name, kind, [None] * value.ndim)
