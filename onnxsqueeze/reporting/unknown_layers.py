"""Rows for layers whose operator has no rule, or whose rule does not apply: what they hold is told all the same.

They are nodes of the main graph (function calls among them), and all nodes inside of the graphs in attributes (the
branches of If, the bodies of Loop and Scan). Of such a node it is known only which stored constants it reads. One that
is longer than 1 along two axes counts as a weight, as it would in most operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx.numpy_helper
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto

from onnxsqueeze.abstract.compact import Array, any_along
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.model.counting import holds_weights
from onnxsqueeze.model.initializer import element_bits
from onnxsqueeze.model.walk import subgraphs
from onnxsqueeze.rules.contract import UNKNOWN, OpRule, Refusal

_CODES = (TensorProto.INT8, TensorProto.UINT8)
_ZERO_POINT = 2  # inputs behind a quantized constant, wherever onnx and onnxruntime have one: x, scale, zero point


@dataclass(frozen=True)
class Stored:
    """A stored constant: its shape, its type, and its elements when they are asked for."""

    shape: tuple[int, ...]
    data_type: int
    read: Callable[[], Array]

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight with rows and columns."""
        return holds_weights(self.data_type) and sum(length > 1 for length in self.shape) > 1


Scope = dict[str, Stored]
"""By name, what follows from stored constants alone: the largest constant that it follows from."""


@dataclass(frozen=True)
class Held:
    """What a node without a rule holds.

    Attributes:
        index: of the node of the main graph that it is or lies in. name, operator, output: the node.
        shape: of its first weight. elements, zeros: of all of its weights; elements of its biases too.
        biases: elements of other constants.
        empty_rows: positions along the axes of weights at which all elements are zeros.
        refusal: why no rule is followed, in words' parts.
        dtype: of its first weight. nbytes: what its weights take.
    """

    index: int
    name: str
    operator: str
    output: str
    shape: tuple[int, ...]
    elements: int
    zeros: int
    biases: int
    empty_rows: int
    refusal: Refusal
    dtype: str
    nbytes: int


def unknown_layers(analysis: Analysis, *, inside: bool = True) -> Iterator[Held]:
    """Yield what nodes hold that no rule is followed for, in the graph's order, unless no output depends on them.

    Nodes in graphs that others hold are left out unless ``inside``.
    """
    scope, context = _outermost(analysis), analysis.context
    functions = {(function.domain, function.name): function for function in analysis.graph.model.skeleton.functions}
    for node, rule in zip(analysis.graph.nodes, analysis.rules, strict=True):
        if not any(context.is_activation(name) for name in node.outputs if name):
            continue
        if inside:
            yield from _inside(node, scope)
        refusal = _refusal(analysis, node, rule, scope)
        within = functions.get((node.domain, node.op)) if rule is UNKNOWN else None
        if refusal is None or (within is None and all(name in scope for name in node.inputs if name)):
            continue  # followed by its rule, or it makes one constant of others
        kernels = list(_matrices(scope, node.inputs))
        kernels += [] if within is None else [(stored, 0) for stored in _constants_of(within.node, functions)]
        if kernels:
            output = next((name for name in node.outputs if name), "")
            yield _held(node.index, node.label, node.operator, output, kernels, _others(scope, node.inputs), refusal)


def _refusal(analysis: Analysis, node: Node, rule: OpRule, scope: Scope) -> Refusal | None:
    """Return why a node's weights are not sliced; None where its rule sees them."""
    context = analysis.context
    if rule is UNKNOWN:
        return context.refusals.get(node.index) or Refusal(Reason.UNKNOWN_OPERATOR, node.operator)
    computed = any(name in scope and context.is_activation(name) for name in node.inputs)
    return analysis.of_callers(node, Refusal(Reason.COMPUTED_WEIGHT, node.operator)) if computed else None


def matrices_hold_zeros(analysis: Analysis) -> bool:
    """Whether any stored constant with rows and columns has a zero in it, whoever reads it."""
    return any(stored.is_matrix and not np.all(stored.read()) for stored in _outermost(analysis).values())


def _inside(node: Node, scope: Scope) -> Iterator[Held]:
    for graph in node.bodies:
        refusal = Refusal(Reason.INSIDE, node.operator)
        for label, inner, here in _nested(graph, node.label, scope):
            kernels = list(_matrices(here, inner.input))
            if kernels and not _all_stored(here, inner.input):
                operator = f"{inner.domain}.{inner.op_type}" if inner.domain else inner.op_type
                output = next((name for name in inner.output if name), "")
                yield _held(node.index, label, operator, output, kernels, _others(here, inner.input), refusal)


def _nested(graph: GraphProto, path: str, outer: Scope) -> Iterator[tuple[str, NodeProto, Scope]]:
    """Yield the nodes of a graph inside of another one, and of those inside of it, with what they see."""
    given = {value.name for value in graph.input}
    scope: Scope = {name: stored for name, stored in outer.items() if name not in given}
    scope.update({tensor.name: _of(tensor) for tensor in graph.initializer})
    scope.update({tensor.values.name: _of_sparse(tensor) for tensor in graph.sparse_initializer})
    for index, node in enumerate(graph.node):
        label = f"{path}/{node.name or next(iter(node.output), f'#{index}')}"
        yield label, node, scope
        for inner in subgraphs(node):
            yield from _nested(inner, label, scope)
        _follow(scope, node.input, node.output, node)


def _outermost(analysis: Analysis) -> Scope:
    """Return what follows from constants in the main graph, and from initializers that callers may replace."""
    replaceable = {name: analysis.graph.model.initializers[name] for name in analysis.graph.overridable}
    initializers = {**analysis.graph.initializers, **replaceable}
    scope: Scope = {
        name: Stored(value.shape, value.header.data_type, lambda value=value: value.array)  # type: ignore[misc]
        for name, value in initializers.items()
        if value.is_numeric
    }
    scope.update({tensor.values.name: _of_sparse(tensor) for tensor in analysis.graph.proto.sparse_initializer})
    for node in analysis.graph.nodes:
        _follow(scope, node.inputs, node.outputs, node.proto)
    return scope


def _follow(scope: Scope, inputs: Iterable[str], outputs: Iterable[str], node: NodeProto) -> None:
    """Note what a node makes of stored constants alone, or holds itself."""
    names = [name for name in inputs if name]
    found = [scope[name] for name in names if name in scope]
    held = [attribute.t for attribute in node.attribute if attribute.type == AttributeProto.TENSOR]
    if not names and len(held) == 1:
        found = [_of(held[0])]
    elif not names or len(found) < len(names) or any(True for _ in subgraphs(node)):
        return
    largest = max(found, key=lambda stored: prod(stored.shape))
    scope.update({name: largest for name in outputs if name})


def _constants_of(
    nodes: Iterable[NodeProto], functions: dict[tuple[str, str], FunctionProto], depth: int = 8
) -> Iterator[Stored]:
    """Yield the weights that lie in a function's body, and in those that it calls."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR and (stored := _of(attribute.t)).is_matrix:
                yield stored
        for graph in subgraphs(node):
            yield from (stored for tensor in graph.initializer if (stored := _of(tensor)).is_matrix)
            yield from _constants_of(graph.node, functions, depth)
        if (called := functions.get((node.domain, node.op_type))) is not None and depth:
            yield from _constants_of(called.node, functions, depth - 1)


def _of(tensor: TensorProto) -> Stored:
    return Stored(tuple(tensor.dims), tensor.data_type, lambda: np.asarray(onnx.numpy_helper.to_array(tensor)))


def _of_sparse(tensor: SparseTensorProto) -> Stored:
    return Stored(tuple(tensor.dims), tensor.values.data_type, lambda: _dense(tensor))


def _dense(tensor: SparseTensorProto) -> Array:
    """Return a sparse tensor with its zeros; places are given as one number each, or as one along each axis."""
    values = np.asarray(onnx.numpy_helper.to_array(tensor.values))
    places = np.asarray(onnx.numpy_helper.to_array(tensor.indices))
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if places.ndim == 1:
        dense.reshape(-1)[places] = values
    else:
        dense[tuple(places.T)] = values
    return dense


def _matrices(scope: Scope, inputs: Iterable[str]) -> Iterator[tuple[Stored, int]]:
    """Yield the weights among a node's inputs, each with the codes that stand for zero."""
    names = list(inputs)
    for position, name in enumerate(names):
        if name in scope and scope[name].is_matrix:
            behind = names[position + _ZERO_POINT] if position + _ZERO_POINT < len(names) else ""
            yield scope[name], _zero(scope[name], scope.get(behind))


def _zero(stored: Stored, point: Stored | None) -> int:
    is_point = point is not None and point.data_type == stored.data_type and prod(point.shape) == 1
    quantized = is_point and stored.data_type in _CODES
    return int(point.read().ravel()[0]) if quantized and point is not None else 0


def _others(scope: Scope, inputs: Iterable[str]) -> int:
    """Return how many elements the vectors hold among a node's inputs."""
    stored = [scope[name] for name in inputs if name in scope]
    vectors = [each for each in stored if not each.is_matrix and holds_weights(each.data_type)]
    return sum(prod(each.shape) for each in vectors if each.data_type not in _CODES)


def _all_stored(scope: Scope, inputs: Iterable[str]) -> bool:
    """Whether a node has no data to multiply: it makes one constant of others."""
    return all(name in scope for name in inputs if name)


def _held(
    index: int,
    name: str,
    operator: str,
    output: str,
    kernels: list[tuple[Stored, int]],
    biases: int,
    refusal: Refusal,
) -> Held:
    values = [stored.read() for stored, _ in kernels]
    used = [value != zero for value, (_, zero) in zip(values, kernels, strict=True)]
    elements = sum(mask.size for mask in used)
    zeros = elements - sum(int(np.count_nonzero(mask)) for mask in used)
    empty = sum(_empty_rows(mask) for mask in used)
    nbytes = sum(-(-value.size * element_bits(value.dtype) // 8) for value in values)
    shape, dtype = kernels[0][0].shape, values[0].dtype.name
    return Held(index, name, operator, output, shape, elements, zeros, biases, empty, refusal, dtype, nbytes)


def _empty_rows(used: Array) -> int:
    """Return at how many positions along the axes of an array, one longer axis after the other, nothing is used."""
    axes = [axis for axis, length in enumerate(used.shape) if length > 1]
    rest = [tuple(other for other in range(used.ndim) if other != axis) for axis in axes]
    return sum(int(np.count_nonzero(~any_along(used, others))) for others in rest)
