"""What a constant decides is decided before: an `If` becomes its branch, a `Loop` of one round its body.

Exporters of scripted modules write an `If` where the code asks for a shape or a setting, and whole networks stand in
its branches. Whether a condition is constant may depend on shapes, so that they are inferred on the way.

A condition that is known only at run time may have one outcome alone that a run survives: `x.squeeze(-1)` is an `If` on
the last size, and an LSTM behind it takes one of the two ranks only. Such an `If` becomes the branch that survives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from onnxsqueeze.canonicalization.inlining import Inlined, Names, inlined
from onnxsqueeze.canonicalization.rebuild import _FIRST_WITH_FREE_INITIALIZERS, _with_nodes
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Graph, Node
from onnxsqueeze.graph.reachable import reachable
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.lessons import RuleFailed
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.shapes.inference import ShapeInference, fold

_OPERATORS = ("If", "Loop")
_BRANCHES = ("then_branch", "else_branch")
_MOST_TRIED = 8  # conditions known only at run time, of which both outcomes are followed to the end of the graph
_AXES_AS_INPUT = 13  # the opset in which the axes of Unsqueeze became an input


def without_constant_branches(model: Model) -> Model:
    """Return a model without an `If` or a `Loop` that constants decide; the argument if it has none."""
    if model.skeleton.ir_version < _FIRST_WITH_FREE_INITIALIZERS:
        return model
    if all(node.op_type not in _OPERATORS for node in model.skeleton.graph.node):
        return model
    return _Sweep(model).run()


class _Sweep:
    """One way through the nodes, those of the branches that were put in included.

    Attributes:
        tried: of how many more conditions both outcomes may be followed.
    """

    def __init__(self, model: Model, tried: int = _MOST_TRIED) -> None:
        self._model = model
        self._graph = Graph(model)
        self._context = Context(self._graph)
        self._inference = ShapeInference(self._graph, self._context)
        self._names = Names(model.skeleton.graph, model.initializers)
        self._nodes: list[onnx.NodeProto] = []
        self._new: dict[str, Initializer] = {}
        self._values: list[onnx.ValueInfoProto] = []
        self._pending = deque(model.skeleton.graph.node)
        self.tried = tried

    def run(self) -> Model:
        """Return the model that is left; the argument if nothing is decided."""
        changed = False
        while self._pending:
            node = self._graph.node(len(self._nodes), self._pending.popleft())
            found = self._decided(node) if node.op in _OPERATORS and node.domain == ONNX_DOMAIN else None
            if found is None:
                self._visit(node)
                continue
            changed = True
            self._take(found)
            self._pending.extendleft(reversed(found.nodes))
        return self._left() if changed else self._model

    def _left(self, more: Iterable[Initializer] = ()) -> Model:
        """Return the model of the nodes so far and of those that wait, and of ``more`` constants."""
        skeleton = _with_nodes(self._model.skeleton, [*self._nodes, *self._pending])
        declared = {value.name for value in (*skeleton.graph.value_info, *skeleton.graph.output, *skeleton.graph.input)}
        skeleton.graph.value_info.extend(value for value in self._values if value.name not in declared)
        new = {initializer.name: initializer for initializer in more}
        return replace(self._model, skeleton=skeleton, initializers=self._model.initializers | self._new | new)

    def _visit(self, node: Node) -> None:
        self._nodes.append(node.proto)
        rule = rule_for(node)
        try:
            self._inference.infer(node, rule)
            fold(node, rule, self._context)
        except RuleFailed:  # the analysis asks again, and learns of it
            return

    def _take(self, found: Inlined) -> None:
        for initializer in found.initializers:
            self._new[initializer.name] = initializer
            self._context.shapes[initializer.name] = tuple(initializer.shape)
            self._context.dtypes[initializer.name] = initializer.header.data_type
            if initializer.is_numeric:
                self._context.values[initializer.name] = initializer.array
        self._values.extend(found.values)

    def _decided(self, node: Node) -> Inlined | None:
        """Return what a node comes to, None where that is known only at run time."""
        if node.op == "Loop":
            return self._only_round(node)
        condition = self._context.value(node.inputs[0])
        if condition is None or condition.size != 1:
            which = self._survivor(node)
            return None if which is None else _branch(node, which, self._names)
        return _branch(node, _BRANCHES[0 if condition.ravel()[0] else 1], self._names)

    def _survivor(self, node: Node) -> str | None:
        """Return the branch without which no run comes to its end; None if there is none, or if that is not known.

        It is told by what a rank does to the nodes behind. Where the other branch is taken the model fails, so that
        whatever it does there is its right.
        """
        self._inference.infer(node, rule_for(node))
        if not self.tried or all(name in self._context.shapes for name in node.outputs if name):
            return None
        self.tried -= 1
        trials = [self._trial(node, which) for which in _BRANCHES]
        first, second = trials
        if first is None or second is None:
            return None
        fails = [first.fails_beside(second), second.fails_beside(first)]
        return _BRANCHES[fails.index(False)] if any(fails) and not all(fails) else None

    def _trial(self, node: Node, which: str) -> _Sweep | None:
        """Return what comes of the graph if a branch is taken; None if the branch cannot be put in."""
        found = _branch(node, which, deepcopy(self._names))
        if found is None:
            return None
        given = self._left(found.initializers)
        nodes = [*self._nodes, *found.nodes, *self._pending]
        trial = _Sweep(replace(given, skeleton=_with_nodes(given.skeleton, nodes)), tried=0)
        trial.run()
        return trial

    def fails_beside(self, other: _Sweep) -> bool:
        """Whether every run fails, at a node that runs in another way through the graph.

        Its inputs contradict each other by the standard's own inference, and the runtime refuses it: either alone may
        be mistaken, since runtimes are generous and sizes known only at run time are guessed. What it writes is needed.
        """
        from onnxsqueeze.rules.runnable import why_not_runnable  # which imports onnxruntime

        needed = reachable(Graph(self._left())) & self._context.doubtful
        runs = {name: place for place, proto in enumerate(other._nodes) for name in proto.output if name}
        for place in sorted(needed):
            node = self._graph.node(place, self._nodes[place])
            beside = runs.get(next(filter(None, node.outputs), ""))
            if beside is None or beside in other._context.doubtful:
                continue
            same = other._graph.node(beside, other._nodes[beside])
            if why_not_runnable(node, self._context) and not why_not_runnable(same, other._context):
                return True
        return False

    def _only_round(self, node: Node) -> Inlined | None:
        """Return the body of a loop that is run once: what it carries passes on, what it collects has length 1."""
        trips = self._context.integers(node.input(0))
        goes = self._context.value(node.input(1)) if node.input(1) else np.array(True)
        if trips != [1] or goes is None or not goes.all():
            return None
        body, carried = _attribute(node, "body"), node.inputs[2:]
        given, names = [value.name for value in body.input], [value.name for value in body.output]
        if len(given) != len(carried) + 2 or len(set(names)) < len(names) or "" in carried:
            return None
        start = {place: self._names.new(f"{given[place]}.once") for place in (0, 1)}
        inputs = {given[place]: name for place, name in start.items()} | dict(zip(given[2:], carried, strict=True))
        collected = {name: self._names.new(f"{name}.collected") for name in node.outputs[len(carried) :] if name}
        outside = [collected.get(name, name) for name in node.outputs]
        found = inlined(body, self._names, inputs, _read(names[1:], outside))
        if found is None:
            return None
        values = {start[0]: np.array(0, np.int64), start[1]: np.array(True)}
        found.initializers += [Initializer.from_array(name, value) for name, value in values.items()]
        found.nodes += [self._collected(source, name, found) for name, source in collected.items()]
        return found

    def _collected(self, source: str, name: str, found: Inlined) -> onnx.NodeProto:
        """Return the node that puts the axis of rounds in front."""
        if self._graph.opsets.get("", 0) < _AXES_AS_INPUT:
            return helper.make_node("Unsqueeze", [source], [name], name, axes=[0])
        axes = self._names.new(f"{name}.axes")
        found.initializers.append(Initializer.from_array(axes, np.array([0])))
        return helper.make_node("Unsqueeze", [source, axes], [name], name)


def _branch(node: Node, which: str, names: Names) -> Inlined | None:
    """Return the nodes of a branch of an `If`; None if it cannot be put in the graph around it."""
    body = _attribute(node, which)
    made = [value.name for value in body.output]
    if len(made) != len(node.outputs) or len(set(made)) < len(made):
        return None
    return inlined(body, names, {}, _read(made, node.outputs))


def _attribute(node: Node, name: str) -> onnx.GraphProto:
    found: onnx.GraphProto = next(attribute.g for attribute in node.proto.attribute if attribute.name == name)
    return found


def _read(names: list[str], outside: tuple[str, ...] | list[str]) -> Mapping[str, str]:
    """Pair a subgraph's outputs with the names that they have outside, those that nothing reads left out."""
    return {name: outer for name, outer in zip(names, outside, strict=False) if outer}
