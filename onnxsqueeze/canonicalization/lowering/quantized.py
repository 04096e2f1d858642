"""Operators that compute with codes: what they compute in real numbers, between decoding and encoding.

``QLinearConv(x, w, b)`` is a Conv of what x, w and b stand for, encoded again. The codes of its bias count steps of the
product of both scales. ``ConvInteger`` and ``MatMulInteger`` add up whole numbers, those of scales of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxsqueeze.canonicalization.lowering.channels_last import turned, turns_of
from onnxsqueeze.canonicalization.lowering.parts import DOMAIN, Parts
from onnxsqueeze.canonicalization.patterns.scope import Scope
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Node
from onnxsqueeze.model.lowered_node import Lowered, Place

_CODED = 10  # the opset that brought these operators
_MEASURED = 11  # the opset that brought DynamicQuantizeLinear
_PER_CHANNEL = 13  # the opset since which scales may lie along an axis
_ABSENT = -1
_CARRIED = frozenset({"group", "num_heads", "scale"})  # attributes that what computes shares with the whole


class _Coding:
    """Adds nodes that decode and encode, in the domain that knows what they need."""

    def __init__(self, node: Node, parts: Parts, scope: Scope) -> None:
        self._node, self._parts, self._scope = node, parts, scope
        self.implied: list[Place] = []
        self.optional: dict[Place, int] = {}
        self._count = 0
        self._named = False

    def decoded(self, codes: int, scale: int, zero: int, axis: int = 0, turn: Sequence[int] = ()) -> str:
        """Decode an input of the node, its axes turned first; ``scale`` may be absent for 1, ``zero`` for 0."""
        many = any(self._several(position) for position in (scale, zero) if position != _ABSENT)
        if scale != _ABSENT:
            factor = self._parts.slot(scale)
        else:
            factor = self._parts.constant(self._ones(zero) if many else np.float32(1))
            self.implied.append((self._count + bool(turn), 1))
        data = self.turned(self._parts.slot(codes), turn)
        inputs = [data, factor, *([] if zero == _ABSENT else [self._parts.slot(zero)])]
        return self.add("DequantizeLinear", *inputs, axis=axis if many else None)

    def _ones(self, zero: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        value = self._scope.constant(self._node.input(zero))
        return np.ones(1 if value is None else value.shape, np.float32)

    def turned(self, name: str, turn: Sequence[int]) -> str:
        """Move axes, if there is anything to move."""
        self._count += bool(turn)
        return turned(self._parts, name, turn)

    def bias(self, codes: int, scale: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
        """Decode a bias, whose scale follows from others."""
        self.implied.append((self._count, 1))
        axis = 0 if scale.size > 1 else None
        return self.add("DequantizeLinear", self._parts.slot(codes), self._parts.constant(scale), axis=axis)

    def encoded(self, real: str, scale: int, zero: int) -> str:
        """Encode what is computed."""
        zeros = [] if zero == _ABSENT else [self._parts.slot(zero)]
        return self.add("QuantizeLinear", real, self._parts.slot(scale), *zeros, axis=None)

    def add(
        self,
        op: str,
        *inputs: str,
        axis: int | None,
    ) -> str:
        """Add a node that decodes or encodes, along an axis if that is given."""
        opset = self._scope.graph.opsets.get("", 0)
        plain = axis is None or opset >= _PER_CHANNEL
        self._count += 1
        along = [] if axis is None else [helper.make_attribute("axis", axis)]
        return self._parts.add(op, *inputs, domain=ONNX_DOMAIN if plain else DOMAIN, copied=along)

    def core(
        self,
        op: str,
        *inputs: str,
        outputs: Sequence[str] = (),
        copied: Sequence[onnx.AttributeProto] = (),
        domain: str = ONNX_DOMAIN,
    ) -> str:
        """Add the node that computes, the first of which reports call by the name of the whole."""
        self._count += 1
        if not self._named:
            self._parts.name_next()
            self._named = True
        return self._parts.add(op, *inputs, outputs=outputs, copied=copied, domain=domain)

    def may_have(self, place: int, position: int) -> None:
        """Say that the node that was added last may come to read a bias."""
        self.optional[self._count - 1, place] = position

    def _several(self, position: int) -> bool:
        value = self._scope.constant(self._node.input(position))
        return value is not None and value.size > 1

    def lowered(self) -> Lowered:
        """Return the whole."""
        return replace(self._parts.lowered(), implied=tuple(self.implied), optional=self.optional, carried=_CARRIED)


def lower_convolution(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """QLinearConv: x, its scale and zero point, w likewise, those of the output, and a bias."""
    coding = _Coding(node, parts, scope)
    scale, turns = _product(node, scope, (1, 4)), turns_of(node, scope)
    if not _possible(node, scope, (1, 4), (1,)) or (scale is None and node.input(8)) or turns is None:
        return None
    operands = [coding.decoded(0, 1, 2, turn=turns.first), coding.decoded(3, 4, 5)]
    if node.input(8) and scale is not None:
        operands.append(coding.bias(8, scale))
    y = coding.core("Conv", *operands, copied=_without(node, ("channels_last",)))
    coding.may_have(2, 8)
    coding.turned(coding.encoded(y, 6, 7), turns.last)
    return coding.lowered()


def lower_product(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """QLinearMatMul: a, b and the output, each with its scale and zero point."""
    if not _possible(node, scope, (1, 4), (1,)):
        return None
    coding = _Coding(node, parts, scope)
    operands = coding.decoded(0, 1, 2), coding.decoded(3, 4, 5, _last_axis(node, scope, 3))
    coding.encoded(coding.core("MatMul", *operands), 6, 7)
    return coding.lowered()


def lower_gemm(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """QGemm of onnxruntime: A and B with scales and zero points, a bias of int32, and perhaps the output's."""
    alpha = float(node.attributes.get("alpha", 1.0))
    scale = _product(node, scope, (1, 4))
    if not _possible(node, scope, (1, 4), (1,)) or scale is None or not alpha or scope.graph.opsets.get("", 0) < 11:
        return None
    coding = _Coding(node, parts, scope)
    transposed = bool(node.attributes.get("transB", 0))
    operands = [coding.decoded(0, 1, 2), coding.decoded(3, 4, 5, 0 if transposed else 1)]
    if node.input(6):
        operands.append(coding.bias(6, (scale.astype(np.float64) * alpha).astype(np.float32)))
    y = coding.core("Gemm", *operands, copied=node.proto.attribute)
    coding.may_have(2, 6)
    if node.input(7):
        coding.encoded(y, 7, 8)
    return coding.lowered()


def lower_whole_numbers(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """ConvInteger and MatMulInteger: two tensors of codes, and what stands for 0 in each."""
    if not _possible(node, scope, (), (2,)):
        return None
    coding = _Coding(node, parts, scope)
    zeros = [_zero(node, position) for position in (2, 3)]
    axis = 0 if node.op == "ConvInteger" else _last_axis(node, scope, 1)
    operands = coding.decoded(0, _ABSENT, zeros[0]), coding.decoded(1, _ABSENT, zeros[1], axis)
    y = coding.core(node.op.removesuffix("Integer"), *operands, copied=node.proto.attribute)
    coding.core("Cast", y, copied=[helper.make_attribute("to", TensorProto.INT32)])
    return coding.lowered()


def lower_product_to_float(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """MatMulIntegerToFloat: A and B, both scales, both zero points, and a bias of real numbers.

    One with a bias becomes one without and an Add, which is lowered in turn: rows that are put back stand between them.
    """
    if not _possible(node, scope, (3,), (2,)):
        return None
    if node.input(6):
        operands = [parts.slot(place) if node.input(place) else "" for place in range(6)]
        parts.add("Add", parts.add(node.op, *operands, domain=DOMAIN), parts.slot(6))
        return parts.lowered()
    coding = _Coding(node, parts, scope)
    zeros = [_zero(node, position) for position in (4, 5)]
    data = coding.decoded(0, 2, zeros[0])
    coding.core("MatMul", data, coding.decoded(1, 3, zeros[1], _last_axis(node, scope, 1)))
    return coding.lowered()


def lower_dynamic_product(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """DynamicQuantizeMatMul: A in real numbers, which is measured and encoded; B with scale and zero point; a bias.

    It becomes an encoding and a MatMulIntegerToFloat, which is lowered in turn: codes that are left out leave between
    them.
    """
    if not _possible(node, scope, (2,), ()) or scope.graph.opsets.get("", 0) < _MEASURED:
        return None
    codes, scale, zero = (parts.name(ending) for ending in ("codes", "scale", "zero"))
    parts.add("DynamicQuantizeLinear", parts.slot(0), outputs=[codes, scale, zero])
    parts.name_next()
    others = [parts.slot(place) if node.input(place) else "" for place in (3, 4)]
    operands = (codes, parts.slot(1), scale, parts.slot(2), zero, *others)
    parts.add("MatMulIntegerToFloat", *operands, domain=DOMAIN)
    return parts.lowered()


def lower_attention(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """QAttention: Attention of data and weight in codes, whose scales stand behind the bias of real numbers."""
    if not _possible(node, scope, (4,), (6,)):
        return None
    coding = _Coding(node, parts, scope)
    operands = coding.decoded(0, 3, _zero(node, 6)), coding.decoded(1, 4, _zero(node, 7), 1)
    others = [parts.slot(place) if node.input(place) else "" for place in (2, 5, 8)]
    outputs = ["", *node.outputs[1:]]
    coding.core("Attention", *operands, *others, outputs=outputs, copied=node.proto.attribute, domain=DOMAIN)
    return coding.lowered()


def lower_pair(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """QLinearAdd and QLinearMul: A, B and the output, each with its scale and zero point."""
    if not _possible(node, scope, (1, 4), (1, 4)):
        return None
    coding = _Coding(node, parts, scope)
    operands = coding.decoded(0, 1, _zero(node, 2)), coding.decoded(3, 4, _zero(node, 5))
    coding.encoded(coding.core(node.op.removeprefix("QLinear"), *operands), 6, _zero(node, 7))
    return coding.lowered()


def lower_choice(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """QLinearWhere: a condition, X, Y and the output, each with its scale and zero point."""
    if not _possible(node, scope, (2, 5), (2, 3, 5, 6)):
        return None
    coding = _Coding(node, parts, scope)
    operands = coding.decoded(1, 2, 3), coding.decoded(4, 5, 6)
    coding.encoded(coding.core("Where", parts.slot(0), *operands), 7, 8)
    return coding.lowered()


def lower_function(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """A function of one tensor, with its scale and zero point and the output's."""
    turns = turns_of(node, scope)
    if not _possible(node, scope, (1,), (1,)) or turns is None:
        return None
    op, dropped = FUNCTIONS[node.op]
    if op == "Softmax" and int(node.attributes.get("opset", _PER_CHANNEL)) < _PER_CHANNEL:
        return None
    coding = _Coding(node, parts, scope)
    y = coding.core(op, coding.decoded(0, 1, _zero(node, 2), turn=turns.first), copied=_without(node, dropped))
    coding.turned(coding.encoded(y, 3, _zero(node, 4)), turns.last)
    return coding.lowered()


FUNCTIONS: Mapping[str, tuple[str, Sequence[str]]] = {
    "QLinearSigmoid": ("Sigmoid", ()),
    "QLinearLeakyRelu": ("LeakyRelu", ()),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", ("channels_last",)),
    "QLinearAveragePool": ("AveragePool", ("channels_last",)),
    "QLinearSoftmax": ("Softmax", ("opset",)),
}


def lower_concatenation(node: Node, parts: Parts, scope: Scope) -> Lowered | None:
    """QLinearConcat: the output's scale and zero point, then each tensor with its own."""
    count = (len(node.inputs) - 2) // 3
    if not _possible(node, scope, range(3, 3 * count + 2, 3), range(3, 3 * count + 2, 3)):
        return None
    coding = _Coding(node, parts, scope)
    operands = [coding.decoded(place, place + 1, place + 2) for place in range(2, 3 * count + 2, 3)]
    coding.encoded(coding.core("Concat", *operands, copied=node.proto.attribute), 0, 1)
    return coding.lowered()


def _without(node: Node, dropped: Sequence[str]) -> list[onnx.AttributeProto]:
    return [attribute for attribute in node.proto.attribute if attribute.name not in dropped]


def _possible(node: Node, scope: Scope, scales: Sequence[int], single: Sequence[int]) -> bool:
    """Whether the standard can say the same: scales at these inputs are constants, and those of ``single`` numbers."""
    opset = scope.graph.opsets.get("", 0)
    if opset < _CODED or any(scope.constant(node.input(place)) is None for place in scales):
        return False
    values = {place: scope.constant(name) for place, name in enumerate(node.inputs) if name}
    if any((value := values.get(place)) is not None and value.size != 1 for place in single):
        return False
    several = any(value is not None and value.ndim == 1 and value.size > 1 for value in values.values())
    return not several or opset >= _PER_CHANNEL or DOMAIN in scope.graph.opsets


def _product(
    node: Node, scope: Scope, positions: tuple[int, int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    """Return the product of two scales as runtimes compute it; None where one is not known beforehand."""
    one, other = (scope.constant(node.input(position)) for position in positions)
    if one is None or other is None:
        return None
    product = one.astype(np.float32).reshape(-1) * other.astype(np.float32).reshape(-1)
    return product if product.size > 1 else product.reshape(())


def _zero(node: Node, position: int) -> int:
    return position if node.input(position) else _ABSENT


def _last_axis(node: Node, scope: Scope, position: int) -> int:
    """Return the last axis of a constant."""
    value = scope.constant(node.input(position))
    return 1 if value is None else value.ndim - 1
