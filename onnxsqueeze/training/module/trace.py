"""From a model to a torch.fx graph: one call of a form after the other, on proxies."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.fx
from onnx import TensorProto
from torch import Tensor

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.training.lowerings.node_call import FLOATING, NodeCall, as_torch, leaf, torch_dtype
from onnxsqueeze.training.lowerings.registry import lowering_for
from onnxsqueeze.training.module.lowering import SHAPE
from onnxsqueeze.training.module.sizes import SymbolicSizes
from onnxsqueeze.training.module.trainable import Roles


class Trace:
    """Calls the forms of all nodes that some output depends on (it is the `Tracing` that calls draw on).

    Attributes:
        fx: the graph. Its placeholders are, in no particular order, those below.
        tensors: by ONNX name the node of the graph that computes a tensor; graph inputs and activations.
        weights: placeholders of parameters and statistics, by initializer.
        constants: placeholders of constants with their values.
        inputs: placeholders of the inputs, in the model's order.
        mode, like: placeholders of ``training`` and ``floating``.
        outputs: the nodes that compute the model's outputs.
    """

    def __init__(self, graph: Graph, analysis: Analysis, roles: Roles) -> None:
        self.fx = torch.fx.Graph()
        self._tracer = torch.fx.proxy.GraphAppendingTracer(self.fx)
        self._graph = graph
        self._context = analysis.context
        self._roles = roles
        self._names = SymbolicSizes()
        self._placeholders = 0
        self._held: dict[str, torch.fx.Proxy] = {}  # constants and computed sizes as tensors
        self.tensors: dict[str, torch.fx.Node] = {}
        self.weights: dict[str, torch.fx.Node] = {}
        self.constants: dict[torch.fx.Node, Tensor] = {}
        self.mode = self._placeholder("training")
        self.like = self._placeholder("floating")
        self.inputs = [self._input(name) for name in graph.inputs]
        for node in graph.nodes:
            if node.index in roles.reachable and not self._known(node):
                self._compute(node)
        self.outputs = [self._node_of(name) for name in graph.outputs]

    # -- what calls ask for

    def operand(self, name: str) -> Tensor:
        """Return a tensor, traced."""
        return cast(Tensor, torch.fx.Proxy(self._node_of(name), self._tracer))

    def value(self, name: str) -> Array | None:
        """Return the value of a tensor that nothing changes."""
        return None if name in self._roles.varying else self._context.value(name)

    def numbers(self, name: str) -> list[int] | None:
        """Return the entries of an integer tensor."""
        sizes = None if name in self._roles.varying else self._context.sizes(name)
        if sizes is not None and all(self._names.resolvable(size) for size in sizes.flat):
            return [cast(int, self._names.resolve(size)) for size in sizes.flat]
        shape = self.shape(name)
        if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
            return None
        entries = _entries(self.operand(name))
        return [entries[position] for position in range(shape[0])]

    def shape(self, name: str) -> Shape | None:
        """Return a tensor's shape with symbolic sizes."""
        if name in self._context.shapes:
            return self._context.shapes[name]
        value = self._context.sizes(name)
        return None if value is None else value.shape

    def sizes(self, name: str) -> list[int | None] | None:
        """Return a tensor's sizes as far as they are known without it."""
        shape = self.shape(name)
        if shape is None:
            return None
        known = [self._names.resolve(size) if self._names.resolvable(size) else None for size in shape]
        return cast("list[int | None]", known)

    def dtype(self, name: str) -> int | None:
        """Return a tensor's ONNX data type."""
        return self._context.dtypes.get(name)

    def trained(self, name: str) -> bool:
        """Whether a tensor is a parameter."""
        return name in self._roles.trained

    def counted(self, name: str) -> bool:
        """Whether a tensor is what a layer makes of codes alone."""
        node = self._context.graph.producers.get(name)
        if node is None or self._context.rules[node.index].linear is None:
            return False
        makers = [self._context.graph.producers.get(operand) for operand in node.inputs]
        return all(each is not None and Trait.DECODES in rule_for(each).traits for each in makers)

    @property
    def training(self) -> bool:
        """Whether the module is in training mode."""
        return cast(bool, torch.fx.Proxy(self.mode, self._tracer))

    @property
    def floating(self) -> Tensor:
        """An empty tensor of the module's floating type, on its device."""
        return cast(Tensor, torch.fx.Proxy(self.like, self._tracer))

    # -- nodes

    def _known(self, node: Node) -> bool:
        """Whether all that a node computes is constant, or sizes that can be told without running it."""
        for name in node.outputs:
            if name and name in self._roles.varying:
                return False
            sizes = self._context.sizes(name) if name else np.empty(0)
            if sizes is None or not all(self._names.resolvable(size) for size in sizes.flat if sizes.dtype == object):
                return False
        return True

    def _compute(self, node: Node) -> None:
        if node.captured or any(attribute.HasField("g") for attribute in node.proto.attribute):
            raise UsageError(f"node '{node.label}': {node.operator} with a subgraph cannot be trained")
        made = lowering_for(node).compute(NodeCall(node, self))
        results: Sequence[Any] = made if isinstance(made, tuple) else (made,)
        for name, result in zip(node.outputs, results, strict=False):
            if name and result is not None:
                self.tensors[name] = result.node
                self._names.bind(self._context.shapes.get(name, ()), partial(self._proxy, result.node))

    def _proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return torch.fx.Proxy(node, self._tracer)

    def _input(self, name: str) -> torch.fx.Node:
        placeholder = self._placeholder("input")
        self.tensors[name] = placeholder
        self._names.bind(self._context.shapes.get(name, ()), partial(self._proxy, placeholder))
        if self.dtype(name) in FLOATING - {TensorProto.FLOAT}:
            self.tensors[name] = cast(Any, self._proxy(placeholder)).to(self.floating).node
        return placeholder

    def _placeholder(self, name: str) -> torch.fx.Node:
        self._placeholders += 1
        return self.fx.placeholder(f"{name}_{self._placeholders}")  # a placeholder is named by its target

    def _node_of(self, name: str) -> torch.fx.Node:
        if name in self.tensors:
            return self.tensors[name]
        if name in self._roles.trained or name in self._roles.statistics:
            if name not in self.weights:
                self.weights[name] = self._placeholder("weight")
                self.weights[name].meta[SHAPE] = self._context.shapes[name]
            return self.weights[name]
        if name not in self._held:
            self._held[name] = self._held_tensor(name)
        return self._held[name].node

    def _held_tensor(self, name: str) -> torch.fx.Proxy:
        value = self.value(name)
        if value is not None:
            placeholder = self._placeholder("constant")
            placeholder.meta[SHAPE] = value.shape
            self.constants[placeholder] = as_torch(value)
            return self._proxy(placeholder)
        sizes = self._context.sizes(name)
        if sizes is None or not all(self._names.resolvable(size) for size in sizes.flat):
            producer = self._graph.producers.get(name)
            origin = f"is no output of the torch form of {producer.operator}" if producer else "has no numeric value"
            raise UsageError(f"tensor '{name}' {origin}, so this file cannot be trained")
        entries = [self._names.resolve(size) for size in sizes.flat]
        dtype = torch_dtype(self._context.dtypes.get(name, TensorProto.INT64))
        return cast(torch.fx.Proxy, _size_tensor(cast("list[int]", entries), sizes.shape, dtype, self.floating))


@leaf
def _size_tensor(entries: list[int], shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    return torch.tensor(entries, dtype=dtype, device=like.device).reshape(shape)


@leaf
def _entries(tensor: Tensor) -> list[int]:
    return [operator.index(entry) for entry in tensor.reshape(-1).tolist()]
