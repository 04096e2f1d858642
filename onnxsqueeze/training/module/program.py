"""A model's computation as Python functions: what a module needs besides its parameters, shared by all its copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.fx
from torch import Tensor

from onnxsqueeze.analysis.forward import analysed
from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.model import Model
from onnxsqueeze.pipeline.frontend import canonical_graph
from onnxsqueeze.training.module.lowering import lower
from onnxsqueeze.training.module.trace import Trace
from onnxsqueeze.training.module.trainable import roles_of

Function = Callable[..., tuple[Tensor, ...]]


class Program:
    """The functions that a model's graph computes, of all that they read.

    A function takes, in this order: whether the module is training, an empty tensor of its floating type, the
    parameters and statistics in ``weights``, the ``constants``, and the model's inputs. It returns the model's outputs
    and then the tensors that were asked for. A copy of a program is the program itself; it is pickled as its model.

    Attributes:
        model: the model that it was made from.
        weights: initializers, statistics among them, that the outputs depend on.
        statistics: the moving averages among ``weights``.
        coded: how those of the ``weights`` are stored that are codes in the file, and real numbers here.
        constants: the tensors that nothing changes.
        inputs, outputs: names of the model's inputs and outputs.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        graph = canonical_graph(model)
        analysis = analysed(graph)
        roles = roles_of(graph, analysis.context)
        trace = Trace(graph, analysis, roles)
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self._results = [trace.outputs[position] for position in range(len(self.outputs))]
        live = _needed(self._results)
        self._weights = [(name, node) for name, node in trace.weights.items() if node in live]
        self._constants = [(node, value) for node, value in trace.constants.items() if node in live]
        self._inputs = trace.inputs
        self._fixed = [trace.mode, trace.like]
        self._tensors = {name: node for name, node in trace.tensors.items() if node in live or name in self.inputs}
        order = {name: place for place, name in enumerate(model.initializers)}
        self._weights.sort(key=lambda entry: order[entry[0]])
        self.weights = [name for name, _ in self._weights]
        self.statistics = roles.statistics & set(self.weights)
        self.coded = {name: roles.coded[name] for name in self.weights if name in roles.coded}
        self.constants = [value for _, value in self._constants]
        self._functions: dict[tuple[str, ...], Function] = {}
        self.function()  # torch.compile could not make it

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.model,)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The tensors that a function can return."""
        return tuple(self._tensors)

    def function(self, tensors: tuple[str, ...] = ()) -> Function:
        """Return the function that computes the outputs and these tensors.

        Raises:
            UsageError: when one of them is no tensor of the graph, or a constant.
        """
        if tensors not in self._functions:
            for name in tensors:
                if name not in self._tensors:
                    raise UsageError(f"'{name}' is no activation of the graph; tensor_names lists them")
            self._functions[tensors] = _compiled(self.graph(tensors))
        return self._functions[tensors]

    def graph(self, tensors: Sequence[str] = ()) -> torch.fx.Graph:
        """Return a new graph of what `function` computes."""
        graph = torch.fx.Graph()
        copies: dict[torch.fx.Node, torch.fx.Node] = {}
        held = [*(node for _, node in self._weights), *(node for node, _ in self._constants)]
        for node in (*self._fixed, *held, *self._inputs):
            copies[node] = graph.node_copy(node)  # with its `meta`
        wanted = [*self._results, *(self._tensors[name] for name in tensors)]
        needed = _needed(wanted)
        for node in self._fixed[0].graph.nodes:
            if node.op != "placeholder" and node in needed:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for node in wanted))
        lower(graph)
        return graph


def _needed(results: Sequence[torch.fx.Node]) -> set[torch.fx.Node]:
    found: set[torch.fx.Node] = set()
    pending = list(results)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def _compiled(graph: torch.fx.Graph) -> Function:
    code = graph.python_code("self")
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<onnxsqueeze.training>", "exec"), namespace)
    return partial(namespace["forward"], None)  # in the place of a module, of which it reads nothing
