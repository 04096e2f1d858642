"""Processors on which onnxruntime's products of codes saturate: there, models run with products that do not.

On x86 without VNNI it multiplies uint8 by int8 with an instruction that adds two products in 16 bits. Large sums end at
32,767, so that what a layer computes depends on which channels stand side by side, and a network disagrees with itself
by several percent. Products of uint8 by uint8 take another way. So weights of int8 are run as uint8, 128 higher like
their zero points: the same whole numbers. Data of int8 has no such products, and is computed with in real numbers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import copy_except
from onnxsqueeze.verification.difference import Array

REAL_NUMBERS = "session.disable_quant_qdq"
"""The setting of a session that computes in real numbers what the file says in them, between decoding and encoding."""

_HIGHER = 128
_LARGEST = 128  # sum of two weights of which 255 times each still fit into 16 bits together, whatever its sign


@dataclass(frozen=True)
class _Places:
    """The inputs of an operator that hold its weight, the zero point of that, and the one of its data.

    The last is None where the operator itself measures and encodes its data, as uint8.
    """

    weight: int
    zero: int
    data_zero: int | None = 2


_PRODUCTS = {
    "QLinearConv": _Places(3, 5),
    "QLinearMatMul": _Places(3, 5),
    "QGemm": _Places(3, 5),
    "ConvInteger": _Places(1, 3),
    "MatMulInteger": _Places(1, 3),
    "MatMulIntegerToFloat": _Places(1, 5, data_zero=4),
    "DynamicQuantizeMatMul": _Places(1, 3, data_zero=None),
    "QAttention": _Places(1, 7, data_zero=6),
}
_DECODED = _Places(0, 2)
_FUSED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # that are computed in integers where what they read is decoded
_IN_FRONT = {"Relu", "Clip"}  # of an encoding, of which they become a part


@cache
def saturates() -> bool:
    """Whether products of uint8 and int8 saturate here."""
    import onnxruntime

    data, weight = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    value = helper.make_tensor_value_info("x", TensorProto.UINT8, data.shape)
    result = helper.make_tensor_value_info("y", TensorProto.INT32, None)
    graph = helper.make_graph([node], "product", [value], [result], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": data})
    return bool((found != 64 * 255 * 127).any())


def has_codes(skeleton: ModelProto) -> bool:
    """Whether a model decodes anything, or multiplies codes."""
    return any(node.op_type == "DequantizeLinear" or node.op_type in _PRODUCTS for node in skeleton.graph.node)


def encodes_signed(model: Model) -> bool:
    """Whether a model encodes anything as int8."""
    nodes = (node for node in model.skeleton.graph.node if node.op_type == "QuantizeLinear")
    zeros = (model.initializers.get(_input(node, 2)) for node in nodes)
    return any(zero is not None and zero.header.data_type == TensorProto.INT8 for zero in zeros)


def unsigned(model: Model) -> Model:
    """Return a model that multiplies by weights of uint8 where it did by int8, with the same whole numbers.

    Operators on data of int8 stay as they are: there are none that multiply those by uint8.
    """
    graph = model.skeleton.graph
    reading, initializers = _Reading(model), dict(model.initializers)
    nodes = [_raised(node, places, initializers) if (places := reading.places(node)) else node for node in graph.node]
    if len(initializers) == len(model.initializers):
        return model
    skeleton = copy_except(model.skeleton, "graph")
    skeleton.graph.CopyFrom(copy_except(graph, "node"))
    skeleton.graph.node.extend(nodes)
    return replace(model, skeleton=skeleton, initializers=initializers)


def saturating(model: Model) -> tuple[str, ...]:
    """Return the layers in which sums of two products may not fit into 16 bits, by name.

    Data is of uint8, or of int8 that onnxruntime makes uint8 on x86. Which two products it adds is its own choice, so
    that any two weights of a row count.
    """
    reading = _Reading(model)
    nodes = model.skeleton.graph.node
    return tuple(node.name or node.output[0] for node in nodes if _exceeds(node, reading.multiplied(node)))


def _exceeds(node: NodeProto, weight: Array | None) -> bool:
    """Whether two weights that are summed over are too large together."""
    if weight is None or weight.ndim < 2 or not weight.size:
        return False
    axes: tuple[int, ...] = (-2,)
    if "Conv" in node.op_type:
        axes = tuple(range(1, weight.ndim))
    elif any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
        axes = (-1,)
    most, least = (found(axis=axes, keepdims=True).astype(np.int16) for found in (weight.max, weight.min))
    half = _LARGEST // 2
    above = weight >= np.where(most > half, _LARGEST + 1 - most, _LARGEST).clip(max=127).astype(np.int8)
    below = weight <= np.where(least < -half, -_LARGEST - 1 - least, -_LARGEST).astype(np.int8)
    return any(bool((np.count_nonzero(each, axis=axes) > 1).any()) for each in (above, below))


class _Reading:
    """Who reads what in a graph, and which zero points are uint8."""

    def __init__(self, model: Model) -> None:
        nodes = model.skeleton.graph.node
        self._initializers = model.initializers
        self._makers = {name: node for node in nodes for name in node.output}
        self._types = {name: each.header.data_type for name, each in model.initializers.items()}
        self._measured = {node.output[2] for node in nodes if node.op_type == "DynamicQuantizeLinear"}
        self._readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        for node in nodes:
            for place, name in enumerate(node.input):
                self._readers[name].append((node, place))

    def places(self, node: NodeProto) -> _Places | None:
        """Return where a node has a weight of int8 that may as well be uint8; None where it has none."""
        places = _PRODUCTS.get(node.op_type) or (_DECODED if self._decodes_weight(node) else None)
        if places is None or self._types.get(node.input[places.weight]) != TensorProto.INT8:
            return None
        zero = _input(node, places.zero)
        known = not zero or zero in self._types
        return places if known and (places is _DECODED or self._reads_unsigned(node, places)) else None

    def multiplied(self, node: NodeProto) -> Array | None:
        """Return the weight of int8 by which a node multiplies data of uint8 in integers; None if it does not."""
        places = self.places(node) if node.op_type in _PRODUCTS else None
        if places is not None:
            return self._initializers[node.input[places.weight]].array
        weight = self._makers.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if weight is None or weight.op_type != "DequantizeLinear" or not self._codes(node.input[0]):
            return None
        if node.op_type == "Conv" and not self._is_encoded(node.output[0]):
            return None
        return (
            self._initializers[weight.input[0]].array if self._types.get(weight.input[0]) == TensorProto.INT8 else None
        )

    def _codes(self, name: str) -> bool:
        """Whether a tensor is decoded from uint8, or from int8 right behind its encoding."""
        decoder = self._makers.get(name)
        if decoder is None or decoder.op_type != "DequantizeLinear" or decoder.input[1] not in self._types:
            return False
        encoder, zero = self._makers.get(decoder.input[0]), _input(decoder, 2)
        encoded = encoder is not None and encoder.op_type == "QuantizeLinear"
        kind = self._types.get(zero) if zero or not encoded else TensorProto.UINT8
        alone = encoded and len(self._readers[decoder.input[0]]) == 1
        return kind == TensorProto.UINT8 or (kind == TensorProto.INT8 and alone)

    def _is_encoded(self, name: str) -> bool:
        """Whether a tensor is encoded, behind an activation at most."""
        readers = [node for node, _ in self._readers[name]]
        readers += [node for each in readers if each.op_type in _IN_FRONT for node, _ in self._readers[each.output[0]]]
        return any(node.op_type == "QuantizeLinear" for node in readers)

    def _decodes_weight(self, node: NodeProto) -> bool:
        readers = self._readers[node.output[0]] if node.op_type == "DequantizeLinear" else []
        return bool(readers) and all(node.op_type in _FUSED and place == 1 for node, place in readers)

    def _reads_unsigned(self, node: NodeProto, places: _Places) -> bool:
        if places.data_zero is None:
            return True
        zero = _input(node, places.data_zero)
        return self._types.get(zero) == TensorProto.UINT8 or zero in self._measured


def _raised(node: NodeProto, places: _Places, initializers: dict[str, Initializer]) -> NodeProto:
    """Return a node with weight and zero point of uint8, which are stored under names of their own."""
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.input.extend([""] * (places.zero + 1 - len(changed.input)))
    scales = initializers.get(node.input[1]) if places is _DECODED else None
    none = np.zeros(() if scales is None else scales.shape, np.int8)
    for place in (places.weight, places.zero):
        array = initializers[given].array if (given := changed.input[place]) else none
        name = f"{node.output[0]}.{place}.unsigned"
        initializers[name] = Initializer.from_array(name, (array.astype(np.int16) + _HIGHER).astype(np.uint8))
        changed.input[place] = name
    return changed


def _input(node: NodeProto, place: int) -> str:
    return node.input[place] if place < len(node.input) else ""
