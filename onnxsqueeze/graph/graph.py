"""A read-only view of a model's main graph: nodes by name of what they read and write."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import helper

from onnxsqueeze.model.loading import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.node_group import Fusion, Group
from onnxsqueeze.model.overridable import overridable
from onnxsqueeze.model.walk import captured, read_names, subgraphs

ONNX_DOMAIN = ""
PATTERN_DOMAIN = "onnxsqueeze.pattern"
"""The domain of nodes that stand for groups of nodes. No model that is read or written imports it."""
GUARDED = "GuardedSoftmax"
"""The operator of that domain that is a Softmax with 0 instead of NaN where a whole row is masked."""
OVER_CHANNELS = {name: f"Channel{name}" for name in ("LayerNormalization", "RMSNormalization")}
"""The operators of that domain that normalise over one axis, whichever, by those over the axes from one to the last."""
RESPONSE_NORM = "GlobalResponseNormalization"
"""The operator of that domain that ConvNeXt V2 has between its pointwise layers."""

_MANY_FAILURES = 8


@dataclass(frozen=True, eq=False)
class Node:
    """One node: its operator at the opset version that the model imports, and the tensors by name ("" where absent).

    A node of `PATTERN_DOMAIN` stands for the nodes of its ``group``. One that has ``failed`` is treated as one of an
    unknown operator: its rule cannot be asked.
    """

    index: int
    op: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...]
    proto: onnx.NodeProto = field(repr=False)
    group: Group | None = field(default=None, repr=False)
    failed: bool = False

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes as Python values (strings decoded, tensors as TensorProto)."""
        if self.group is not None:
            return self.group.attributes
        return {attribute.name: _decoded(helper.get_attribute_value(attribute)) for attribute in self.proto.attribute}

    @cached_property
    def label(self) -> str:
        """The name to show a user: the node's own, else that of its first output."""
        return self.proto.name or next((name for name in self.outputs if name), f"#{self.index}")

    @cached_property
    def bodies(self) -> tuple[onnx.GraphProto, ...]:
        """The graphs in its attributes."""
        return tuple(subgraphs(self.proto))

    @property
    def operator(self) -> str:
        """The operator with its domain, e.g. ``com.microsoft.FusedConv``."""
        return f"{self.domain}.{self.op}" if self.domain and self.group is None else self.op

    def input(self, position: int) -> str:
        """Return the name of an input, "" where it is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""


class Graph:
    """The main graph of a model, with who produces and who reads each tensor.

    Attributes:
        model: the model. file: the model as it came, which the former may say more plainly.
        fusion: the groups of nodes of a file that single nodes of the model stand for, if any.
        nodes: the nodes in the file's topological order.
        initializers: the initializers that nothing can override, by name.
        overridable: initializers that are graph inputs too, so that a caller may replace them.
        inputs, outputs: names of the graph's inputs (without overridable initializers) and outputs.
    """

    def __init__(self, model: Model, fusion: Fusion = Fusion()) -> None:  # noqa: B008  (frozen, so it can be shared)
        proto = model.skeleton.graph
        self.model = model
        self.file = fusion.file or model
        self.fusion = fusion
        self.proto = proto
        self.opsets = {_domain(entry.domain): entry.version for entry in model.skeleton.opset_import}
        declared = [value.name for value in proto.input]
        self.overridable = overridable(model)
        self.initializers: Mapping[str, Initializer] = {
            name: initializer for name, initializer in model.initializers.items() if name not in self.overridable
        }
        self.inputs = tuple(name for name in declared if name not in model.initializers)
        self.outputs = tuple(value.name for value in proto.output)
        self._functions = {(_domain(function.domain), function.name) for function in model.skeleton.functions}
        self.nodes = [self.node(index, node) for index, node in enumerate(proto.node)]
        self.producers = {name: node for node in self.nodes for name in node.outputs if name}

    def with_failed(self, failed: Collection[int]) -> Graph:
        """Return this graph with some nodes, by index, that have failed; the graph itself if there are none.

        Where many of one operator have, all of its nodes count as such: each would cost an attempt to find it out.
        """
        if not failed:
            return self
        counts = Counter((self.nodes[index].domain, self.nodes[index].op) for index in failed)
        often = {operator for operator, count in counts.items() if count >= _MANY_FAILURES}
        lost = {node.index for node in self.nodes if (node.domain, node.op) in often}.union(failed)
        graph = copy(self)
        graph.nodes = [replace(node, failed=True) if node.index in lost else node for node in self.nodes]
        graph.producers = {name: node for node in graph.nodes for name in node.outputs if name}
        graph.__dict__.pop("readers", None)  # it was computed for the other nodes
        return graph

    @staticmethod
    def read_names(proto: onnx.GraphProto) -> Iterator[list[str]]:
        """Yield for each node the names that it reads, those that its subgraphs capture included."""
        for node in proto.node:
            yield list(read_names(node))

    def node(self, index: int, proto: onnx.NodeProto) -> Node:
        """Return the view of a node of this graph, or of one that might be in it."""
        domain = _domain(proto.domain)
        shadowed = (domain, proto.op_type) in self._functions
        group = self.fusion.groups.get(proto.output[0]) if domain == PATTERN_DOMAIN and proto.output else None
        version = 0 if shadowed else 1 if group is not None else self.opsets.get(domain, 0)
        names = tuple(dict.fromkeys(captured(proto)))
        inputs, outputs = tuple(proto.input), tuple(proto.output)
        return Node(index, proto.op_type, domain, version, inputs, outputs, names, proto, group)

    @cached_property
    def readers(self) -> Mapping[str, Sequence[tuple[Node, int]]]:
        """For each tensor the nodes that read it and at which input; -1 for a read from inside a subgraph."""
        found: dict[str, list[tuple[Node, int]]] = defaultdict(list)
        for node in self.nodes:
            for position, name in enumerate(node.inputs):
                if name:
                    found[name].append((node, position))
            for name in node.captured:
                found[name].append((node, -1))
        return found

    @cached_property
    def stored_elements(self) -> int:
        """How many elements all initializers have together."""
        return sum(initializer.size for initializer in self.initializers.values())

    def let_go(self, node: Node) -> None:
        """Give back the memory of the weights that a node reads, as far as they can be had again from a file."""
        for name in node.inputs:
            if name in self.initializers:
                self.initializers[name].let_go()

    def sole_reader(self, name: str) -> tuple[Node, int] | None:
        """Return the only reader of a tensor that is no graph output, else None."""
        readers = self.readers.get(name, ())
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def tensor_attribute(value: onnx.TensorProto) -> np.ndarray[Any, Any]:
    """Return a TensorProto attribute as an array."""
    return np.asarray(onnx.numpy_helper.to_array(value))


def _domain(name: str) -> str:
    return ONNX_DOMAIN if name == "ai.onnx" else name


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
