"""MatMulNBits of onnxruntime: ``A W'`` with rows of W as blocks of 2, 4 or 8 bits, each block with a scale.

W [N, K] is stored as bytes [N, blocks, bytes of a block], the first code in the lowest bits. A code q stands for
``(q - zero) * scale``, where zero is the middle of its range unless zero points are given: packed as the codes are, row
by row, or as numbers of the scales' type. Rows are sliced; columns leave in whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxsqueeze.abstract.compact import Array, Bools
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.linear.coded import shifted
from onnxsqueeze.operators.linear.rule import linear_rule, link, need
from onnxsqueeze.operators.linear.view import constants, linear_view
from onnxsqueeze.operators.quantization.packing import BYTE, first_of_block, repacked, unpacked
from onnxsqueeze.rules.channels import channel_ids
from onnxsqueeze.rules.contract import Context, Demand, Refusal
from onnxsqueeze.rules.lessons import FoldOverflow
from onnxsqueeze.rules.memo import per_node
from onnxsqueeze.rules.parameter import Parameter, Role
from onnxsqueeze.rules.parameters import along, placed
from onnxsqueeze.rules.registry import register
from onnxsqueeze.rules.rewriter import Offset, Rewriter
from onnxsqueeze.rules.weight_view import Linear

_WEIGHT, _SCALES, _ZEROS, _ORDER, _BIAS = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class _Packed:
    """The stored constants of a node, unpacked.

    Attributes:
        blocks: bytes [N, blocks, bytes of a block]. scales: [N, blocks]. zeros: [N, blocks], numbers or codes; None
            where there are none.
        size: of a block. bits: of a code. columns: K.
    """

    blocks: Array
    scales: Array
    zeros: Array | None
    size: int
    bits: int
    columns: int

    @property
    def matrix(self) -> Array:
        """Return W [N, K] in the type of the scales."""
        codes = unpacked(self.blocks, self.bits)[..., : self.size].astype(np.float64)
        middle = float(1 << (self.bits - 1))
        zeros = middle if self.zeros is None else self.zeros[:, :, None].astype(np.float64)
        real = ((codes - zeros) * self.scales[:, :, None].astype(np.float64)).reshape(len(codes), -1)
        return np.asarray(real[:, : self.columns].astype(self.scales.dtype))


@per_node
def _packed(node: Node, context: Context) -> _Packed | Refusal:
    """Read the constants of a node."""
    weight, scales = (context.value(node.input(position)) for position in (_WEIGHT, _SCALES))
    zeros = context.value(node.input(_ZEROS)) if node.input(_ZEROS) else None
    if weight is None or scales is None or (zeros is None and node.input(_ZEROS)):
        return Refusal(Reason.COMPUTED_WEIGHT, node.operator)
    bits, size = int(node.attributes.get("bits", 4)), int(node.attributes["block_size"])
    rows, columns = int(node.attributes["N"]), int(node.attributes["K"])
    count = -(-columns // size)
    if bits not in (2, 4, 8) or node.input(_ORDER) or weight.dtype != np.uint8:
        return Refusal(Reason.UNSUPPORTED_DTYPE, f"{node.operator} of {bits} bits, or in another order")
    if weight.shape != (rows, count, size * bits // BYTE) or scales.size != rows * count:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    if zeros is not None:
        if zeros.dtype == np.uint8:
            zeros = unpacked(zeros.reshape(rows, -1), bits)[:, :count]
        if zeros.size != rows * count:
            return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
        zeros = zeros.reshape(rows, count)
    return _Packed(weight, scales.reshape(rows, count), zeros, size, bits, columns)


@linear_view
def _view(node: Node, context: Context) -> Linear | Refusal:
    found, rank = _packed(node, context), context.rank(node.inputs[0])
    if isinstance(found, Refusal):
        return found
    if not rank or context.shape(node.inputs[0])[-1] != found.columns:
        return Refusal(Reason.UNKNOWN_SHAPE, node.operator)
    return Linear(
        data=node.inputs[0],
        weight=node.inputs[_WEIGHT],
        bias=node.input(_BIAS),
        position=_WEIGHT,
        data_axis=rank - 1,
        output_axis=rank - 1,
        matrix=found.matrix[None, :, :, None],
        zero_padded=False,
        restore=lambda array: array[0, :, :, 0],
        bias_position=-1,
    )


def _seen(node: Node, context: Context) -> tuple[Linear, _Packed]:
    linear, found = _view(node, context), _packed(node, context)
    assert isinstance(linear, Linear) and isinstance(found, _Packed)
    return linear, found


def _link(node: Node, context: Context) -> None:
    """The channels of a block leave together."""
    linear, found = _seen(node, context)
    link(node, context, linear)
    inputs = channel_ids(context, linear.data, linear.data_axis)
    if inputs.size > 1:
        context.elements.union(inputs, inputs[first_of_block(inputs.size, found.size)])


def _need(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    demands = need(node, context, _seen(node, context)[0], outputs)
    return [demand and replace(demand, folds=None) for demand in demands]  # no code stands for what others were


def _repair(node: Node, context: Context, rewriter: Rewriter) -> None:
    """Slice rows and blocks, and let a bias or a sum take up what removed constants added."""
    linear, found = _seen(node, context)
    inputs, outputs = (
        np.broadcast_to(rewriter.kept(name, linear.data_axis), (length,))
        for name, length in ((linear.data, found.columns), (node.outputs[0], len(found.blocks)))
    )
    values = np.where(inputs, 0.0, np.nan_to_num(constants(linear, context)[0]))
    taken = rewriter.deferred_offset(linear.data)
    if taken is not None:
        values[inputs] = np.broadcast_to(taken.vector, (int(inputs.sum()),))
    shift = shifted(linear, values[None])[0][outputs]
    if not (inputs.all() and outputs.all()):
        _slice(node, rewriter, found, outputs, inputs[:: found.size], int(inputs.sum()))
    bias = context.value(linear.bias) if linear.bias else None
    lesson = partial(FoldOverflow, linear.data) if taken is None else taken.lesson
    if bias is not None and (shift.any() or not outputs.all()):
        total = bias[outputs].astype(np.float64) + shift
        rewriter.check_finite(total, bias.dtype, lesson)
        rewriter.set_constant(node, _BIAS, total.astype(bias.dtype))
    elif bias is None and shift.any():
        rewriter.offset(node, Offset(linear.output_axis, shift, lesson), -1, rewriter.dtype(node.outputs[0]))


def _slice(node: Node, rewriter: Rewriter, found: _Packed, rows: Bools, blocks: Bools, columns: int) -> None:
    flat = rewriter.constant_at(node, _SCALES)
    assert flat is not None
    scales = found.scales[rows][:, blocks]
    rewriter.set_constant(node, _WEIGHT, found.blocks[rows][:, blocks])
    rewriter.set_constant(node, _SCALES, scales if flat.ndim > 1 else scales.reshape(-1))
    stored = rewriter.constant_at(node, _ZEROS)
    if found.zeros is not None and stored is not None:
        zeros = found.zeros[rows][:, blocks]
        zeros = repacked(zeros, found.bits) if stored.dtype == np.uint8 else zeros.astype(stored.dtype)
        rewriter.set_constant(node, _ZEROS, zeros if stored.ndim > 1 else zeros.reshape(-1))
    rewriter.set_attribute(node, "N", int(rows.sum()))
    rewriter.set_attribute(node, "K", columns)


def _parameters(node: Node, context: Context) -> list[Parameter]:
    """The bytes of the weight with its scales, and the bias."""
    linear, found = _seen(node, context)
    output, axis = node.outputs[0], linear.output_axis
    rows = along(context, output, axis)
    columns = along(context, linear.data, axis)
    blocks = columns[:: found.size] if columns.size > 1 else columns
    others = tuple(place for place in range(context.rank(output)) if place != axis)
    weight = (placed(rows, 3, 0), placed(blocks, 3, 1))
    listed = [Parameter(linear.weight, _WEIGHT, Role.WEIGHT, weight, (output, others), packed=BYTE // found.bits)]
    for position in (_SCALES, _ZEROS):
        if node.input(position):
            value = context.value(node.input(position))
            own = weight[:1] if value is not None and value.ndim > 1 else ()
            classes = tuple(array.reshape(-1, 1) for array in own)
            listed.append(Parameter(node.inputs[position], position, Role.OPERAND, classes))
    if linear.bias:
        listed.append(Parameter(linear.bias, _BIAS, Role.SUMMAND, (rows,)))
    return listed


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    shape = context.shapes.get(node.inputs[0])
    return [None if not shape else (*shape[:-1], int(node.attributes["N"]))]


register(
    replace(
        linear_rule("MatMulNBits", _view),
        domain="com.microsoft",
        infer=_infer,
        link=_link,
        need=_need,
        repair=_repair,
        parameters=_parameters,
        reconstructs=None,
        adopts=None,
        narrows=False,
    )
)
