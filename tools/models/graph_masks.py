"""Masks for models that somebody else exported: rows of every layer of an ONNX file, wherever its weight is stored.

Weights in initializers and Constant nodes are found, also in the bodies of If, Loop and Scan and in functions, and
behind what stores them in another form (Cast, Transpose, Identity, a scale, DequantizeLinear). Of operators on codes
those with a measured scale are masked (MatMulInteger, ConvInteger, DynamicQuantizeLSTM), at their zero points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

Chooser = Callable[[int], Any]
"""Which of so many rows become zeros, bool[rows]."""

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "DynamicQuantizeLSTM": 4}
_POINTS = {"MatMulInteger": 3, "ConvInteger": 3}  # where the zero point of the weights is
_BIAS_FORMS = ("Reshape", "Cast", "Floor", "Div")  # such as encode a bias by the measured scale
_ON_THE_WAY = ("Identity", "Cast", "DequantizeLinear", "Mul")


@dataclass
class _Scope:
    """What a name means in one graph: its constants, its nodes, and those of the graphs around it."""

    tensors: dict[str, TensorProto]
    producers: dict[str, NodeProto]
    readers: dict[str, list[NodeProto]] = field(default_factory=dict)


def masked(model: ModelProto, choose: Chooser, biases: bool) -> tuple[ModelProto, int]:
    """Return a copy of a model in which rows of each layer are zeros, and the number of layers.

    Args:
        model: the model; its data must be in it.
        choose: is asked for each layer once which of its rows go.
        biases: whether what is added to those rows right behind the weight goes too.
    """
    result = ModelProto()
    result.CopyFrom(model)
    touched: set[int] = set()
    for node, scope in _nodes(result):
        _mask_layer(node, scope, choose, biases, touched)
    return result, len(touched)


def halves(seed: int) -> Chooser:
    """Half of the rows at random, others for each layer."""
    random = np.random.default_rng(seed)
    return lambda rows: random.permutation(rows) < rows // 2


def last_half(rows: int) -> Any:
    """All rows behind the first half: layers of one width lose the same ones."""
    return np.arange(rows) >= rows - rows // 2


def _nodes(model: ModelProto) -> Iterator[tuple[NodeProto, _Scope]]:
    yield from _in_graph(model.graph, _Scope({}, {}))
    for function in model.functions:
        yield from _in_nodes(function.node, _scope(function.node, (), _Scope({}, {})))


def _in_graph(graph: GraphProto, outer: _Scope) -> Iterator[tuple[NodeProto, _Scope]]:
    yield from _in_nodes(graph.node, _scope(graph.node, graph.initializer, outer))


def _in_nodes(nodes: Any, scope: _Scope) -> Iterator[tuple[NodeProto, _Scope]]:
    for node in nodes:
        yield node, scope
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from _in_graph(graph, scope)


def _scope(nodes: Any, initializers: Any, outer: _Scope) -> _Scope:
    scope = _Scope(dict(outer.tensors), dict(outer.producers))
    scope.tensors.update({tensor.name: tensor for tensor in initializers})
    for node in nodes:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            scope.tensors[node.output[0]] = node.attribute[0].t
        for name in node.output:
            scope.producers[name] = node
        for name in node.input:
            scope.readers.setdefault(name, []).append(node)
    return scope


def _attributes(node: NodeProto) -> Mapping[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def _stored(scope: _Scope, name: str, axis: int) -> tuple[TensorProto, int, float] | None:
    """Return the tensor that a constant comes from, the axis that one of its axes is there, and what stands for 0."""
    zero = 0.0
    while name not in scope.tensors:
        node = scope.producers.get(name)
        if node is None or not node.input:
            return None
        if node.op_type == "Transpose":
            axis = list(_attributes(node)["perm"])[axis]
        elif node.op_type not in _ON_THE_WAY:
            return None
        elif node.op_type == "DequantizeLinear" and len(node.input) > 2:  # noqa: PLR2004
            point = _point(scope, node.input[2])
            if point is None:
                return None
            zero = point
        name = node.input[0]
    return scope.tensors[name], axis, zero


def _point(scope: _Scope, name: str) -> float | None:
    """Return the one zero point of a weight, None where there are several or it is computed."""
    if not name:
        return 0.0
    values = numpy_helper.to_array(scope.tensors[name]).ravel() if name in scope.tensors else np.arange(2)
    return float(values[0]) if (values == values[0]).all() else None


def _mask_layer(node: NodeProto, scope: _Scope, choose: Chooser, biases: bool, touched: set[int]) -> None:
    attributes, op = _attributes(node), node.op_type
    if op in _GATES:
        _mask_recurrent(node, scope, choose, biases, touched)
        return
    places = {
        "Conv": [(1, 0)],
        "ConvTranspose": [(1, 1)],
        "FusedConv": [(1, 0)],
        "Gemm": [(1, 0 if attributes.get("transB") else 1)],
        "MatMul": [(1, -1), (0, -2)],
        "MatMulInteger": [(1, -1)],
        "ConvInteger": [(1, 0)],
    }.get(op, [])
    point = _point(scope, "".join(node.input[_POINTS[op] :][:1])) if op in _POINTS else 0.0
    if point is None:
        return
    for position, axis in places:
        if op == "ConvTranspose" and attributes.get("group", 1) > 1:
            continue
        rows = _mask_rows(scope, node.input[position], axis, choose, touched, point)
        if rows is not None and biases:
            if position == 1 and op not in _POINTS and len(node.input) > 2 and node.input[2]:  # noqa: PLR2004
                _mask_vector(scope, node.input[2], rows)
            _mask_behind(node.output[0], scope, rows)
        if rows is not None:
            return


def _mask_rows(scope: _Scope, name: str, axis: int, choose: Chooser, touched: set[int], point: float) -> Any:
    """Set the chosen rows of a weight to zero, or its zero point; None for what is no weight of this kind."""
    rank = _rank(scope, name)
    found = _stored(scope, name, axis % rank) if rank > 1 else None
    if found is None or id(found[0]) in touched:
        return None
    tensor, along, zero = found
    array = numpy_helper.to_array(tensor).copy()
    if not 0 <= along < array.ndim or array.shape[along] < 2:  # noqa: PLR2004
        return None
    gone = choose(array.shape[along])
    np.moveaxis(array, along, 0)[gone] = zero or point
    _write(tensor, array)
    touched.add(id(tensor))
    return gone


def _rank(scope: _Scope, name: str) -> int:
    """Return the rank of a constant, 0 for what is none: nothing on the way to it changes that."""
    found = _stored(scope, name, 0) if name in scope.tensors or name in scope.producers else None
    return len(found[0].dims) if found else 0


def _write(tensor: TensorProto, array: Any) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _mask_vector(scope: _Scope, name: str, gone: Any, fill: float = 0.0) -> None:
    """Set entries of a constant that has one for each row, along whichever axis."""
    while name in scope.producers and scope.producers[name].op_type in _BIAS_FORMS:
        name = scope.producers[name].input[0]
    found = _stored(scope, name, 0)
    if found is None:
        return
    array = numpy_helper.to_array(found[0]).copy()
    if array.size != gone.size:
        return
    array.reshape(-1)[gone] = fill
    _write(found[0], array)


def _mask_behind(name: str, scope: _Scope, gone: Any) -> None:
    """Set what is added to those rows right behind a layer to zero: an Add, or a BatchNormalization."""
    for reader in scope.readers.get(name, ()):
        if reader.op_type == "Add":
            for other in reader.input:
                if other != name:
                    _mask_vector(scope, other, gone)
        elif reader.op_type == "BatchNormalization":
            for position in (2, 3):
                _mask_vector(scope, reader.input[position], gone)
        elif reader.op_type == "Cast" or (reader.op_type == "Mul" and _of_codes(scope, name)):
            _mask_behind(reader.output[0], scope, gone)


def _of_codes(scope: _Scope, name: str) -> bool:
    """Return whether a tensor is a sum of products of codes, which a Cast and a scale turn into real numbers."""
    node = scope.producers[name]
    return node.op_type in _POINTS or (node.op_type == "Cast" and _of_codes(scope, node.input[0]))


def _mask_recurrent(node: NodeProto, scope: _Scope, choose: Chooser, biases: bool, touched: set[int]) -> None:
    """Set what the chosen units of a recurrent layer read to zero, in all gates."""
    gates, gone = _GATES[node.op_type], None
    along = 2 if node.op_type == "DynamicQuantizeLSTM" else 1  # of its weights, which stand transposed there
    for position, points in ((1, 9), (2, 11)):
        found = _stored(scope, node.input[position], along)
        point = _point(scope, "".join(node.input[points:][:1])) if along > 1 else 0.0
        if found is None or point is None or id(found[0]) in touched:
            return
        array = numpy_helper.to_array(found[0]).copy()
        gone = choose(array.shape[along] // gates) if gone is None else gone
        rows = np.moveaxis(array, along, 1)
        rows[:, np.tile(gone, gates)] = point
        _write(found[0], array)
        touched.add(id(found[0]))
    if biases and len(node.input) > 3 and node.input[3]:  # noqa: PLR2004
        found = _stored(scope, node.input[3], 1)
        if found is not None:
            array = numpy_helper.to_array(found[0]).copy()
            array.reshape(len(array), 2 * gates, -1)[:, :, gone] = 0
            _write(found[0], array)
