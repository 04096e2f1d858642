"""The graphs inside of a graph: bodies of `If`, `Loop` and `Scan` that stay are minimized by themselves.

To a body, what it captures is an input, and what it hands out an output: neither changes. All else in it may, in each
of several branches otherwise. Constants around it are constants to it; one that it needs less of becomes its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnxsqueeze.analysis.special_values import of_inputs
from onnxsqueeze.canonicalization.inlining import defined_names, renamed
from onnxsqueeze.canonicalization.lowering.finding import with_bodies_in_place
from onnxsqueeze.coupling.keep_reason import Pin, Reason
from onnxsqueeze.graph.graph import Graph
from onnxsqueeze.model import local_functions
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.model.saving import encoded_size
from onnxsqueeze.model.sparse import in_sparse_form
from onnxsqueeze.model.walk import free_names, graph_nodes, subgraphs
from onnxsqueeze.pipeline.frontend import analyse
from onnxsqueeze.pipeline.search import Outcome, Wishes, smallest
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.shapes.bodies import as_model

_FIRST_WITH_FREE_INITIALIZERS = 4  # the IR version since which an initializer need not be a graph input


@dataclass(frozen=True)
class Body:
    """A subgraph that was minimized by itself: the labels of the nodes that it lies in, and what came of it."""

    path: str
    outcome: Outcome


def with_narrowed_bodies(model: Model, context: Context, wishes: Wishes) -> tuple[Model, Sequence[Body]]:
    """Return a model whose subgraphs are smaller, and what came of each; the argument if none is.

    Args:
        model: what the main graph has become.
        context: what is known of the main graph; what subgraphs capture is as it was.
        wishes: what the user asked for.
    """
    given, model = model, with_bodies_in_place(model)
    proto = model.skeleton.graph
    if model.skeleton.ir_version < _FIRST_WITH_FREE_INITIALIZERS or not any(map(_has_body, proto.node)):
        return given, ()
    work = _Bodies(model, wishes)
    skeleton = copy_except(model.skeleton)
    work.narrow(skeleton.graph, context, model.initializers)
    if not any(body.outcome.changed for body in work.bodies):
        return given, work.bodies
    captured = {name for node in proto.node for graph in subgraphs(node) for name in free_names(graph)}
    dropped = captured - _read(skeleton.graph)
    kept = {name: value for name, value in model.initializers.items() if name not in dropped}
    local_functions.define(skeleton, work.functions)
    changed = replace(model, skeleton=skeleton, initializers=kept)
    size, most = encoded_size(changed), wishes.most_bytes
    smaller = size < encoded_size(given) and (most is None or size <= most)
    return (changed, work.bodies) if smaller else (given, ())


class _Bodies:
    """The subgraphs of one model.

    Attributes:
        bodies: what came of each so far. functions: those that their nodes may call.
    """

    def __init__(self, model: Model, wishes: Wishes) -> None:
        self._skeleton = copy_except(model.skeleton, "graph")
        self._wishes = wishes
        self._taken = set(model.initializers) | set(defined_names(model.skeleton.graph))
        self._taken.update(name for node in graph_nodes(model.skeleton.graph) for name in node.input)
        self.bodies: list[Body] = []
        self.functions: list[onnx.FunctionProto] = []

    def narrow(
        self, graph: onnx.GraphProto, context: Context, constants: Mapping[str, Initializer], path: str = ""
    ) -> None:
        """Narrow in place what the nodes of a graph hold; ``constants`` are those around them."""
        for index, node in enumerate(graph.node):
            for body in subgraphs(node):
                label = node.name or next(iter(node.output), f"#{index}")
                self._narrow_body(node, body, context, constants, f"{path}/{label}" if path else label)

    def _narrow_body(
        self,
        node: onnx.NodeProto,
        body: onnx.GraphProto,
        context: Context,
        constants: Mapping[str, Initializer],
        path: str,
    ) -> None:
        if not body.node:
            return
        inner = as_model(body, self._skeleton, context, constants)
        pins = list(_pins(node, body, [value.name for value in inner.skeleton.graph.input]))
        specials = of_inputs(context.graph.node(0, node), body, context)
        outcome = smallest(analyse(inner, self._wishes.keep, pins, specials=specials), self._wishes)
        self.bodies.append(Body(path, outcome))
        result, before = (outcome.model if outcome.changed else inner), len(self.bodies)
        self.narrow(result.skeleton.graph, outcome.analysis.context, result.initializers, path)
        if outcome.changed or any(deeper.outcome.changed for deeper in self.bodies[before:]):
            self._write(body, result, inner)
            self.functions += result.skeleton.functions

    def _write(self, body: onnx.GraphProto, result: Model, inner: Model) -> None:
        """Put what came of a body in its place, under names that nothing else has."""
        captured, read = set(free_names(body)), _read(result.skeleton.graph)
        stored = {
            name: value
            for name, value in result.initializers.items()
            if name in read and not (name in captured and inner.initializers.get(name) is value)
        }
        dense, sparse = in_sparse_form(replace(result, initializers=stored))
        before = set(defined_names(body))
        written = {name for node in result.skeleton.graph.node for name in node.output if name} | set(stored)
        names = {name: self._new(name) for name in sorted(written - before) if name in self._taken}
        self._taken |= written
        nodes = [renamed(node, names) for node in result.skeleton.graph.node]
        values = [value for value in result.skeleton.graph.value_info if value.name in written - set(names)]
        for part in ("node", "initializer", "sparse_initializer", "value_info"):
            body.ClearField(part)
        body.node.extend(nodes)
        body.value_info.extend(values)
        body.initializer.extend(value.renamed(names.get(value.name, value.name)).to_tensor() for value in dense)
        for tensor in sparse:
            tensor.values.name = names.get(tensor.values.name, tensor.values.name)
            body.sparse_initializer.append(tensor)

    def _new(self, hint: str) -> str:
        name, count = f"{hint}.inner", 1
        while name in self._taken:
            count += 1
            name = f"{hint}.inner_{count}"
        self._taken.add(name)
        return name


def _pins(node: onnx.NodeProto, body: onnx.GraphProto, inputs: Sequence[str]) -> Iterator[Pin]:
    """Say why what comes into a body and goes out of it stays as it is."""
    given, made = [value.name for value in body.input], [value.name for value in body.output]
    label, carried = node.name or node.op_type, len(node.input) - 2 if node.op_type == "Loop" else 0
    if node.op_type == "Scan":
        scanned = next((entry.i for entry in node.attribute if entry.name == "num_scan_inputs"), 0)
        carried = len(given) - scanned
    skipped = (2, 1) if node.op_type == "Loop" else (0, 0)  # the round's number and the condition
    state = list(dict.fromkeys((*given[skipped[0] :][:carried], *made[skipped[1] :][:carried])))
    yield from (Pin(name, Reason.CARRIED, label) for name in state)
    yield from (Pin(name, Reason.CAPTURED, label) for name in inputs if name not in state)
    yield from (Pin(name, Reason.HANDED_OUT, label) for name in made if name not in state)


def _has_body(node: onnx.NodeProto) -> bool:
    return any(True for _ in subgraphs(node))


def _read(graph: onnx.GraphProto) -> set[str]:
    names = {name for names in Graph.read_names(graph) for name in names}
    return names | {value.name for value in graph.output}
