"""Gemm with the weight on either side, transposed or not, and MatMul of a matrix or of two activations."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.operators.linear.contraction import Contraction, contraction_rule
from onnxsqueeze.operators.linear.rule import linear_rule
from onnxsqueeze.operators.linear.view import constant_weight, linear_view
from onnxsqueeze.rules.contract import Context, OpRule, Refusal, ScoreRows
from onnxsqueeze.rules.kept import Kept
from onnxsqueeze.rules.passing import of_operands
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.weight_view import Linear
from onnxsqueeze.shapes.reader_hints import stored_length


def _swap(array: Array) -> Array:
    return np.asarray(array[0, :, :, 0].T)


def _same(array: Array) -> Array:
    return array[0, :, :, 0]


@linear_view
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
        zero_padded=False,
        restore=_same if out_first else _swap,
        scale=float(node.attributes.get("alpha", 1.0)),
        bias_scale=float(node.attributes.get("beta", 1.0)),
        bias_position=-1 if left else 2,
    )


@linear_view
def _matmul(node: Node, context: Context) -> Linear | Refusal:
    """numpy.matmul with a constant matrix on one side; axes of length 1 before a matrix mean nothing."""
    left = context.value(node.inputs[0]) is not None
    weight = constant_weight(node, context, 0 if left else 1)
    if isinstance(weight, Refusal):
        return weight
    data, output = node.inputs[1 if left else 0], node.outputs[0]
    leading = weight.shape[:-2]
    if weight.ndim < 2 or context.rank(data) == 0 or any(length != 1 for length in leading):
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.operator} with a constant of rank {weight.ndim}")
    matrix = weight.reshape(weight.shape[-2:])
    vector = context.rank(data) == 1
    from_end = 2 if left and not vector else 1

    def restore(array: Array) -> Array:
        inner = _same(array) if left else _swap(array)
        return inner.reshape(leading + inner.shape)

    return Linear(
        data=data,
        weight=node.inputs[0 if left else 1],
        bias="",
        bias_position=-1,
        position=0 if left else 1,
        data_axis=context.rank(data) - from_end,
        output_axis=context.rank(output) - from_end,
        matrix=(matrix if left else matrix.T)[None, :, :, None],
        zero_padded=False,
        restore=restore,
    )


def _axes(node: Node, context: Context) -> Contraction | Refusal:
    """Name the axes that numpy.matmul pairs; a vector has neither rows nor columns."""
    left, right = (context.rank(name) for name in node.inputs)
    if left == 0 or right == 0:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    batch = string.ascii_lowercase[: max(left, right, 2) - 2]
    rows, columns = "M" * (left > 1), "N" * (right > 1)
    return Contraction(
        batch[len(batch) - max(left - 2, 0) :] + rows + "K",
        batch[len(batch) - max(right - 2, 0) :] + "K" + columns,
        batch + rows + columns,
    )


def _matmul_value(node: Node, inputs: Sequence[Any]) -> Sequence[Array]:
    left, right = inputs
    wide = np.float64 if left.dtype.kind in "fV" else left.dtype
    return [np.asarray(np.matmul(left.astype(wide), right.astype(wide))).astype(left.dtype)]


def _matmul_sliced(node: Node, context: Context, kept: Kept) -> Sequence[Kept | None] | None:
    """The rows of the left matrix make those of the product, the columns of the right one its columns."""
    if any(context.rank(name) < 2 for name in node.inputs):
        return None
    left, right = of_operands(node, context, kept) or (None, None)
    assert left is not None and right is not None
    return [(*left[:-2], kept[-2], None), (*right[:-2], None, kept[-1])]


def _gemm_sliced(node: Node, context: Context, kept: Kept) -> Sequence[Kept | None] | None:
    transposed = [bool(node.attributes.get(name, 0)) for name in ("transA", "transB")]
    left, right = (kept[0], None), (None, kept[1])
    found: list[Kept | None] = [left[::-1] if transposed[0] else left, right[::-1] if transposed[1] else right]
    return [*found, *(of_operands(node, context, kept) or ())[2:]]


_BY_MATRIX = linear_rule("MatMul", _matmul, beside=True)
_OF_TENSORS = contraction_rule("MatMul", _axes)


def _choose(node: Node, context: Context) -> OpRule:
    """A weight that is a matrix is read as such; one that cannot be used is refused for what it is."""
    found = _matmul(node, context)
    matrix = isinstance(found, Linear) or found.reason not in (Reason.COMPUTED_WEIGHT, Reason.UNKNOWN_SHAPE)
    return _BY_MATRIX if matrix else _OF_TENSORS


def _matmul_expects(node: Node, graph: Graph, position: int, rank: int) -> int | None:
    return stored_length(graph, node.inputs[1], 0) if position == 0 else None


def _gemm_expects(node: Node, graph: Graph, position: int, rank: int) -> int | None:
    if position or node.attributes.get("transA", 0):
        return None
    return stored_length(graph, node.inputs[1], int(bool(node.attributes.get("transB", 0))))


def _gemm_bias(node: Node, context: Context) -> Array | None:
    return context.value(node.input(2)) if node.version >= _BIAS_OPTIONAL else None


_BIAS_OPTIONAL = 11  # the opset version since which a Gemm may do without a bias
_SUMS = ScoreRows(finite=lambda node, context: True)

register(
    replace(linear_rule("Gemm", _gemm, beside=True), expects=_gemm_expects, optional_bias=_gemm_bias, rows=_SUMS),
    replace(
        _BY_MATRIX,
        evaluate=_matmul_value,
        dispatch=_choose,
        variants=(_BY_MATRIX, _OF_TENSORS),
        expects=_matmul_expects,
        rows=_SUMS,
    ),
)
