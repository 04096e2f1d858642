"""Gemm with the weight on either side, transposed or not, and MatMul with a constant on either side."""

from __future__ import annotations

import numpy as np

from onnxsqueeze.graph import Node
from onnxsqueeze.linear import Linear, constant_weight, linear_rule
from onnxsqueeze.reason import Reason
from onnxsqueeze.rule import Array, Context, Refusal, register


def _swap(array: Array) -> Array:
    return np.asarray(array[0, :, :, 0].T)


def _same(array: Array) -> Array:
    return array[0, :, :, 0]


def _gemm(node: Node, context: Context) -> Linear | Refusal:
    """Y = alpha A' B' + beta C."""
    left = context.value(node.inputs[0]) is not None
    weight = constant_weight(node, context, 0 if left else 1)
    if isinstance(weight, Refusal):
        return weight
    transposed = [bool(node.attributes.get(name, 0)) for name in ("transA", "transB")]
    if left and node.input(2):
        return Refusal(Reason.CONSTANT_READ, f"{node.operator} with the weight as A and a bias along the other axis")
    out_first = transposed[1] if not left else not transposed[0]
    return Linear(
        data=node.inputs[1 if left else 0],
        weight=node.inputs[0 if left else 1],
        bias=node.input(2),
        position=0 if left else 1,
        data_axis=int(transposed[1]) if left else int(not transposed[0]),
        output_axis=0 if left else 1,
        matrix=(weight if out_first else weight.T)[None, :, :, None],
        bordered=False,
        restore=_same if out_first else _swap,
        scale=float(node.attributes.get("alpha", 1.0)),
        bias_scale=float(node.attributes.get("beta", 1.0)),
        bias_position=-1 if left else 2,
    )


def _matmul(node: Node, context: Context) -> Linear | Refusal:
    """numpy.matmul with a constant matrix on one side."""
    left = context.value(node.inputs[0]) is not None
    weight = constant_weight(node, context, 0 if left else 1)
    if isinstance(weight, Refusal):
        return weight
    data, output = node.inputs[1 if left else 0], node.outputs[0]
    if weight.ndim != 2 or context.rank(data) == 0:
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} with a constant of rank {weight.ndim}")
    vector = context.rank(data) == 1
    from_end = 2 if left and not vector else 1
    return Linear(
        data=data,
        weight=node.inputs[0 if left else 1],
        bias="",
        bias_position=-1,
        position=0 if left else 1,
        data_axis=context.rank(data) - from_end,
        output_axis=context.rank(output) - from_end,
        matrix=(weight if left else weight.T)[None, :, :, None],
        bordered=False,
        restore=_same if left else _swap,
    )


register(linear_rule("Gemm", _gemm), linear_rule("MatMul", _matmul))
