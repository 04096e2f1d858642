"""Products of codes in a file: operators that compute with them, and layers that read and write decoded ones.

On x86 without VNNI onnxruntime multiplies uint8 by int8 with an instruction that adds two products in 16 bits. Large
sums end at 32,767.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from onnxsqueeze.model.model import Model

Array = npt.NDArray[Any]

_LARGEST = 128  # sum of two weights of which 255 times each still fit into 16 bits together, whatever its sign


@dataclass(frozen=True)
class Places:
    """The inputs of an operator that hold its weight, the zero point of that, and the one of its data.

    The last is None where the operator itself measures and encodes its data, as uint8.
    """

    weight: int
    zero: int
    data_zero: int | None = 2


PRODUCTS = {
    "QLinearConv": Places(3, 5),
    "QLinearMatMul": Places(3, 5),
    "QGemm": Places(3, 5),
    "ConvInteger": Places(1, 3),
    "MatMulInteger": Places(1, 3),
    "MatMulIntegerToFloat": Places(1, 5, data_zero=4),
    "DynamicQuantizeMatMul": Places(1, 3, data_zero=None),
    "QAttention": Places(1, 7, data_zero=6),
}
DECODED = Places(0, 2)
_FUSED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # that are computed in integers where what they read is decoded
_IN_FRONT = {"Relu", "Clip"}  # of an encoding, of which they become a part


def saturating(model: Model) -> tuple[str, ...]:
    """Return the layers in which sums of two products may not fit into 16 bits, by name.

    Data is of uint8, or of int8 that onnxruntime makes uint8 on x86. Which two products it adds is its own choice, so
    that any two weights of a row count.
    """
    reading = Reading(model)
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


class Reading:
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

    def places(self, node: NodeProto) -> Places | None:
        """Return where a node has a weight of int8 that may as well be uint8; None where it has none."""
        places = PRODUCTS.get(node.op_type) or (DECODED if self._decodes_weight(node) else None)
        if places is None or self._types.get(node.input[places.weight]) != TensorProto.INT8:
            return None
        zero = input_at(node, places.zero)
        known = not zero or zero in self._types
        return places if known and (places is DECODED or self._reads_unsigned(node, places)) else None

    def multiplied(self, node: NodeProto) -> Array | None:
        """Return the weight of int8 by which a node multiplies data of uint8 in integers; None if it does not."""
        places = self.places(node) if node.op_type in PRODUCTS else None
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
        encoder, zero = self._makers.get(decoder.input[0]), input_at(decoder, 2)
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

    def _reads_unsigned(self, node: NodeProto, places: Places) -> bool:
        if places.data_zero is None:
            return True
        zero = input_at(node, places.data_zero)
        return self._types.get(zero) == TensorProto.UINT8 or zero in self._measured


def input_at(node: NodeProto, place: int) -> str:
    """Return what a node reads at a place, "" for nothing."""
    return node.input[place] if place < len(node.input) else ""
