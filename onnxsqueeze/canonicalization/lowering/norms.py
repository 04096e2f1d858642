"""The norms that fused nodes end in, as the standard of a model's opset says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from onnxsqueeze.canonicalization.lowering.parts import Parts
from onnxsqueeze.canonicalization.patterns.scope import Scope

_FUSED_SINCE = {"LayerNormalization": 17, "RMSNormalization": 23}
_MEAN_AXES_AS_INPUT = 18  # the opset in which the axes of ReduceMean became an input
_WIDE: Mapping[int, int] = {
    TensorProto.FLOAT: TensorProto.FLOAT,
    TensorProto.DOUBLE: TensorProto.DOUBLE,
    TensorProto.FLOAT16: TensorProto.FLOAT,
    TensorProto.BFLOAT16: TensorProto.FLOAT,
}
"""By element type, the one in which squares are added up, which would overflow in a half-precision one."""


@dataclass(frozen=True)
class Norm:
    """A norm over the last axis.

    Attributes:
        scale, shift: names; of the shift also where there is none yet, "" where there can be none.
        epsilon: what is added to the variance. kind: the element type (TensorProto.DataType).
        shifted: whether there is a shift.
        centred: whether the mean is subtracted, as LayerNormalization does.
        statistics: names for the mean and the inverse deviation where they are read.
    """

    scale: str
    shift: str
    epsilon: float
    kind: int
    shifted: bool = True
    centred: bool = True
    statistics: Sequence[str] = ()

    @property
    def op(self) -> str:
        """The operator of the standard."""
        return "LayerNormalization" if self.centred else "RMSNormalization"


def add_norm(parts: Parts, data: str, norm: Norm, scope: Scope) -> bool:
    """Add the norm of ``data``, as one operator or, where the opset has none, by its definition.

    Returns:
        Whether that can be written: not the deviation of a root mean square, nor an unknown element type.
    """
    opset = scope.graph.opsets.get("", 0)
    statistics = list(norm.statistics) if any(norm.statistics) else []
    if statistics and not norm.centred:
        return False
    if opset < _FUSED_SINCE[norm.op]:
        if norm.kind not in _WIDE:
            return False
        _spell_out(parts, data, norm, opset)
        return True
    parameters = [norm.scale, norm.shift] if norm.shift else [norm.scale]
    outputs = ["", *statistics] if statistics else []
    parts.add(norm.op, data, *parameters, outputs=outputs, axis=-1, epsilon=norm.epsilon)
    return True


def _spell_out(parts: Parts, data: str, norm: Norm, opset: int) -> None:
    """Write the definition in the nodes that onnxruntime recognises; the statistics have names if they are read."""
    wide = _WIDE[norm.kind]
    dtype = helper.tensor_dtype_to_np_dtype(wide)

    def mean(data: str, name: str = "") -> str:
        if opset < _MEAN_AXES_AS_INPUT:
            return parts.add("ReduceMean", data, outputs=[name], axes=[-1], keepdims=1)
        return parts.add("ReduceMean", data, parts.constant(np.array([-1])), outputs=[name], keepdims=1)

    average, inverse = [*norm.statistics, "", ""][:2]
    if wide != norm.kind:
        data = parts.add("Cast", data, to=wide)
    base = parts.add("Sub", data, mean(data, average)) if norm.centred else data
    squares = parts.add("Pow", base, parts.constant(np.array(2, dtype)))
    inside = parts.add("Add", mean(squares), parts.constant(np.array(norm.epsilon, dtype)))
    root = parts.add("Sqrt", inside)
    if inverse:
        parts.add("Reciprocal", root, outputs=[inverse])
    normed = parts.add("Div", base, root)
    if wide != norm.kind:
        normed = parts.add("Cast", normed, to=norm.kind)
    normed = parts.add("Mul", normed, norm.scale)
    if norm.shifted:
        parts.add("Add", normed, norm.shift)
